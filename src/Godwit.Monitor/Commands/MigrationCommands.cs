using System.Text.Json;
using Godwit.Machine;
using Godwit.Migration;

namespace Godwit.Monitor;

/// <summary>Commands that start, steer and watch migrations.</summary>
internal sealed class MigrationCommands(VirtualMachine machine)
{
    private const long LongestDowntimeMilliseconds = 2_000_000;
    private const long LongestPrecopyMilliseconds = 24L * 60 * 60 * 1000;

    private readonly Lock _parameters = new();

    public void AddTo(QmpCommandTable commands)
    {
        // Blocking: both ask devices for their limits before they answer.
        commands.AddBlocking("migrate", Migrate, "uri", "channels");
        commands.AddBlocking("query-migrate", QueryMigrate);

        commands.AddBlocking("migrate-recover", Recover, "uri");
        commands.Add("migrate-continue", Continue, "state");
        commands.Add("migrate-start-postcopy", (_, _) => throw MigrationCapabilities.PostCopyRefused(machine));
        new MigrationCapabilities(machine, _parameters).AddTo(commands);

        commands.Add("migrate_cancel", (_, _) => machine.Migration.Cancel());
        commands.Add("migrate-incoming", MigrateIncoming, "uri", "channels");
        commands.Add(
            "migrate-set-parameters",
            SetParameters,
            "max-bandwidth",
            "downtime-limit",
            "x-verify-pages",
            "x-max-rounds",
            "x-min-precopy",
            "multifd-channels",
            "multifd-compression",
            "x-on-stall",
            "x-max-downtime",
            "max-cpu-throttle",
            "x-tls-directory",
            "x-tls-peers");
        commands.Add("query-migrate-parameters", QueryParameters);
    }

    private void Migrate(QmpArguments arguments, Utf8JsonWriter result) => machine.Migration.Start(MigrationUri.From(arguments));

    private void MigrateIncoming(QmpArguments arguments, Utf8JsonWriter result) => machine.StartIncoming(MigrationUri.From(arguments));

    private void Recover(QmpArguments arguments, Utf8JsonWriter result) => machine.Migration.Retry(arguments.FindString("uri"));

    private void Continue(QmpArguments arguments, Utf8JsonWriter result)
    {
        string state = arguments.RequireString("state");
        if (state != QmpNames.PreSwitchover)
        {
            throw new QmpException($"Argument 'state' is '{state}'; the only state that waits is '{QmpNames.PreSwitchover}'");
        }

        machine.Migration.Continue();
    }

    private void QueryMigrate(QmpArguments arguments, Utf8JsonWriter result) =>
        MigrationStatusWriter.Write(
            result,
            machine.Migration.Status,
            machine.Migration.ListeningAt,
            machine.QueryBlockers(),
            machine.QueryHandoverBlockers(),
            machine.Devices.Count,
            machine.IommuChurn);

    private void SetParameters(QmpArguments arguments, Utf8JsonWriter result)
    {
        long? bandwidth = arguments.FindInteger("max-bandwidth", 0, long.MaxValue);
        long? downtime = arguments.FindInteger("downtime-limit", 1, LongestDowntimeMilliseconds);
        bool? verify = arguments.FindBoolean("x-verify-pages");
        long? rounds = arguments.FindInteger("x-max-rounds", 1, int.MaxValue);
        long? precopy = arguments.FindInteger("x-min-precopy", 0, LongestPrecopyMilliseconds);

        long? channels = arguments.FindInteger("multifd-channels", 1, StreamFormat.MaxChannels);
        PageCompression? compression = arguments.FindString("multifd-compression") is { } method ? QmpNames.ToPageCompression(method) : null;
        StallAction? onStall = arguments.FindString("x-on-stall") is { } action ? QmpNames.ToStallAction(action) : null;
        long? maxDowntime = arguments.FindInteger("x-max-downtime", 1, LongestDowntimeMilliseconds);
        long? maxThrottle = arguments.FindInteger("max-cpu-throttle", 1, 99);
        string? tlsDirectory = arguments.FindString("x-tls-directory");
        string? tlsPeers = arguments.FindString("x-tls-peers");

        // Two clients may each set one parameter at the same time.
        lock (_parameters)
        {
            MigrationParameters now = machine.Migration.Parameters;
            machine.Migration.Parameters = now with
            {
                Channels = (int?)channels ?? now.Channels,
                Compression = compression ?? now.Compression,
                OnStall = onStall ?? now.OnStall,
                MaxDowntime = maxDowntime is { } most ? TimeSpan.FromMilliseconds(most) : now.MaxDowntime,
                MaxThrottle = (int?)maxThrottle ?? now.MaxThrottle,
                Tls = tlsDirectory is null && tlsPeers is null ? now.Tls : Tls(now.Tls, tlsDirectory, tlsPeers),
                MaxBandwidth = bandwidth ?? now.MaxBandwidth,
                DowntimeLimit = downtime is { } limit ? TimeSpan.FromMilliseconds(limit) : now.DowntimeLimit,
                VerifyPages = verify ?? now.VerifyPages,
                MaxRounds = (int?)rounds ?? now.MaxRounds,
                MinimumPrecopy = precopy is { } time ? TimeSpan.FromMilliseconds(time) : now.MinimumPrecopy,
            };
        }
    }

    /// <summary>What is not given stays; an empty directory turns TLS off.</summary>
    private static TlsCredentials? Tls(TlsCredentials? now, string? directory, string? peers)
    {
        directory ??= now?.Directory ?? throw new QmpException("Argument 'x-tls-peers' needs 'x-tls-directory'");
        IReadOnlyList<string> names = peers is null
            ? now?.Peers ?? []
            : peers.Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries);
        return directory.Length == 0 ? null : TlsCredentials.Load(directory, names);
    }

    private void QueryParameters(QmpArguments arguments, Utf8JsonWriter result)
    {
        MigrationParameters now = machine.Migration.Parameters;
        result.WriteStartObject();
        result.WriteNumber("max-bandwidth", now.MaxBandwidth);
        result.WriteNumber("downtime-limit", (long)now.DowntimeLimit.TotalMilliseconds);
        result.WriteBoolean("x-verify-pages", now.VerifyPages);
        result.WriteNumber("x-max-rounds", now.MaxRounds);
        result.WriteNumber("x-min-precopy", (long)now.MinimumPrecopy.TotalMilliseconds);
        result.WriteNumber("multifd-channels", now.Channels);
        result.WriteString("multifd-compression", QmpNames.Of(now.Compression));
        result.WriteString("x-on-stall", QmpNames.Of(now.OnStall));
        result.WriteNumber("x-max-downtime", (long)now.MaxDowntime.TotalMilliseconds);
        result.WriteNumber("max-cpu-throttle", now.MaxThrottle);
        result.WriteString("x-tls-directory", now.Tls?.Directory ?? "");
        result.WriteString("x-tls-peers", string.Join(',', now.Tls?.Peers ?? []));
        result.WriteEndObject();
    }
}
