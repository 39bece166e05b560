using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// What a served device's log of DMA accepts at START. The log here has no limits of its own; hardware has (mlx5: pg_track_max_num_range,
/// pg_track_log_min_addr_space and _max_addr_space, Linux drivers/vfio/pci/mlx5/cmd.c), and clients are to be tried against that.
/// </summary>
public sealed record DmaLogLimits
{
    /// <summary>Ranges of one START; above it E2BIG. 1 to 256, which is the kernel's limit.</summary>
    public int MaxRanges { get; init; } = WireLimits.MaxLogRanges;

    /// <summary>Bytes of all ranges together at least; below it EOPNOTSUPP.</summary>
    public ulong MinSpan { get; init; }

    /// <summary>Bytes of all ranges together at most; above it EOPNOTSUPP. The greatest number means no limit.</summary>
    public ulong MaxSpan { get; init; } = ulong.MaxValue;

    /// <summary>Bytes of a page of the log at least, a power of two from 4 KiB to 1 GiB; a smaller one that is asked for becomes this.</summary>
    public ulong PageSize { get; init; } = WireLimits.PageSize;

    /// <summary>Whether these ranges are taken; none of them stands for all addresses.</summary>
    internal Errno Check(ReadOnlySpan<DmaRange> ranges)
    {
        if (ranges.Length > MaxRanges)
            return Errno.E2BIG;
        UInt128 span = ranges.IsEmpty ? UInt128.One << 64 : 0;
        foreach (DmaRange range in ranges)
            span += range.Length;
        return span < MinSpan || (MaxSpan != ulong.MaxValue && span > MaxSpan) ? Errno.ENOTSUP : Errno.None;
    }
}
