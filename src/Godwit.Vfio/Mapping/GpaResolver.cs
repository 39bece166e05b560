using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>A run of pages by GPA, resolved.</summary>
/// <param name="Pages">Pages of this piece.</param>
/// <param name="Ram">The first page behind it; null when there is no RAM.</param>
/// <param name="ReadOnly">RAM that must not be written.</param>
internal readonly record struct ResolvedPiece(ulong Pages, RamPage? Ram, bool ReadOnly);

/// <summary>
/// The one place where a GPA becomes a RAM page: through one snapshot of system memory, piece by piece, because neither is RAM without
/// holes nor is a GPA a RAM offset.
/// </summary>
internal class GpaResolver(AddressSpace system)
{
    /// <summary>
    /// The piece that begins at <paramref name="gpa"/> (page aligned) and has at most <paramref name="pages"/> pages: RAM that is contiguous in
    /// one block, or something else up to where RAM may begin again.
    /// </summary>
    public virtual ResolvedPiece Resolve(Gpa gpa, ulong pages)
    {
        FlatView view = system.View;
        ulong bytes = pages << IovaPages.Shift;
        if (!view.TryFind(BusAddress.FromGpa(gpa), out FlatRange range))
            return new ResolvedPiece(Math.Min(pages, PagesUpTo(NextRangeAbove(view, gpa), gpa)), null, false);

        ulong left = range.Range.Last.Value - gpa.Value + 1; // 0 only for a range up to 2^64
        ulong whole = (left == 0 ? bytes : Math.Min(left, bytes)) >> IovaPages.Shift;
        ulong inRegion = range.OffsetInRegion + (gpa.Value - range.Range.First.Value);
        if (range.Region is RamRegion ram && whole > 0 && (inRegion & (RamPage.Size - 1)) == 0)
            return new ResolvedPiece(whole, ram.Block.FirstPage + (inRegion >> RamPage.Shift), range.ReadOnly || ram.ReadOnly);
        // No RAM, or RAM that shares the page with something else.
        return new ResolvedPiece(Math.Max(whole, 1), null, false);
    }

    private static ulong PagesUpTo(ulong? next, Gpa gpa) =>
        next is { } address ? Math.Max(1, (address - gpa.Value) >> IovaPages.Shift) : IovaPages.SpacePages;

    private static ulong? NextRangeAbove(FlatView view, Gpa gpa)
    {
        int low = 0, high = view.Ranges.Length;
        while (low < high)
        {
            int middle = (low + high) >>> 1;
            if (view.Ranges[middle].Range.First.Value <= gpa.Value)
                low = middle + 1;
            else
                high = middle;
        }

        return low < view.Ranges.Length ? view.Ranges[low].Range.First.Value : null;
    }
}
