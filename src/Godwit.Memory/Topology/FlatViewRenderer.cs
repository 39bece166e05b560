namespace Godwit.Memory;

/// <summary>
/// Turns a region tree into a flat view. Everything is computed in 128 bits: an aliased region may begin below 0 or end above 2^64
/// before it is clipped.
/// </summary>
internal static class FlatViewRenderer
{
    /// <summary>
    /// Follows a root down while one region alone makes up all that it shows: a whole alias, or a container whose only enabled child
    /// is at 0 and fits. Spaces whose roots reduce to the same region show the same, so they share a view.
    /// </summary>
    internal static MemoryRegion Reduce(MemoryRegion root)
    {
        while (root.Enabled)
        {
            MemoryRegion? only = root switch
            {
                AliasRegion { TargetOffset: 0 } alias when alias.Size == alias.Target.Size => alias.Target,
                ContainerRegion container => OnlyChild(container),
                _ => null,
            };
            if (only is null)
                break;
            root = only;
        }

        return root;
    }

    /// <summary>Renders what <paramref name="root"/> shows from address 0.</summary>
    internal static FlatView Render(MemoryRegion root)
    {
        var rendering = new Rendering();
        rendering.Show(root, 0, 0, (Int128)MemoryRegion.MaxSize);
        return new FlatView(root, rendering.Finish());
    }

    private static MemoryRegion? OnlyChild(ContainerRegion container)
    {
        MemoryRegion? only = null;
        foreach (MemoryRegion child in container.Children)
        {
            if (!child.Enabled)
                continue;
            if (only is not null)
                return null;
            only = child;
        }

        return only is not null && only.Offset.Value == 0 && only.Size <= container.Size ? only : null;
    }

    /// <summary>A list of disjoint ranges in the making. What is placed first stays; later regions fill the gaps.</summary>
    private sealed class Rendering
    {
        private readonly List<FlatRange> _ranges = [];

        /// <summary>Shows a region where nothing is yet.</summary>
        /// <param name="region">What to show.</param>
        /// <param name="origin">Address of the region's byte 0.</param>
        /// <param name="first">First address that its surroundings let through.</param>
        /// <param name="end">The address after the last one.</param>
        internal void Show(MemoryRegion region, Int128 origin, Int128 first, Int128 end)
        {
            if (!region.Enabled)
                return;
            first = Int128.Max(first, origin);
            end = Int128.Min(end, origin + (Int128)region.Size);
            if (first >= end)
                return;
            switch (region)
            {
                case AliasRegion alias:
                    Show(alias.Target, origin - alias.TargetOffset, first, end);
                    break;
                case ContainerRegion container:
                    foreach (MemoryRegion child in container.Children)
                        Show(child, origin + child.Offset.Value, first, end);
                    break;
                default:
                    Fill(region, origin, (ulong)first, (ulong)(end - 1));
                    break;
            }
        }

        /// <summary>The ranges, neighbours merged that continue in the same region with the same attributes.</summary>
        internal FlatRange[] Finish()
        {
            var merged = new List<FlatRange>(_ranges.Count);
            foreach (FlatRange range in _ranges)
            {
                if (merged.Count != 0 && Continues(merged[^1], range))
                    merged[^1] = merged[^1] with { Range = new BusRange(merged[^1].Range.First, range.Range.Last) };
                else
                    merged.Add(range);
            }

            return [.. merged];
        }

        private static bool Continues(in FlatRange left, in FlatRange right) =>
            ReferenceEquals(left.Region, right.Region)
            && left.ReadOnly == right.ReadOnly
            && right.Range.First.Value != 0
            && left.Range.Last.Value == right.Range.First.Value - 1
            && left.OffsetInRegion + (right.Range.First.Value - left.Range.First.Value) == right.OffsetInRegion;

        /// <summary>Places the region in every gap of [first, last].</summary>
        private void Fill(MemoryRegion region, Int128 origin, ulong first, ulong last)
        {
            int index = FirstEndingAtOrAfter(first);
            while (true)
            {
                bool blocked = index < _ranges.Count && _ranges[index].Range.First.Value <= last;
                ulong gapEnd = blocked ? _ranges[index].Range.First.Value : 0; // exclusive
                if (!blocked || gapEnd > first)
                {
                    var gap = new BusRange(new BusAddress(first), new BusAddress(blocked ? gapEnd - 1 : last));
                    bool readOnly = region is RamRegion { ReadOnly: true };
                    _ranges.Insert(index++, new FlatRange(gap, region, (ulong)(first - origin), readOnly));
                }

                if (!blocked || _ranges[index].Range.Last.Value >= last)
                    return;
                first = _ranges[index++].Range.Last.Value + 1;
            }
        }

        private int FirstEndingAtOrAfter(ulong address)
        {
            int low = 0;
            int high = _ranges.Count;
            while (low < high)
            {
                int middle = (low + high) >>> 1;
                if (_ranges[middle].Range.Last.Value < address)
                    low = middle + 1;
                else
                    high = middle;
            }

            return low;
        }
    }
}
