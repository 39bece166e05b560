using System.CommandLine;
using System.Text.Json;
using Godwit.Monitor;

namespace Godwit.Cli;

/// <summary><c>godwit status</c>: how a machine is.</summary>
internal static class StatusCommand
{
    public static Command Create()
    {
        Option<string> monitor = CommonOptions.Monitor();
        Option<bool> json = CommonOptions.Json();
        var dirty = new Option<bool>("--dirty")
        {
            Description = "Explain for each device how its writes are followed: source, coverage, limits, what it cost.",
        };
        var command = new DocumentedCommand(
            "status",
            "Show how a machine, its guest, its devices and its migration are.",
            static () => "Example: godwit status --monitor /tmp/src.qmp --dirty")
        {
            monitor, dirty, json,
        };
        command.SetAction(async (parsed, cancellation) =>
        {
            await using QmpClient client = await QmpClient.ConnectAsync(parsed.GetRequiredValue(monitor), cancellation);
            JsonElement name = await client.ExecuteAsync("query-name", cancellation: cancellation);
            JsonElement status = await client.ExecuteAsync("query-status", cancellation: cancellation);
            JsonElement migration = await client.ExecuteAsync("query-migrate", cancellation: cancellation);
            JsonElement guest = await client.ExecuteAsync("x-query-guest", cancellation: cancellation);
            JsonElement devices = await client.ExecuteAsync("x-query-devices", cancellation: cancellation);
            JsonElement tracking = await client.ExecuteAsync("x-godwit-query-dirty", cancellation: cancellation);
            if (parsed.GetValue(json))
            {
                WriteJson(name, status, migration, guest, devices, tracking);
            }
            else
            {
                WriteText(name, status, MigrationView.From(migration), GuestView.From(guest), devices, DirtyView.From(tracking), parsed.GetValue(dirty));
            }

            return ExitCodes.Ok;
        });
        return command;
    }

    private static void WriteJson(JsonElement name, JsonElement status, JsonElement migration, JsonElement guest, JsonElement devices, JsonElement tracking)
    {
        using var writer = new Utf8JsonWriter(Console.OpenStandardOutput(), new JsonWriterOptions { Indented = true });
        writer.WriteStartObject();
        writer.WriteString("name", name.Text("name"));
        Write(writer, "machine", status);
        Write(writer, "migration", migration);
        Write(writer, "guest", guest);
        Write(writer, "devices", devices);
        Write(writer, "dirty-tracking", tracking);
        writer.WriteEndObject();
        writer.Flush();
        Console.WriteLine();
    }

    private static void Write(Utf8JsonWriter writer, string name, JsonElement value)
    {
        writer.WritePropertyName(name);
        value.WriteTo(writer);
    }

    private static void WriteText(
        JsonElement name, JsonElement status, MigrationView migration, GuestView guest, JsonElement devices, IReadOnlyList<DirtyView> tracking, bool explain)
    {
        Console.WriteLine($"machine    {name.Text("name")}: {status.Text("status")}");
        Console.WriteLine(
            $"guest      {guest.Name}: {guest.Phase}; {guest.Io} I/Os, {guest.BlocksVerified} blocks verified, {guest.PagesVerified} pages verified, "
            + $"{guest.Mismatches} mismatches");
        if (guest.Panic is not null)
        {
            Console.WriteLine($"           panic: {guest.Panic}");
        }

        foreach (JsonElement device in devices.EnumerateArray())
        {
            string lost = device.Text("lost") is { } why ? $"; lost: {why}" : string.Empty;
            Console.WriteLine(
                $"device     {device.Text("id")} at {device.Text("address")}: {device.Text("state")}; {device.Long("mappings-live")} mappings, "
                + $"{device.Long("mapped")} made, {device.Long("unmapped")} withdrawn{lost}");
            if (tracking.FirstOrDefault(view => view.Device == device.Text("id")) is { } view)
            {
                WriteTracking(view, explain);
            }
        }

        Console.WriteLine($"migration  {MigrationLines.Summary(migration)}");
        foreach (string reason in migration.BlockedReasons)
        {
            Console.WriteLine($"blocked    {reason}");
        }
    }

    private static void WriteTracking(DirtyView view, bool explain)
    {
        if (!explain)
        {
            Console.WriteLine($"           writes seen by {DirtyLines.Summary(view)}");
            return;
        }

        foreach ((string name, string value) in DirtyLines.Explain(view))
        {
            Console.WriteLine($"  {name,-9} {value}");
        }
    }
}
