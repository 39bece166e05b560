using System.Collections.Immutable;
using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Godwit.Memory;

/// <summary>One contiguous piece of a flat view.</summary>
/// <param name="Range">Where it appears.</param>
/// <param name="Region">The terminating region: RAM, MMIO or IOMMU, never a container or alias.</param>
/// <param name="OffsetInRegion">Byte of <paramref name="Region"/> at <c>Range.First</c>.</param>
/// <param name="ReadOnly">Writes are refused.</param>
public readonly record struct FlatRange(BusRange Range, MemoryRegion Region, ulong OffsetInRegion, bool ReadOnly);

/// <summary>An immutable, sorted, disjoint rendering of a region tree. Shared by all spaces whose roots reduce to the same region.</summary>
public sealed class FlatView
{
    private readonly FlatRange[] _ranges;

    // Index of the range found last: most accesses of a thread hit one range. Any value is right, so it needs no ordering.
    private int _hint;

    internal FlatView(MemoryRegion root, FlatRange[] ranges)
    {
        Root = root;
        _ranges = ranges;
    }

    /// <summary>The pieces, ascending.</summary>
    public ImmutableArray<FlatRange> Ranges => ImmutableCollectionsMarshal.AsImmutableArray(_ranges);

    /// <summary>What the roots of all spaces that share this view reduce to.</summary>
    public MemoryRegion Root { get; }

    /// <summary>The piece that holds <paramref name="address"/>.</summary>
    public bool TryFind(BusAddress address, out FlatRange range)
    {
        ref readonly FlatRange found = ref Find(address.Value);
        if (Unsafe.IsNullRef(in found))
        {
            range = default;
            return false;
        }

        range = found;
        return true;
    }

    /// <summary>As <see cref="TryFind"/>, without copying; a null reference when nothing is there.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal ref readonly FlatRange Find(ulong address)
    {
        FlatRange[] ranges = _ranges;
        int hint = _hint;
        if ((uint)hint < (uint)ranges.Length)
        {
            ref readonly FlatRange range = ref ranges[hint];
            if (address - range.Range.First.Value <= range.Range.Last.Value - range.Range.First.Value)
                return ref range;
        }

        return ref Search(address);
    }

    [SuppressMessage("Major Code Smell", "RCS1242", Justification = "The reference is into an immutable array")]
    private ref readonly FlatRange Search(ulong address)
    {
        FlatRange[] ranges = _ranges;
        int low = 0;
        int high = ranges.Length - 1;
        while (low <= high)
        {
            int middle = (low + high) >>> 1;
            ref readonly FlatRange range = ref ranges[middle];
            if (address < range.Range.First.Value)
            {
                high = middle - 1;
            }
            else if (address > range.Range.Last.Value)
            {
                low = middle + 1;
            }
            else
            {
                _hint = middle;
                return ref range;
            }
        }

        return ref Unsafe.NullRef<FlatRange>();
    }
}
