using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>Where DMA is logged: everywhere, or in sorted ranges that do not overlap. Never changed.</summary>
internal sealed class LogRanges
{
    private readonly (ulong Start, ulong Last)[] _ranges;

    private LogRanges((ulong Start, ulong Last)[] ranges) => _ranges = ranges;

    /// <summary>All addresses.</summary>
    public static LogRanges All { get; } = new([]);

    /// <summary>No range stands for all addresses (specification, "DMA_LOGGING_START").</summary>
    public bool IsAll => _ranges.Length == 0;

    /// <summary>Number of ranges.</summary>
    public int Count => _ranges.Length;

    /// <summary>A range by both ends.</summary>
    public (ulong Start, ulong Last) this[int index] => _ranges[index];

    /// <summary>Checks and takes ranges as the kernel does: whole pages, no wrap, no overlap; any order.</summary>
    /// <param name="pageSize">The page size asked for, a power of two.</param>
    /// <param name="ranges">At least one.</param>
    /// <param name="result">The ranges.</param>
    public static Errno TryCreate(ulong pageSize, ReadOnlySpan<DmaRange> ranges, out LogRanges? result)
    {
        result = null;
        var sorted = new (ulong Start, ulong Last)[ranges.Length];
        for (int i = 0; i < ranges.Length; i++)
        {
            ulong start = ranges[i].Address.Value;
            ulong length = ranges[i].Length;
            if (length == 0 || ((start | length) & (pageSize - 1)) != 0)
                return Errno.EINVAL;
            if (length - 1 > ulong.MaxValue - start)
                return Errno.EOVERFLOW;
            sorted[i] = (start, start + (length - 1));
        }
        Array.Sort(sorted);
        for (int i = 1; i < sorted.Length; i++)
        {
            if (sorted[i].Start <= sorted[i - 1].Last)
                return Errno.EINVAL;
        }
        result = new LogRanges(sorted);
        return Errno.None;
    }

    /// <summary>Index of the first range that ends at or after <paramref name="address"/>, or <see cref="Count"/>.</summary>
    public int FirstEndingAtOrAfter(ulong address)
    {
        int low = 0;
        int high = _ranges.Length;
        while (low < high)
        {
            int middle = (low + high) >>> 1;
            if (_ranges[middle].Last < address)
                low = middle + 1;
            else
                high = middle;
        }
        return low;
    }
}
