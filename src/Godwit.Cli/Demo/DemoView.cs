using Spectre.Console;

namespace Godwit.Cli;

/// <summary>Where a demo shows itself. This one prints plain lines, for logs and pipes.</summary>
internal class DemoView
{
    /// <summary>The view for standard output as it is: live on a terminal, lines otherwise, nothing but the result for JSON.</summary>
    public static DemoView Create(bool json)
    {
        if (json)
        {
            return new JsonDemoView();
        }

        return Console.IsOutputRedirected || !AnsiConsole.Profile.Capabilities.Ansi ? new DemoView() : new LiveDemoView();
    }

    /// <summary>Something begins.</summary>
    public virtual void Step(string text) => Console.WriteLine($"* {text}");

    /// <summary>Output of the processes, when something went wrong.</summary>
    public virtual void Lines(IEnumerable<string> lines)
    {
        foreach (string line in lines)
        {
            Console.Error.WriteLine($"  {line}");
        }
    }

    /// <summary>Shows a migration while <paramref name="work"/> follows it.</summary>
    public virtual Task<T> FollowAsync<T>(Func<Action<DemoSample, DemoSample>, Task<T>> work)
    {
        long round = 0;
        return work((_, now) =>
        {
            if (now.Migration.Rounds != round)
            {
                round = now.Migration.Rounds;
                Console.WriteLine($"  {MigrationLines.Progress(now.Migration)}");
            }
        });
    }

    /// <summary>The result.</summary>
    public virtual void Result(DemoResult result)
    {
        foreach (DemoTable table in new[] { DemoTables.Migration(result), DemoTables.Guest(result), DemoTables.Proof(result) })
        {
            Console.WriteLine();
            Console.WriteLine(table.Title);
            int width = table.Rows.Max(row => row.Name.Length);
            foreach ((string name, string value, bool? passed) in table.Rows)
            {
                string mark = passed switch { true => "ok    ", false => "FAILED", null => string.Empty };
                Console.WriteLine($"  {mark}{(passed is null ? string.Empty : " ")}{name.PadRight(width)}  {value}");
            }
        }
    }
}
