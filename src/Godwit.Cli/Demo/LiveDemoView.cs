using Spectre.Console;

namespace Godwit.Cli;

/// <summary>A demo on a terminal: a picture that changes while the migration runs, then tables.</summary>
internal sealed class LiveDemoView : DemoView
{
    private const int BarWidth = 48;

    public override void Step(string text) => AnsiConsole.MarkupLine($"[grey]•[/] {Markup.Escape(text)}");

    public override async Task<T> FollowAsync<T>(Func<Action<DemoSample, DemoSample>, Task<T>> work)
    {
        T result = default!;
        await AnsiConsole.Live(new Text("waiting for the first figures")).StartAsync(async context =>
            result = await work((begin, now) => context.UpdateTarget(Picture(begin, now))));
        return result;
    }

    public override void Result(DemoResult result)
    {
        foreach (DemoTable table in new[] { DemoTables.Migration(result), DemoTables.Guest(result), DemoTables.Proof(result) })
        {
            AnsiConsole.WriteLine();
            Color color = table.Rows.Any(row => row.Passed is false) ? Color.Red : Color.Green;
            var grid = new Table().Border(TableBorder.Rounded).BorderColor(color).Title(table.Title).HideHeaders().AddColumn("").AddColumn("");
            foreach ((string name, string value, bool? passed) in table.Rows)
            {
                string mark = passed switch { true => "[green]✓[/] ", false => "[red]✗[/] ", null => string.Empty };
                grid.AddRow(new Markup(mark + Markup.Escape(name)), new Text(value));
            }

            AnsiConsole.Write(grid);
        }
    }

    private static Panel Picture(DemoSample begin, DemoSample now)
    {
        MigrationView migration = now.Migration;
        double fraction = MigrationLines.Fraction(migration);
        int full = (int)(fraction * BarWidth);
        var grid = new Grid().AddColumn(new GridColumn().NoWrap().PadRight(2)).AddColumn(new GridColumn().NoWrap());
        void Row(string name, string value) => grid.AddRow(new Markup($"[grey]{name}[/]"), new Markup(value));

        Row("state", $"[bold]{Markup.Escape(migration.Status)}[/], round {migration.Rounds}, {Duration.Rounded(migration.TotalTime)}");
        Row("memory", $"[green]{new string('━', full)}[/][grey]{new string('━', BarWidth - full)}[/] {fraction:P0}");
        Row("remaining", $"{ByteSize.Rounded(migration.RamRemaining)} of {ByteSize.Rounded(migration.RamTotal)}, {ByteSize.Rounded(migration.RamTransferred)} sent");
        Row("throughput", $"{ByteSize.Rounded(migration.BytesPerSecond)}/s");
        Row("dirtied", $"vCPU {migration.DirtyVcpu:0}  device {migration.DirtyDevice:0}  VMM {migration.DirtyVmm:0} pages/s");
        Row("downtime", $"{(migration.ExpectedDowntime is { } expected ? Duration.Rounded(expected) : "–")} expected, {Duration.Rounded(migration.DowntimeLimit)} allowed");
        Row("devices", Markup.Escape(string.Join("  ", migration.DeviceStates.Select(device => $"{device.Key}: {device.Value}"))));
        Row("guest", $"{now.Guest.Io - begin.Guest.Io} I/Os, {now.Guest.Mismatches} mismatches");
        Row("mappings", $"{migration.MappingsLive} live, {migration.MappingChanges - begin.Migration.MappingChanges} changed since the start");
        return new Panel(grid) { Header = new PanelHeader(" migrating "), Border = BoxBorder.Rounded };
    }
}
