namespace Godwit.Memory;

/// <summary>Which regions show a changed one, through children and aliases. For one commit: remembers what it has found.</summary>
internal sealed class RegionGraph(HashSet<MemoryRegion> changed)
{
    private readonly Dictionary<MemoryRegion, bool> _known = [];

    /// <summary>Whether <paramref name="region"/> is or shows a changed region. The graph has no loops, so this ends.</summary>
    internal bool Includes(MemoryRegion region)
    {
        if (_known.TryGetValue(region, out bool known))
            return known;
        bool result = changed.Contains(region);
        // What a disabled region shows does not matter until it is enabled, which is a change itself.
        if (!result && region.Enabled)
        {
            result = region switch
            {
                AliasRegion alias => Includes(alias.Target),
                ContainerRegion container => container.Children.Any(Includes),
                _ => false,
            };
        }

        _known.Add(region, result);
        return result;
    }

    /// <summary>Whether <paramref name="from"/> is or would show <paramref name="goal"/>, enabled or not.</summary>
    internal static bool Reaches(MemoryRegion from, MemoryRegion goal)
    {
        var seen = new HashSet<MemoryRegion>();
        var pending = new Stack<MemoryRegion>();
        pending.Push(from);
        while (pending.TryPop(out MemoryRegion? region))
        {
            if (ReferenceEquals(region, goal))
                return true;
            if (!seen.Add(region))
                continue;
            if (region is AliasRegion alias)
            {
                pending.Push(alias.Target);
            }
            else if (region is ContainerRegion container)
            {
                foreach (MemoryRegion child in container.Children)
                    pending.Push(child);
            }
        }

        return false;
    }
}
