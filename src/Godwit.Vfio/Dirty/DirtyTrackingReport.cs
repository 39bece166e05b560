namespace Godwit.Vfio;

/// <summary>How the writes of one device are followed, now. Counters run since the device was attached unless they say otherwise.</summary>
public sealed record DirtyTrackingReport
{
    /// <summary>Device id.</summary>
    public required string Device { get; init; }

    /// <summary>What the user asked for.</summary>
    public required DirtyTrackingMode Mode { get; init; }

    /// <summary>What is used.</summary>
    public required DirtySourceKind Source { get; init; }

    /// <summary>Whether a migration is being followed at this moment.</summary>
    public bool Active { get; init; }

    /// <summary>What is covered, in words; what would be, while no migration runs.</summary>
    public string Coverage { get; init; } = "nothing";

    /// <summary>Whether coverage follows what the guest maps, because the device does not take everything at once (rule 2).</summary>
    public bool ByUse { get; init; }

    /// <summary>Ranges armed.</summary>
    public int CoveredRanges { get; init; }

    /// <summary>Bytes of IOVA armed.</summary>
    public ulong CoveredBytes { get; init; }

    /// <summary>What the device's log accepts; null without a log.</summary>
    public DeviceLogLimits? Limits { get; init; }

    /// <summary>Share of the device's span that is armed, 0 to 1; null when nothing bounds it.</summary>
    public double? BudgetUsed => Limits is { TakesWholeAperture: false, TakesAnything: true } limits ? CoveredBytes / (double)limits.MaxSpanBytes : null;

    /// <summary>Pages mapped for writing that the last sync found outside coverage; each counts as dirty at every sync.</summary>
    public ulong UncoveredPages { get; init; }

    /// <summary>Times that the log was started anew in this or the last migration.</summary>
    public int Rearms { get; init; }

    /// <summary>Reports asked.</summary>
    public long Reports { get; init; }

    /// <summary>Bits asked for in them, one for each tracking page.</summary>
    public long BitsAsked { get; init; }

    /// <summary>Dirty 4 KiB pages in them.</summary>
    public long PagesReported { get; init; }

    /// <summary>Unmapped ranges of which the log has not been read yet.</summary>
    public int HarvestsPending { get; init; }

    /// <summary>Times that ranges were brought to the migration bitmap because they had been unmapped.</summary>
    public long Harvests { get; init; }

    /// <summary>Syncs made.</summary>
    public long Syncs { get; init; }

    /// <summary>Time in syncs.</summary>
    public TimeSpan TimeInSyncs { get; init; }
}
