namespace Godwit.Vfio.Tests;

/// <summary>How a <see cref="ModelDevice"/> is limited and what goes wrong in it.</summary>
internal sealed record ModelDeviceTraits
{
    /// <summary>Page size of the log, whatever is asked for (vfio.h, vfio_device_feature_dma_logging_control: the device may change it).</summary>
    public ulong LogPageSize { get; init; } = 4096;

    /// <summary>Reading a bit of the log clears the whole 64-bit word that it is in.</summary>
    public bool ClearsWholeWords { get; init; }

    /// <summary>Words are counted from the first page that START named (pds, drivers/vfio/pci/pds/dirty.c), not from IOVA 0.</summary>
    public bool WordsFromStart { get; init; }

    /// <summary>Longest range that START takes, in pages.</summary>
    public ulong LongestRange { get; init; } = ulong.MaxValue;

    /// <summary>Most ranges of one START (drivers/vfio/vfio_main.c: one page of them).</summary>
    public int MaxRanges { get; init; } = DeviceLogLimits.KernelMaxRanges;

    /// <summary>
    /// Ranges that the hardware has. What is more is joined over the smallest gaps, and the gaps are logged and count as span (mlx5,
    /// vfio_combine_iova_ranges and pg_track_max_num_range).
    /// </summary>
    public int CombinesTo { get; init; } = int.MaxValue;

    /// <summary>Pages of all ranges together, least and most (mlx5: pg_track_log_min_addr_space and _max_).</summary>
    public ulong MinSpan { get; init; }

    /// <summary>See <see cref="MinSpan"/>.</summary>
    public ulong MaxSpan { get; init; } = ulong.MaxValue;

    /// <summary>The span is rounded up to a power of two before it is compared (mlx5).</summary>
    public bool RoundsSpanUp { get; init; }

    /// <summary>All ranges become one region with the gaps between them (pds), which are logged too.</summary>
    public bool OneRegion { get; init; }

    /// <summary>Most mappings.</summary>
    public int MaxMappings { get; init; } = 65535;

    /// <summary>Answers of one report, in bytes.</summary>
    public int MaxReportBytes { get; init; } = 1 << 20;

    /// <summary>Chance, in percent, that a report fails and the log is lost.</summary>
    public int ReportFailsPercent { get; init; }

    /// <summary>Chance, in percent, that a START is refused that was within all limits: a resource of the host was short.</summary>
    public int StartFailsPercent { get; init; }

    /// <summary>Once a report has failed, all fail until a new START (mlx5: the tracker's error stays).</summary>
    public bool FailureSticks { get; init; }
}
