namespace Godwit.Vfio;

/// <summary>Pages wanted around each range for what will be mapped.</summary>
/// <param name="Below">Below its first page.</param>
/// <param name="Above">Above its last.</param>
internal readonly record struct Headroom(ulong Below, ulong Above);

/// <summary>
/// How this guest allocates IOVAs: on which side of what was covered its new mappings came, and how far away. One caller at a time.
/// </summary>
internal sealed class AllocationHistory
{
    /// <summary>Headroom at first, 4 MiB; four times as much at each start anew.</summary>
    internal const ulong First = 1024;

    // Before anything is known: Linux allocates downwards (drivers/iommu/iova.c, alloc_iova), and frees in between.
    private const ulong PriorBelow = 3, PriorAbove = 1;

    private ulong _below, _above, _farthest;

    /// <summary>A mapping came to lie outside <paramref name="covered"/>.</summary>
    public void Missed(IovaPages range, ReadOnlySpan<IovaPages> covered)
    {
        int next = 0;
        while (next < covered.Length && covered[next].End <= range.First)
            next++;
        ulong under = next < covered.Length && covered[next].First >= range.End ? covered[next].First - range.First : ulong.MaxValue;
        ulong over = next > 0 ? range.End - covered[next - 1].End : ulong.MaxValue;
        ulong nearer = Math.Min(under, over);
        if (nearer == ulong.MaxValue)
            return;
        if (under <= over)
            _below += range.Count;
        else
            _above += range.Count;
        // Another cluster altogether says nothing about how this one grows.
        if (nearer <= First << 8)
            _farthest = Math.Max(_farthest, nearer);
    }

    /// <summary>What to leave room for when the log is started for the <paramref name="start"/>th time, from 0.</summary>
    public Headroom Want(int start)
    {
        ulong pages = Math.Max(First << (2 * start), 2 * _farthest);
        double share = (_below + PriorBelow) / (double)(_below + PriorBelow + _above + PriorAbove);
        ulong below = Math.Min((ulong)(pages * share), pages);
        return new Headroom(below, pages - below);
    }
}
