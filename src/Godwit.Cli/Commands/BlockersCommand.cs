using System.CommandLine;
using System.Text.Json;
using Godwit.Monitor;

namespace Godwit.Cli;

/// <summary><c>godwit blockers</c>: what speaks against migrating, before it is tried.</summary>
internal static class BlockersCommand
{
    public static Command Create()
    {
        Option<string> monitor = CommonOptions.Monitor();
        Option<bool> json = CommonOptions.Json();
        var local = new Option<bool>("--local")
        {
            Description = "Reasons against handing the machine over to another process of this host (godwit migrate --local) instead.",
        };
        var command = new DocumentedCommand(
            "blockers",
            "List every reason why a machine cannot be migrated now.",
            static () => "Exit code 0 when there is none, 1 when there are some.\n\nExample: godwit blockers --monitor /tmp/src.qmp")
        {
            monitor, local, json,
        };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using QmpClient client = await QmpClient.ConnectAsync(parsed.GetRequiredValue(monitor), cancellation);
            JsonElement reply = await client.ExecuteAsync("query-migrate", cancellation: cancellation);
            bool handover = parsed.GetValue(local);
            MigrationView view = MigrationView.From(reply);
            IReadOnlyList<string> reasons = handover ? view.HandoverBlockedReasons : view.BlockedReasons;
            if (parsed.GetValue(json))
            {
                Console.WriteLine(reply.TryGetProperty("x-godwit", out JsonElement extras)
                    ? extras.GetProperty(handover ? "handover-blockers" : "blockers").GetRawText()
                    : reply.GetProperty("blocked-reasons").GetRawText());
            }
            else if (reasons.Count == 0)
            {
                Console.WriteLine(handover ? "Nothing blocks a handover." : "Nothing blocks a migration.");
            }
            else
            {
                foreach (string reason in reasons)
                {
                    Console.WriteLine(reason);
                }
            }

            return reasons.Count == 0 ? ExitCodes.Ok : ExitCodes.Failed;
        });
        return command;
    }
}
