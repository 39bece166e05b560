using System.Collections.Immutable;
using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>What to ask the device's log to cover.</summary>
/// <param name="Ranges">Disjoint, ascending.</param>
/// <param name="LeavesUncovered">Whether something that can be mapped lies outside; what is mapped there counts as dirty at every sync.</param>
/// <param name="Translated">Whether the guest decides what is mapped; else all of RAM is, always.</param>
/// <param name="Description">For messages.</param>
internal sealed record CoveragePlan(ImmutableArray<IovaPages> Ranges, bool LeavesUncovered, bool Translated, string Description)
{
    /// <summary>Whether it follows what is mapped, because the device does not take everything (rule 2).</summary>
    public bool ByUse { get; init; }

    /// <summary>Nothing is covered.</summary>
    public static CoveragePlan Nothing { get; } = new([], true, true, "nothing");

    /// <summary>
    /// The same with every range begun at a multiple of <paramref name="pages"/>, a power of two, neighbours that come to touch being joined; null
    /// when every range begins at one already.
    /// </summary>
    public CoveragePlan? AlignedTo(ulong pages)
    {
        if (Ranges.All(r => r.First % pages == 0))
            return null;
        var aligned = ImmutableArray.CreateBuilder<IovaPages>(Ranges.Length);
        foreach (IovaPages range in Ranges)
        {
            ulong first = IovaPages.Down(range.First, pages);
            if (aligned.Count > 0 && aligned[^1].End >= first)
                aligned[^1] = IovaPages.Between(aligned[^1].First, range.End);
            else
                aligned.Add(IovaPages.Between(first, range.End));
        }

        return this with { Ranges = aligned.ToImmutable() };
    }

    /// <summary>
    /// Plans to try, best first, for a device in front of which <paramref name="attributes"/> hold (null: no vIOMMU). Empty when the vIOMMU
    /// translates without telling where its aperture ends: a planner by use takes that case.
    /// </summary>
    /// <remarks>
    /// A vIOMMU that translates covers its whole aperture, so that no mapping can fall outside (rule 1), and RAM above it, where a device in a
    /// pass-through domain still reaches. One that only remaps interrupts is none for DMA: RAM by GPA (rule 11).
    /// </remarks>
    public static ImmutableArray<CoveragePlan> Candidates(IommuAttributes? attributes, FlatView system)
    {
        ImmutableArray<IovaPages> ram = RamRanges(system);
        if (attributes is not { TranslatesDma: true } iommu)
            return [new CoveragePlan(ram, false, false, "guest RAM")];
        if (iommu.LastIova is not { } last)
            return [];

        // The last page of a 64-bit space cannot be named: a range with it has an end past 2^64 - 1 (rule 9).
        ulong pages = Math.Min((last.Value >> IovaPages.Shift) + 1, IovaPages.SpacePages - 1);
        bool cut = pages <= last.Value >> IovaPages.Shift;
        var aperture = new IovaPages(0, pages);
        ImmutableArray<IovaPages> above = [.. ram.Where(r => r.End > pages).Select(r => IovaPages.Between(Math.Max(r.First, pages), r.End))];
        var whole = new CoveragePlan([aperture], cut || above.Length > 0, true, $"the aperture {aperture}");
        return above.Length == 0 || cut
            ? [whole]
            : [new CoveragePlan([aperture, .. above], false, true, $"the aperture {aperture} and RAM above it"), whole];
    }

    /// <summary>RAM in <paramref name="system"/>, neighbours joined.</summary>
    public static ImmutableArray<IovaPages> RamRanges(FlatView system)
    {
        var result = ImmutableArray.CreateBuilder<IovaPages>();
        foreach (FlatRange range in system.Ranges)
        {
            if (range.Region is not RamRegion || !IovaPages.TryInside(range.Range, out IovaPages pages))
                continue;
            if (result.Count > 0 && result[^1].End == pages.First)
                result[^1] = new IovaPages(result[^1].First, result[^1].Count + pages.Count);
            else
                result.Add(pages);
        }

        return result.ToImmutable();
    }
}
