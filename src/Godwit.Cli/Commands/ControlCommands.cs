using System.CommandLine;
using System.Text.Json;
using Godwit.Monitor;

namespace Godwit.Cli;

/// <summary><c>godwit stop</c>, <c>cont</c>, <c>powerdown</c>, <c>migrate-continue</c> and <c>quit</c>: one QMP command each.</summary>
internal static class ControlCommands
{
    /// <summary>A command that executes <paramref name="qmp"/>, or what is named as itself.</summary>
    public static Command Create(string name, string description, string? qmp = null, Action<Utf8JsonWriter>? arguments = null)
    {
        Option<string> monitor = CommonOptions.Monitor();
        var command = new DocumentedCommand(name, description, () => $"Example: godwit {name} --monitor /tmp/src.qmp") { monitor };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using QmpClient client = await QmpClient.ConnectAsync(parsed.GetRequiredValue(monitor), cancellation);
            await client.ExecuteAsync(qmp ?? name, arguments, cancellation: cancellation);
            return ExitCodes.Ok;
        });
        return command;
    }
}
