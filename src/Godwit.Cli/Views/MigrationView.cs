using System.Text.Json;

namespace Godwit.Cli;

/// <summary>What <c>query-migrate</c> says, as far as people look at it.</summary>
internal sealed record MigrationView
{
    public string Status { get; private init; } = "none";

    public string? Error { get; private init; }

    public TimeSpan TotalTime { get; private init; }

    public TimeSpan SetupTime { get; private init; }

    public TimeSpan? ExpectedDowntime { get; private init; }

    public TimeSpan DowntimeLimit { get; private init; }

    /// <summary>Per cent of the time in which vCPUs do not execute, so that pre-copy converges.</summary>
    public long ThrottlePercent { get; private init; }

    public long RamTotal { get; private init; }

    public long RamRemaining { get; private init; }

    public long RamTransferred { get; private init; }

    /// <summary>RAM that went over by descriptor, without being copied.</summary>
    public long RamByFile { get; private init; }

    public long NormalPages { get; private init; }

    public long ZeroPages { get; private init; }

    public long DeviceStateBytes { get; private init; }

    public long MachineStateBytes { get; private init; }

    public long OverheadBytes { get; private init; }

    public double BytesPerSecond { get; private init; }

    public double DirtyVcpu { get; private init; }

    public double DirtyDevice { get; private init; }

    public double DirtyVmm { get; private init; }

    public long LogReports { get; private init; }

    public long MappingsLive { get; private init; }

    /// <summary>Mappings announced since the machine started; null without a vIOMMU.</summary>
    public long? Mapped { get; private init; }

    /// <summary>Mappings withdrawn likewise.</summary>
    public long? Unmapped { get; private init; }

    public IReadOnlyList<KeyValuePair<string, string>> DeviceStates { get; private init; } = [];

    /// <summary>Parts of the downtime in order, without the total; empty while there was none.</summary>
    public IReadOnlyList<KeyValuePair<string, TimeSpan>> DowntimeParts { get; private init; } = [];

    /// <summary>Parts of the expected downtime in order, without the total; empty while there is none. Stays as it was when it is over.</summary>
    public IReadOnlyList<KeyValuePair<string, TimeSpan>> ExpectedParts { get; private init; } = [];

    public TimeSpan? Downtime { get; private init; }

    public TimeSpan Verification { get; private init; }

    /// <summary>Null when pages were not compared.</summary>
    public long? PagesCompared { get; private init; }

    public long PagesDiffering { get; private init; }

    public IReadOnlyList<string> FirstDifferences { get; private init; } = [];

    public long Rounds { get; private init; }

    /// <summary>Rounds in a row that left as much to send as they found, once there are enough to say that it will not converge so; else 0.</summary>
    public long OutpacedRounds { get; private init; }

    /// <summary>What is in the way then.</summary>
    public string Obstacle { get; private init; } = "none";

    /// <summary>Most pages in any round that were sent because nothing told whether a device had written them.</summary>
    public long UncoveredPages { get; private init; }

    public IReadOnlyList<string> BlockedReasons { get; private init; } = [];

    /// <summary>Reasons against a handover.</summary>
    public IReadOnlyList<string> HandoverBlockedReasons { get; private init; } = [];

    public string? ListeningAt { get; private init; }

    /// <summary>Mappings made and withdrawn since the machine started.</summary>
    public long MappingChanges => (Mapped ?? 0) + (Unmapped ?? 0);

    public bool Completed => Status == "completed";

    /// <summary>Whether it will change no more.</summary>
    public bool Ended => Status is "completed" or "failed" or "cancelled";

    public bool Running => Status is "setup" or "active" or "pre-switchover" or "device" or "cancelling";

    public static MigrationView From(JsonElement reply)
    {
        JsonElement extras = reply.At("x-godwit");
        JsonElement parts = extras.At("downtime-microseconds");
        return new MigrationView
        {
            Status = reply.Text("status") ?? "none",
            Error = reply.Text("error-desc"),
            TotalTime = TimeSpan.FromMilliseconds(reply.Long("total-time")),
            SetupTime = TimeSpan.FromMilliseconds(reply.Long("setup-time")),
            ExpectedDowntime = reply.MaybeLong("expected-downtime") is { } expected ? TimeSpan.FromMilliseconds(expected) : null,
            DowntimeLimit = TimeSpan.FromMilliseconds(extras.Long("downtime-limit")),
            ThrottlePercent = reply.Long("cpu-throttle-percentage"),
            RamTotal = reply.Long("ram", "total"),
            RamRemaining = reply.Long("ram", "remaining"),
            RamTransferred = reply.Long("ram", "transferred"),
            RamByFile = extras.Long("bytes", "ram-by-file"),
            NormalPages = reply.Long("ram", "normal"),
            ZeroPages = reply.Long("ram", "duplicate"),
            DeviceStateBytes = extras.Long("bytes", "device-state"),
            MachineStateBytes = extras.Long("bytes", "machine-state"),
            OverheadBytes = extras.Long("bytes", "overhead"),
            BytesPerSecond = extras.Double("bytes-per-second"),
            DirtyVcpu = extras.Double("dirty-pages-per-second", "vcpu"),
            DirtyDevice = extras.Double("dirty-pages-per-second", "device"),
            DirtyVmm = extras.Double("dirty-pages-per-second", "vmm"),
            LogReports = extras.Long("log-reports"),
            MappingsLive = extras.Long("mappings", "live"),
            Mapped = extras.MaybeLong("mappings", "mapped"),
            Unmapped = extras.MaybeLong("mappings", "unmapped"),
            DeviceStates = [.. Members(extras.At("device-states")).Select(member => KeyValuePair.Create(member.Name, member.Value.GetString() ?? "?"))],
            DowntimeParts = Parts(parts),
            ExpectedParts = Parts(extras.At("expected-downtime-microseconds")),
            Downtime = parts.MaybeLong("total") is { } total ? TimeSpan.FromMicroseconds(total) : null,
            Verification = TimeSpan.FromMicroseconds(extras.Long("verification-microseconds")),
            PagesCompared = extras.MaybeLong("verification", "pages-compared"),
            PagesDiffering = extras.Long("verification", "pages-differing"),
            FirstDifferences = extras.Texts("verification", "first-differences"),
            Rounds = reply.Long("ram", "dirty-sync-count"),
            OutpacedRounds = extras.At("convergence", "outpaced").ValueKind == JsonValueKind.True ? extras.Long("convergence", "rounds-without-progress") : 0,
            Obstacle = extras.Text("convergence", "obstacle") ?? "none",
            UncoveredPages = extras.At("rounds") is { ValueKind: JsonValueKind.Array } rounds
                ? rounds.EnumerateArray().Select(round => round.Long("uncovered-pages")).DefaultIfEmpty().Max()
                : 0,
            BlockedReasons = reply.Texts("blocked-reasons"),
            HandoverBlockedReasons = Blockers(extras.At("handover-blockers")),
            ListeningAt = extras.Text("listening-at"),
        };
    }

    private static IReadOnlyList<KeyValuePair<string, TimeSpan>> Parts(JsonElement parts) =>
    [
        .. Members(parts).Where(member => member.Name != "total")
            .Select(member => KeyValuePair.Create(member.Name, TimeSpan.FromMicroseconds(member.Value.GetInt64()))),
    ];

    /// <summary>Each as <c>blocked-reasons</c> would have it.</summary>
    private static IReadOnlyList<string> Blockers(JsonElement list) => list.ValueKind != JsonValueKind.Array
        ? []
        : [.. list.EnumerateArray().Select(one => $"{one.Text("subject")}: {one.Text("reason")} [{one.Text("code")}]. {one.Text("way-out")}")];

    private static JsonElement.ObjectEnumerator Members(JsonElement element) =>
        element.ValueKind == JsonValueKind.Object ? element.EnumerateObject() : default;
}
