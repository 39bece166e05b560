using Godwit.VfioUser;

namespace Godwit.Vfio;

/// <summary>Which parts of a region are mapped, of those that the device offers. Pure.</summary>
internal static class MappableAreas
{
    /// <summary>Most areas of one region; what a device offers beyond is reached by calls.</summary>
    public const int Most = 64;

    /// <summary>What is mapped of a region; nothing of one that cannot be both read and written, because a mapping knows no refusal.</summary>
    public static List<SparseArea> Of(RegionInfo region, ReadOnlySpan<SparseArea> keepOut) =>
        Choose(region.Size, region is { Readable: true, Writable: true } ? region.Mappable : [], keepOut, (ulong)Environment.SystemPageSize);

    /// <summary>Bytes of the host's pages that an area takes.</summary>
    public static ulong BytesMapped(SparseArea area) => RoundUp(area.Size, (ulong)Environment.SystemPageSize);

    /// <summary>
    /// Whole pages of <paramref name="offered"/> without any page that <paramref name="keepOut"/> touches: the MSI-X table and pending bits are the
    /// VMM's. A last page that the region ends in counts as whole, for a mapping has it whole.
    /// </summary>
    /// <param name="size">Bytes of the region.</param>
    /// <param name="offered">Inside the region.</param>
    /// <param name="keepOut">Anywhere.</param>
    /// <param name="page">Bytes of a page of the host; a power of two.</param>
    public static List<SparseArea> Choose(ulong size, IEnumerable<SparseArea> offered, ReadOnlySpan<SparseArea> keepOut, ulong page)
    {
        List<(ulong First, ulong Past)> holes = Holes(keepOut, page);
        List<SparseArea> result = [];
        foreach (SparseArea area in offered.Take(Most))
        {
            ulong end = area.Offset + area.Size;
            if (end != size)
                end &= ~(page - 1);
            ulong start = RoundUp(area.Offset, page);
            foreach ((ulong first, ulong past) in holes)
            {
                if (past <= start)
                    continue;
                if (first >= end)
                    break;
                Add(result, start, first);
                start = past;
            }

            Add(result, start, end);
        }

        return result;
    }

    /// <summary>The pages that are kept out, in order; a device may name any number.</summary>
    private static List<(ulong First, ulong Past)> Holes(ReadOnlySpan<SparseArea> keepOut, ulong page)
    {
        List<(ulong First, ulong Past)> holes = [];
        foreach (SparseArea hole in keepOut)
        {
            if (hole.Size > 0)
                holes.Add((hole.Offset & ~(page - 1), RoundUp(hole.Offset + hole.Size, page)));
        }

        holes.Sort();
        return holes;
    }

    private static void Add(List<SparseArea> result, ulong start, ulong end)
    {
        if (start < end && result.Count < Most)
            result.Add(new SparseArea(start, end - start));
    }

    private static ulong RoundUp(ulong value, ulong page) => (value + (page - 1)) & ~(page - 1);
}
