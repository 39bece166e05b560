using System.Globalization;
using System.Text;
using System.Text.Json;

namespace Godwit.Cli;

/// <summary>A finished migration as one self-contained page: figures, charts over time, the downtime's parts, the rounds.</summary>
internal static class MigrationReport
{
    private const double PageBytes = 4096;

    private static readonly string[] PartStyles = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

    /// <summary>Makes the page, which is well-formed XML too.</summary>
    /// <param name="reply">The last answer to <c>query-migrate</c>.</param>
    /// <param name="trace">What was seen on the way.</param>
    /// <param name="target">Where it went.</param>
    /// <param name="end">When it ended.</param>
    public static string Create(JsonElement reply, MigrationTrace trace, string target, DateTimeOffset end)
    {
        MigrationView view = MigrationView.From(reply);
        var html = new StringBuilder();
        html.Append("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n");
        html.Append("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n");
        html.Append($"<title>Migration to {Html.Text(target)}: {Html.Text(view.Status)}</title>\n<style>\n{ReportStyle.Css}\n</style>\n</head>\n<body>\n");
        WriteHead(html, view, target, end);
        WriteCharts(html, view, trace.Samples);
        WriteDowntime(html, view);
        WriteRounds(html, reply.At("x-godwit", "rounds"));
        html.Append("</body>\n</html>\n");
        return html.ToString();
    }

    private static void WriteHead(StringBuilder html, MigrationView view, string target, DateTimeOffset end)
    {
        string style = view.Completed ? "good" : "bad";
        html.Append($"<h1>Migration <span class=\"{style}\">{Html.Text(view.Status)}</span></h1>\n");
        html.Append($"<p class=\"soft\">to {Html.Text(target)}, ended {end.ToString("yyyy-MM-dd HH:mm:ss zzz", CultureInfo.InvariantCulture)}</p>\n");
        if (view.Error is { } error)
            html.Append($"<p class=\"bad\">{Html.Text(error)}</p>\n");
        html.Append("<ul class=\"facts\">\n");
        Fact("downtime", view.Downtime is { } downtime ? $"{Duration.Rounded(downtime)}" : "none", view.Downtime > view.DowntimeLimit);
        Fact("allowed", Duration.Rounded(view.DowntimeLimit));
        Fact("total time", Duration.Rounded(view.TotalTime));
        Fact("rounds", $"{view.Rounds}");
        Fact("RAM sent", ByteSize.Rounded(view.RamTransferred));
        if (view.RamByFile > 0)
            Fact("RAM handed over", ByteSize.Rounded(view.RamByFile));
        Fact("RAM of the guest", ByteSize.Rounded(view.RamTotal));
        Fact("device state", ByteSize.Rounded(view.DeviceStateBytes));
        Fact("device log reports", $"{view.LogReports}");
        if (view.PagesCompared is { } pages)
            Fact("pages compared, differing", $"{pages}, {view.PagesDiffering}");
        html.Append("</ul>\n");

        void Fact(string name, string value, bool bad = false) =>
            html.Append($"<li><b{(bad ? " class=\"bad\"" : "")}>{Html.Text(value)}</b><span>{Html.Text(name)}</span></li>\n");
    }

    private static void WriteCharts(StringBuilder html, MigrationView view, IReadOnlyList<TraceSample> samples)
    {
        if (samples.Count < 2)
        {
            html.Append("<p class=\"soft\">It was over before there was anything to draw.</p>\n");
            return;
        }

        Axis time = Axis.UpTo(samples[^1].At.TotalSeconds, 10);
        ChartLine[] rates =
        [
            Line("sent", "a", sample => sample.Sent),
            Line("dirtied by vCPUs", "b", sample => sample.View.DirtyVcpu * PageBytes),
            Line("dirtied by devices", "c", sample => sample.View.DirtyDevice * PageBytes),
            Line("dirtied by the VMM", "d", sample => sample.View.DirtyVmm * PageBytes),
        ];
        html.Append("<h2>Throughput and dirty rate</h2>\n<p class=\"soft\">Bytes a second. Zero pages count as the few bytes they take.</p>\n");
        new LineChart(time, Axis.FromZero(Most(rates) / (1 << 20), 5), value => $"{value:0.##} MiB/s")
            .Write(html, "Throughput and dirty rate over time", [.. rates.Select(line => Scaled(line, 1.0 / (1 << 20)))]);

        ChartLine[] remaining = [Scaled(Line("remaining", "a", sample => sample.Remaining), 1.0 / (1 << 20))];
        html.Append("<h2>Memory that remains to be sent</h2>\n<p class=\"soft\">It rises where a round begins and finds new dirty pages.</p>\n");
        new LineChart(time, Axis.FromZero(Most(remaining), 5), value => $"{value:0.##} MiB").Write(html, "Remaining memory over time", remaining);

        ChartLine[] expected = [Line("expected if it stopped now", "e", sample => sample.View.ExpectedDowntime?.TotalMilliseconds ?? double.NaN)];
        double limit = view.DowntimeLimit.TotalMilliseconds;
        html.Append("<h2>Expected downtime</h2>\n<p class=\"soft\">By powers of ten. The machine is stopped when the line is below the limit.</p>\n");
        new LineChart(time, Axis.Decades([limit, .. expected[0].Points.Select(point => point.Value)]), value => value < 1000 ? $"{value:0.###} ms" : $"{value / 1000:0} s")
            .Write(html, "Expected downtime over time", expected, (limit, "allowed"));

        ChartLine Line(string name, string style, Func<TraceSample, double> value) =>
            new(name, style, [.. samples.Select(sample => (sample.At.TotalSeconds, value(sample)))]);
    }

    private static void WriteDowntime(StringBuilder html, MigrationView view)
    {
        if (view.Downtime is not { } downtime || view.DowntimeParts.Count == 0)
            return;
        const double Width = 920;
        double whole = Math.Max(view.DowntimeParts.Sum(part => part.Value.TotalMilliseconds), double.Epsilon);
        html.Append($"<h2>Where the downtime went</h2>\n<svg viewBox=\"0 0 {Width} 34\" role=\"img\" aria-label=\"Parts of the downtime\">\n");
        double x = 0;
        for (int i = 0; i < view.DowntimeParts.Count; i++)
        {
            (string name, TimeSpan part) = view.DowntimeParts[i];
            double width = part.TotalMilliseconds / whole * Width;
            html.Append($"<rect class=\"part {PartStyles[i % PartStyles.Length]}\" x=\"{x:0.00}\" y=\"2\" width=\"{Math.Max(width - 1, 0):0.00}\" height=\"30\">");
            html.Append($"<title>{Html.Text(name)}: {Duration.Rounded(part)}</title></rect>\n");
            x += width;
        }

        html.Append("</svg>\n<div class=\"wide\"><table>\n<tr><th>part</th><th>time</th><th>share</th></tr>\n");
        for (int i = 0; i < view.DowntimeParts.Count; i++)
        {
            (string name, TimeSpan part) = view.DowntimeParts[i];
            html.Append($"<tr><td><span class=\"key {PartStyles[i % PartStyles.Length]}\"></span>{Html.Text(name)}</td>");
            html.Append($"<td>{Duration.Rounded(part)}</td><td>{part.TotalMilliseconds / whole:P0}</td></tr>\n");
        }

        html.Append($"<tr><td><b>downtime</b></td><td><b>{Duration.Rounded(downtime)}</b></td><td></td></tr>\n</table></div>\n");
        WriteExpected(html, view);
        if (view.Verification > TimeSpan.Zero)
            html.Append($"<p class=\"soft\">Beside it, {Duration.Rounded(view.Verification)} for comparing the pages of both sides.</p>\n");
    }

    /// <summary>What was expected when the machine was stopped, beside what it was.</summary>
    private static void WriteExpected(StringBuilder html, MigrationView view)
    {
        if (view.ExpectedParts.Count == 0)
            return;
        html.Append("<h3>Expected and measured</h3>\n<p class=\"soft\">The expectation on which the machine was stopped. Stopping is assumed; loading is what the destination measured ahead.</p>\n");
        html.Append("<div class=\"wide\"><table>\n<tr><th>part</th><th>expected</th><th>measured</th></tr>\n");
        foreach ((string name, TimeSpan expected) in view.ExpectedParts)
            html.Append($"<tr><td>{Html.Text(name)}</td><td>{Duration.Rounded(expected)}</td><td>{Duration.Rounded(Measured(name))}</td></tr>\n");
        TimeSpan total = view.ExpectedParts.Aggregate(TimeSpan.Zero, (sum, part) => sum + part.Value);
        html.Append($"<tr><td><b>downtime</b></td><td><b>{Duration.Rounded(total)}</b></td><td><b>{Duration.Rounded(view.Downtime ?? TimeSpan.Zero)}</b></td></tr>\n</table></div>\n");

        TimeSpan Measured(string name)
        {
            string[] parts = name switch
            {
                "stop" => ["stop-vcpus", "stop-devices"],
                "last-report" => ["final-sync"],
                "pages" => ["final-pages"],
                "state" => ["device-state", "machine-state"],
                _ => [name],
            };
            return view.DowntimeParts.Where(part => parts.Contains(part.Key)).Aggregate(TimeSpan.Zero, (sum, part) => sum + part.Value);
        }
    }

    private static void WriteRounds(StringBuilder html, JsonElement rounds)
    {
        if (rounds.ValueKind != JsonValueKind.Array || rounds.GetArrayLength() == 0)
            return;
        html.Append("<h2>Rounds</h2>\n<p class=\"soft\">The first, which sends all of memory, and the latest ones. Dirty pages are those found when the round began.</p>\n");
        html.Append("<div class=\"wide\"><table>\n<tr><th>round</th><th>time</th><th>pages</th><th>zero pages</th><th>bytes</th><th>rate</th>");
        html.Append("<th>dirty: vCPU</th><th>device</th><th>VMM</th><th>reports</th><th>remaining</th><th>expected downtime</th></tr>\n");
        foreach (JsonElement round in rounds.EnumerateArray())
        {
            html.Append($"<tr><td>{round.Long("number")}</td><td>{Duration.Rounded(Microseconds("duration-microseconds"))}</td>");
            html.Append($"<td>{round.Long("pages")}</td><td>{round.Long("zero-pages")}</td><td>{ByteSize.Rounded(round.Long("bytes"))}</td>");
            html.Append($"<td>{ByteSize.Rounded(round.Double("bytes-per-second"))}/s</td><td>{round.Long("dirty-vcpu")}</td><td>{round.Long("dirty-device")}</td>");
            html.Append($"<td>{round.Long("dirty-vmm")}</td><td>{round.Long("log-reports")}</td><td>{round.Long("remaining-pages")}</td>");
            html.Append($"<td>{Duration.Rounded(Microseconds("expected-downtime-microseconds"))}</td></tr>\n");

            TimeSpan Microseconds(string name) => TimeSpan.FromMicroseconds(Math.Min(round.Long(name), TimeSpan.MaxValue.Ticks / TimeSpan.TicksPerMicrosecond));
        }

        html.Append("</table></div>\n");
    }

    private static double Most(IEnumerable<ChartLine> lines) =>
        lines.SelectMany(line => line.Points).Select(point => point.Value).Where(double.IsFinite).DefaultIfEmpty(0).Max();

    private static ChartLine Scaled(ChartLine line, double factor) =>
        line with { Points = [.. line.Points.Select(point => (point.Time, point.Value * factor))] };
}
