using System.Text;

namespace Godwit.Memory;

/// <summary>Region trees and flat views as text. Called with the writer lock held.</summary>
internal static class TopologyListing
{
    internal static string Write(IReadOnlyCollection<AddressSpace> spaces)
    {
        var text = new StringBuilder();
        var written = new HashSet<MemoryRegion>();
        var pending = new Queue<MemoryRegion>();
        foreach (AddressSpace space in spaces)
        {
            text.AppendLine($"address space: {space.Name}, root {space.Root}");
            pending.Enqueue(space.Root);
        }

        // Aliased trees that hang in no space come after the spaces' own, each once.
        while (pending.TryDequeue(out MemoryRegion? region))
        {
            if (region.Parent is not null || !written.Add(region))
                continue;
            text.AppendLine().AppendLine($"tree: {region.Name}");
            WriteTree(text, region, 0, 1, pending);
        }

        foreach (IGrouping<FlatView, AddressSpace> group in spaces.GroupBy(space => space.View))
        {
            text.AppendLine().AppendLine($"flat view of {string.Join(", ", group.Select(space => space.Name))}, root {group.Key.Root}");
            foreach (FlatRange range in group.Key.Ranges)
                text.AppendLine($"  {Bounds(range)} {range.Region} @0x{range.OffsetInRegion:x}{(range.ReadOnly ? " read-only" : "")}");
            if (group.Key.Ranges.IsEmpty)
                text.AppendLine("  nothing");
        }

        return text.ToString();
    }

    private static string Bounds(in FlatRange range) => $"{range.Range.First.Value:x16}-{range.Range.Last.Value:x16}";

    private static void WriteTree(StringBuilder text, MemoryRegion region, UInt128 origin, int depth, Queue<MemoryRegion> aliased)
    {
        UInt128 last = origin + (region.Size - 1);
        text.Append(' ', depth * 2).Append($"{origin:x16}-{last:x16} (priority {region.Priority}) {region}");
        if (region is AliasRegion alias)
        {
            text.Append($" of {alias.Target} @0x{alias.TargetOffset:x}");
            MemoryRegion top = alias.Target;
            while (top.Parent is not null)
                top = top.Parent;
            aliased.Enqueue(top);
        }

        text.AppendLine(region.Enabled ? "" : " [disabled]");
        if (region is not ContainerRegion container)
            return;
        foreach (MemoryRegion child in container.Children)
            WriteTree(text, child, origin + child.Offset.Value, depth + 1, aliased);
    }
}
