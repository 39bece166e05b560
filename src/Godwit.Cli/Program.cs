using System.CommandLine;
using System.CommandLine.Parsing;
using Godwit.Interop.Linux;
using Godwit.Monitor;

namespace Godwit.Cli;

/// <summary>Entry point: parses, runs one command, turns failures into one line and an exit code.</summary>
internal static class Program
{
    private static async Task<int> Main(string[] args)
    {
        ParseResult parsed = GodwitCommand.Create().Parse(args, new ParserConfiguration { ResponseFileTokenReplacer = null });
        if (parsed.Errors.Count > 0)
        {
            // A wrong word is also a missing command, which says less.
            string errors = string.Join("; ", Specific(parsed).Select(OneLine));
            await Console.Error.WriteLineAsync($"godwit: {errors} (see '{Path(parsed.CommandResult)} --help')");
            return ExitCodes.Usage;
        }

        try
        {
            // Signals are each command's own business: run, device, migrate and demo end in different ways.
            var invocation = new InvocationConfiguration { EnableDefaultExceptionHandler = false, ProcessTerminationTimeout = null };
            return await parsed.InvokeAsync(invocation);
        }
        catch (Exception e) when (IsForTheUser(e))
        {
            await Console.Error.WriteLineAsync($"godwit: {OneLine(e.Message)}");
            return ExitCodes.Failed;
        }
    }

    private static List<string> Specific(ParseResult parsed)
    {
        List<string> all = [.. parsed.Errors.Select(error => error.Message)];
        List<string> specific = parsed.UnmatchedTokens.Count == 0 ? all : [.. all.Where(error => !error.StartsWith("Required command", StringComparison.Ordinal))];
        return specific.Count == 0 ? all : specific;
    }

    /// <summary>Failures whose text was written for people. Anything else is a bug and shows its stack trace.</summary>
    private static bool IsForTheUser(Exception e) =>
        e is CliException or QmpException or IOException or LinuxException or UnauthorizedAccessException or TimeoutException;

    private static string OneLine(string text) => text.ReplaceLineEndings(" ").Trim();

    private static string Path(CommandResult command) =>
        command.Parent is CommandResult parent ? $"{Path(parent)} {command.Command.Name}" : "godwit";
}
