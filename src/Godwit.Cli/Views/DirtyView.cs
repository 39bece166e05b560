using System.Text.Json;

namespace Godwit.Cli;

/// <summary>What <c>x-godwit-query-dirty</c> says of one device.</summary>
internal sealed record DirtyView
{
    public string Device { get; private init; } = string.Empty;

    public string Mode { get; private init; } = string.Empty;

    public string Source { get; private init; } = string.Empty;

    public bool Active { get; private init; }

    public string Coverage { get; private init; } = string.Empty;

    public bool ByUse { get; private init; }

    public long CoveredRanges { get; private init; }

    public double CoveredBytes { get; private init; }

    /// <summary>Part of what the device takes at once, 0 to 1; null when nothing bounds it.</summary>
    public double? BudgetUsed { get; private init; }

    /// <summary>What the device's log accepts, in words; null without a log, and before it was asked.</summary>
    public string? Limits { get; private init; }

    public double MaxSpan { get; private init; }

    public long UncoveredPages { get; private init; }

    public long Rearms { get; private init; }

    public long Syncs { get; private init; }

    public TimeSpan SyncTime { get; private init; }

    public long Reports { get; private init; }

    public long BitsAsked { get; private init; }

    public long PagesReported { get; private init; }

    public long Harvests { get; private init; }

    public long HarvestsPending { get; private init; }

    public static IReadOnlyList<DirtyView> From(JsonElement reply) =>
        reply.ValueKind == JsonValueKind.Array ? [.. reply.EnumerateArray().Select(Of)] : [];

    private static DirtyView Of(JsonElement device) => new()
    {
        Device = device.Text("device") ?? string.Empty,
        Mode = device.Text("mode") ?? string.Empty,
        Source = device.Text("source") ?? string.Empty,
        Active = device.At("active").ValueKind == JsonValueKind.True,
        Coverage = device.Text("coverage", "text") ?? string.Empty,
        ByUse = device.At("coverage", "by-use").ValueKind == JsonValueKind.True,
        CoveredRanges = device.Long("coverage", "ranges"),
        CoveredBytes = device.Double("coverage", "bytes"),
        BudgetUsed = device.At("coverage", "budget-used").ValueKind == JsonValueKind.Number ? device.Double("coverage", "budget-used") : null,
        Limits = device.Text("limits", "text"),
        MaxSpan = device.Double("limits", "max-span"),
        UncoveredPages = device.Long("uncovered-pages"),
        Rearms = device.Long("rearms"),
        Syncs = device.Long("syncs"),
        SyncTime = TimeSpan.FromMicroseconds(device.Long("sync-microseconds")),
        Reports = device.Long("reports"),
        BitsAsked = device.Long("bits-asked"),
        PagesReported = device.Long("pages-reported"),
        Harvests = device.Long("harvests"),
        HarvestsPending = device.Long("harvests-pending"),
    };
}
