using System.Numerics;

namespace Godwit.Vfio;

/// <summary>
/// What a device's log accepts at START, found out by real starts and stops when the device was plugged. Spans are sums of the lengths of all
/// ranges of one START; those found by probing are powers of two, so a device may take a little more than <see cref="MaxSpanBytes"/>.
/// </summary>
public sealed record DeviceLogLimits
{
    /// <summary>
    /// Ranges of one START at most: the kernel takes one page of 16-byte entries (Linux drivers/vfio/vfio_main.c,
    /// vfio_ioctl_device_feature_logging_start; include/uapi/linux/vfio.h, vfio_device_feature_dma_logging_control).
    /// </summary>
    public const int KernelMaxRanges = 256;

    /// <summary>Before anything has been found out: the kernel's limits and no other.</summary>
    public static DeviceLogLimits Unprobed { get; } = new();

    /// <summary>Ranges of one START, from 1 to <see cref="KernelMaxRanges"/>.</summary>
    public int MaxRanges { get; init; } = KernelMaxRanges;

    /// <summary>Least span, bytes; below it the device refuses (mlx5: pg_track_log_min_addr_space).</summary>
    public ulong MinSpanBytes { get; init; } = 4096;

    /// <summary>Greatest span, bytes.</summary>
    public ulong MaxSpanBytes { get; init; } = 1UL << 63;

    /// <summary>Whether the device makes one region of all ranges, so that gaps count (pds).</summary>
    public bool SpanIncludesGaps { get; init; }

    /// <summary>Page size that the device answered with, bytes.</summary>
    public ulong PageBytes { get; init; } = 4096;

    /// <summary>Whether everything that can ever be mapped fits into one START, so that nothing is left to plan.</summary>
    public bool TakesWholeAperture { get; init; }

    /// <summary>Whether the device took anything at all.</summary>
    public bool TakesAnything { get; init; } = true;

    /// <summary>What it answered when it refused the whole aperture; null when it did not refuse.</summary>
    public string? Refusal { get; init; }

    /// <summary>One line for an operator.</summary>
    public override string ToString() => this switch
    {
        { TakesAnything: false } => $"refuses to log ({Refusal})",
        { TakesWholeAperture: true } => $"logs everything that can be mapped, by pages of {Size(PageBytes)}",
        { MaxRanges: 1 } => $"logs one range of {Size(MinSpanBytes)} to {Size(MaxSpanBytes)}, by pages of {Size(PageBytes)}",
        _ => $"logs {MaxRanges} ranges of {Size(MinSpanBytes)} to {Size(MaxSpanBytes)} {(SpanIncludesGaps ? "with the gaps between them" : "together")}, by pages of {Size(PageBytes)}",
    };

    private static readonly string[] Units = ["bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

    /// <summary>All of them are powers of two, so one unit says them exactly.</summary>
    private static string Size(ulong bytes)
    {
        int unit = Math.Min(BitOperations.TrailingZeroCount(bytes) / 10, 6);
        return $"{bytes >> (10 * unit)} {Units[unit]}";
    }
}
