using System.Collections.Immutable;

namespace Godwit.Vfio;

/// <summary>
/// Chooses what a limited log is armed for from what is mapped for writing now (dirty-tracking rule 2). Pure. What does not fit is left out, and
/// counts as dirty at every sync; no limit is ever exceeded.
/// </summary>
internal static class CoveragePlanner
{
    /// <summary>Clusters kept while a table is read; beyond it the smaller half of the gaps is bridged.</summary>
    internal const int ClusterCapacity = 4096;

    /// <summary>Where coverage begins while nothing is mapped: Linux allocates IOVAs from 4 GiB downwards (drivers/iommu/dma-iommu.c, iommu_dma_alloc_iova).</summary>
    internal const ulong FirstAllocationEnd = 1UL << (32 - IovaPages.Shift);

    /// <summary>A plan, or null when the log cannot take any.</summary>
    /// <param name="mapped">What is installed.</param>
    /// <param name="endPage">End of what can be mapped.</param>
    /// <param name="limits">Of the device's log.</param>
    /// <param name="headroom">Pages wanted around each range for what will be mapped; less when the span does not allow it.</param>
    public static CoveragePlan? ByUse(MappingTable mapped, ulong endPage, DeviceLogLimits limits, Headroom headroom)
    {
        // Whole words of the bitmap, so that a report never touches a page of another range (rule 6).
        ulong align = Math.Max(limits.PageBytes >> IovaPages.Shift, 1) * 64;
        ulong end = IovaPages.Down(Math.Min(endPage, IovaPages.SpacePages - align), align);
        ulong least = IovaPages.Up(limits.MinSpanBytes >> IovaPages.Shift, align);
        ulong most = IovaPages.Down(Math.Min(limits.MaxSpanBytes >> IovaPages.Shift, end), align);
        if (!limits.TakesAnything || most == 0 || least > most)
            return null;

        List<Cluster> clusters = Clusters(mapped, end, align);
        if (clusters.Count == 0)
        {
            ulong top = Math.Min(end, IovaPages.Down(FirstAllocationEnd, align) is var first && first > 0 ? first : end);
            clusters.Add(new Cluster(top - align, top, 0));
        }

        List<Cluster> chosen = limits.SpanIncludesGaps || limits.MaxRanges == 1
            ? [Densest(clusters, most)]
            : Fit(clusters, limits.MaxRanges, most);
        Grow(chosen, end, align, headroom, most);
        if (!Pad(chosen, end, least))
            return null;
        ImmutableArray<IovaPages> ranges = [.. chosen.Select(c => IovaPages.Between(c.First, c.End))];
        return new CoveragePlan(ranges, true, true, "what is mapped, with room around it") { ByUse = true };
    }

    /// <summary>Pages mapped for writing, and those of them outside <paramref name="ranges"/>.</summary>
    public static (ulong Mapped, ulong Uncovered) Count(MappingTable mapped, ImmutableArray<IovaPages> ranges)
    {
        ulong all = 0, covered = 0;
        int at = 0;
        MappingTable.Cursor cursor = mapped.Seek(0);
        while (cursor.MoveNext())
        {
            if (!cursor.Current.Writable)
                continue;
            IovaPages iova = cursor.Current.Iova;
            all += iova.Count;
            while (at < ranges.Length && ranges[at].End <= iova.First)
                at++;
            for (int i = at; i < ranges.Length && ranges[i].First < iova.End; i++)
                covered += Math.Min(iova.End, ranges[i].End) - Math.Max(iova.First, ranges[i].First);
        }

        return (all, all - covered);
    }

    private static List<Cluster> Clusters(MappingTable mapped, ulong end, ulong align)
    {
        var result = new List<Cluster>();
        MappingTable.Cursor cursor = mapped.Seek(0);
        while (cursor.MoveNext())
        {
            IovaPages iova = cursor.Current.Iova;
            ulong first = IovaPages.Down(iova.First, align);
            if (!cursor.Current.Writable)
                continue;
            if (first >= end)
                break;
            ulong last = Math.Min(IovaPages.Up(iova.End, align), end);
            if (result.Count > 0 && result[^1].End >= first)
            {
                result[^1] = new Cluster(result[^1].First, Math.Max(last, result[^1].End), result[^1].Mapped + iova.Count);
                continue;
            }

            if (result.Count == ClusterCapacity)
                result = Bridge(result, ClusterCapacity / 2);
            result.Add(new Cluster(first, last, iova.Count));
        }

        return result;
    }

    /// <summary>Bridges the smallest gaps until at most <paramref name="count"/> clusters are left.</summary>
    private static List<Cluster> Bridge(List<Cluster> clusters, int count)
    {
        int excess = clusters.Count - count;
        if (excess <= 0)
            return [.. clusters];
        bool[] bridged = new bool[clusters.Count];
        foreach (int i in Enumerable.Range(1, clusters.Count - 1).OrderBy(i => clusters[i].First - clusters[i - 1].End).Take(excess))
            bridged[i] = true;
        var result = new List<Cluster>(count);
        for (int i = 0; i < clusters.Count; i++)
        {
            if (bridged[i])
                result[^1] = new Cluster(result[^1].First, clusters[i].End, result[^1].Mapped + clusters[i].Mapped);
            else
                result.Add(clusters[i]);
        }

        return result;
    }

    /// <summary>Leaves out as few of the thinnest clusters as it takes for the rest to fit.</summary>
    private static List<Cluster> Fit(List<Cluster> clusters, int maxRanges, ulong most)
    {
        int[] thinnestFirst = [.. Enumerable.Range(0, clusters.Count).OrderBy(i => clusters[i].Mapped / (double)clusters[i].Pages)];
        int low = 0, high = clusters.Count - 1;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (Span(Without(middle)) <= most)
                high = middle;
            else
                low = middle + 1;
        }

        List<Cluster> kept = Without(high);
        return Span(kept) <= most ? kept : [Cut(kept[^1], most)];

        List<Cluster> Without(int count)
        {
            var dropped = thinnestFirst.Take(count).ToHashSet();
            return Bridge([.. clusters.Where((_, i) => !dropped.Contains(i))], maxRanges);
        }
    }

    /// <summary>The stretch of at most <paramref name="most"/> pages with the most mapped pages in it.</summary>
    private static Cluster Densest(List<Cluster> clusters, ulong most)
    {
        var best = new Cluster(0, 0, 0);
        int from = 0;
        ulong mapped = 0;
        for (int to = 0; to < clusters.Count; to++)
        {
            mapped += clusters[to].Mapped;
            while (from < to && clusters[to].End - clusters[from].First > most)
                mapped -= clusters[from++].Mapped;
            Cluster window = Cut(new Cluster(clusters[from].First, clusters[to].End, mapped), most);
            if (best.Pages == 0 || window.Mapped > best.Mapped)
                best = window;
        }

        return best;
    }

    private static void Grow(List<Cluster> ranges, ulong end, ulong align, Headroom headroom, ulong most)
    {
        ulong wanted = headroom.Below + headroom.Above;
        ulong each = IovaPages.Down(Math.Min(wanted, (most - Span(ranges)) / (ulong)ranges.Count), align);
        ulong below = wanted == 0 ? 0 : Math.Min(each, IovaPages.Up((ulong)(each * ((double)headroom.Below / wanted)), align));
        for (int i = 0; i < ranges.Count; i++)
        {
            ulong floor = i == 0 ? 0 : ranges[i - 1].End;
            ulong ceiling = i + 1 < ranges.Count ? ranges[i + 1].First : end;
            Cluster range = ranges[i];
            ranges[i] = new Cluster(
                range.First - Math.Min(below, range.First - floor), range.End + Math.Min(each - below, ceiling - range.End), range.Mapped);
        }

        Join(ranges);
    }

    /// <summary>Lengthens ranges until they have <paramref name="least"/> pages; false when there is not that much space.</summary>
    private static bool Pad(List<Cluster> ranges, ulong end, ulong least)
    {
        for (int i = ranges.Count - 1; i >= 0 && Span(ranges) < least; i--)
        {
            ulong ceiling = i + 1 < ranges.Count ? ranges[i + 1].First : end;
            ulong up = Math.Min(least - Span(ranges), ceiling - ranges[i].End);
            ranges[i] = ranges[i] with { End = ranges[i].End + up };
            ulong floor = i == 0 ? 0 : ranges[i - 1].End;
            ulong down = Math.Min(least - Span(ranges), ranges[i].First - floor);
            ranges[i] = ranges[i] with { First = ranges[i].First - down };
        }

        bool enough = Span(ranges) >= least;
        Join(ranges);
        return enough;
    }

    private static void Join(List<Cluster> ranges)
    {
        for (int i = ranges.Count - 1; i > 0; i--)
        {
            if (ranges[i - 1].End < ranges[i].First)
                continue;
            ranges[i - 1] = new Cluster(ranges[i - 1].First, ranges[i].End, ranges[i - 1].Mapped + ranges[i].Mapped);
            ranges.RemoveAt(i);
        }
    }

    private static Cluster Cut(Cluster cluster, ulong most) => cluster.Pages <= most ? cluster : cluster with { First = cluster.End - most };

    private static ulong Span(List<Cluster> ranges)
    {
        ulong sum = 0;
        foreach (Cluster range in ranges)
            sum += range.Pages;
        return sum;
    }

    private readonly record struct Cluster(ulong First, ulong End, ulong Mapped)
    {
        public ulong Pages => End - First;
    }
}
