using System.CommandLine;
using System.CommandLine.Help;
using System.CommandLine.Invocation;

namespace Godwit.Cli;

/// <summary>A command with one line for lists and a page for its own <c>--help</c>.</summary>
internal sealed class DocumentedCommand(string name, string summary, Func<string> page) : Command(name, summary)
{
    /// <summary>Printed below the options.</summary>
    public string Page => page();
}

/// <summary>The library's help, followed by the command's page.</summary>
internal sealed class DocumentedHelpAction(HelpAction usual) : SynchronousCommandLineAction
{
    public override bool ClearsParseErrors => true;

    /// <summary>Puts it in the place of the library's help of <paramref name="root"/> and everything below.</summary>
    public static void Install(RootCommand root)
    {
        foreach (HelpOption option in root.Options.OfType<HelpOption>())
        {
            option.Action = new DocumentedHelpAction((HelpAction)option.Action!);
        }
    }

    public override int Invoke(ParseResult parseResult)
    {
        int result = usual.Invoke(parseResult);
        if (parseResult.CommandResult.Command is DocumentedCommand command)
        {
            parseResult.InvocationConfiguration.Output.WriteLine(command.Page);
        }

        return result;
    }
}
