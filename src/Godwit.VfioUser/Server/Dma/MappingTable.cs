using System.Diagnostics.CodeAnalysis;

namespace Godwit.VfioUser;

/// <summary>
/// The client's DMA mappings by address. Any thread looks up without a lock; one thread changes. Mappings are kept in sorted leaves of
/// bounded size that are replaced when they change, under an index that is replaced when leaves come and go, so a change costs the same
/// with a hundred thousand mappings as with a hundred, but for the rare split.
/// </summary>
internal sealed class MappingTable
{
    /// <summary>Entries of a full leaf: copying it is 1 KiB, and the index of 100 000 mappings stays below 3000 leaves.</summary>
    private const int LeafCapacity = 64;

    private volatile Node _root = Node.Empty();

    /// <summary>What retiring mappings wait on, and leaving accesses wake.</summary>
    public object Drained { get; } = new();

    /// <summary>Mappings now.</summary>
    public int Count { get; private set; }

    /// <summary>Finds the mapping around <paramref name="address"/> and begins an access to it; the caller ends it.</summary>
    public bool TryEnter(ulong address, [NotNullWhen(true)] out Mapping? mapping)
    {
        while (true)
        {
            mapping = Find(address);
            if (mapping is null)
                return false;
            if (mapping.TryEnter(Drained))
                return true;
            // It left the table before it was retired, so the next look finds what is there now.
        }
    }

    /// <summary>The mapping around <paramref name="address"/>, which may be on its way out, or null.</summary>
    public Mapping? Find(ulong address)
    {
        Mapping? candidate = FindAtOrBefore(address);
        return candidate is not null && candidate.Last >= address ? candidate : null;
    }

    /// <summary>A mapping that has a byte in the range, or null. For the changing thread.</summary>
    public Mapping? FindOverlap(ulong start, ulong last)
    {
        Mapping? candidate = FindAtOrBefore(last);
        return candidate is not null && candidate.Last >= start ? candidate : null;
    }

    /// <summary>Adds a mapping that overlaps no other.</summary>
    public void Add(Mapping mapping)
    {
        Node root = _root;
        int index = root.LeafFor(mapping.Start);
        Leaf leaf = root.Leaves[index];
        Entry[] entries = leaf.Entries;
        int at = UpperBound(entries, mapping.Start);
        var changed = new Entry[entries.Length + 1];
        Array.Copy(entries, changed, at);
        changed[at] = new Entry(mapping.Start, mapping);
        Array.Copy(entries, at, changed, at + 1, entries.Length - at);
        if (changed.Length <= LeafCapacity)
        {
            leaf.Entries = changed;
        }
        else
        {
            // New leaves for both halves: a reader that still holds the old index must keep seeing the old leaf whole.
            int half = changed.Length / 2;
            _root = root.Replace(index, new Leaf(changed[..half]), new Leaf(changed[half..]), changed[half].Start);
        }
        Count++;
    }

    /// <summary>Takes a mapping of this table out. Accesses may still be inside.</summary>
    public void Remove(Mapping mapping)
    {
        Node root = _root;
        int index = root.LeafFor(mapping.Start);
        Leaf leaf = root.Leaves[index];
        Entry[] entries = leaf.Entries;
        int at = UpperBound(entries, mapping.Start) - 1;
        if (at < 0 || entries[at].Mapping != mapping)
            throw new InvalidOperationException($"No such mapping at 0x{mapping.Start:x}.");
        if (entries.Length == 1 && root.Leaves.Length > 1)
        {
            _root = root.Without(index);
        }
        else
        {
            var changed = new Entry[entries.Length - 1];
            Array.Copy(entries, changed, at);
            Array.Copy(entries, at + 1, changed, at, changed.Length - at);
            leaf.Entries = changed;
        }
        Count--;
    }

    /// <summary>Takes all out and lists them.</summary>
    public List<Mapping> Clear()
    {
        var all = new List<Mapping>(Count);
        foreach (Leaf leaf in _root.Leaves)
        {
            foreach (Entry entry in leaf.Entries)
                all.Add(entry.Mapping);
        }
        _root = Node.Empty();
        Count = 0;
        return all;
    }

    /// <summary>Lists the mappings that have a byte in the range, in order. For the changing thread.</summary>
    public void Collect(ulong start, ulong last, List<Mapping> result)
    {
        Node root = _root;
        int index = root.LeafFor(start);
        // The one around the start may stand in an earlier leaf.
        if (FindAtOrBefore(start) is { } around && around.Last >= start)
            result.Add(around);
        for (; index < root.Leaves.Length && (index == 0 || root.Keys[index] <= last); index++)
        {
            Entry[] entries = root.Leaves[index].Entries;
            for (int i = UpperBound(entries, start); i < entries.Length; i++)
            {
                if (entries[i].Start > last)
                    return;
                result.Add(entries[i].Mapping);
            }
        }
    }

    private Mapping? FindAtOrBefore(ulong address)
    {
        Node root = _root;
        for (int index = root.LeafFor(address); index >= 0; index--)
        {
            // A leaf may hold nothing at or before the address when a mapping of the leaf before reaches over the border.
            Entry[] entries = root.Leaves[index].Entries;
            int at = UpperBound(entries, address) - 1;
            if (at >= 0)
                return entries[at].Mapping;
        }
        return null;
    }

    /// <summary>Number of entries that start at or before <paramref name="address"/>.</summary>
    private static int UpperBound(Entry[] entries, ulong address)
    {
        int low = 0;
        int high = entries.Length;
        while (low < high)
        {
            int middle = (low + high) >>> 1;
            if (entries[middle].Start <= address)
                low = middle + 1;
            else
                high = middle;
        }
        return low;
    }

    private readonly record struct Entry(ulong Start, Mapping Mapping);

    /// <summary>A leaf keeps its identity while its content, itself never changed, is replaced.</summary>
    private sealed class Leaf(Entry[] entries)
    {
        private volatile Entry[] _entries = entries;

        public Entry[] Entries
        {
            get => _entries;
            set => _entries = value;
        }
    }

    /// <summary>The index: leaf i holds what starts from Keys[i] up to before Keys[i + 1]. Never changed.</summary>
    private sealed class Node(ulong[] keys, Leaf[] leaves)
    {
        public ulong[] Keys { get; } = keys;

        public Leaf[] Leaves { get; } = leaves;

        public static Node Empty() => new([0], [new Leaf([])]);

        public int LeafFor(ulong address)
        {
            int index = Array.BinarySearch(Keys, address);
            return index >= 0 ? index : ~index - 1;
        }

        public Node Replace(int index, Leaf lower, Leaf upper, ulong upperKey)
        {
            var newKeys = new ulong[Keys.Length + 1];
            var newLeaves = new Leaf[newKeys.Length];
            Array.Copy(Keys, newKeys, index + 1);
            Array.Copy(Leaves, newLeaves, index);
            newLeaves[index] = lower;
            newKeys[index + 1] = upperKey;
            newLeaves[index + 1] = upper;
            Array.Copy(Keys, index + 1, newKeys, index + 2, Keys.Length - index - 1);
            Array.Copy(Leaves, index + 1, newLeaves, index + 2, Keys.Length - index - 1);
            return new Node(newKeys, newLeaves);
        }

        public Node Without(int index)
        {
            var newKeys = new ulong[Keys.Length - 1];
            var newLeaves = new Leaf[newKeys.Length];
            Array.Copy(Keys, newKeys, index);
            Array.Copy(Leaves, newLeaves, index);
            Array.Copy(Keys, index + 1, newKeys, index, newKeys.Length - index);
            Array.Copy(Leaves, index + 1, newLeaves, index, newKeys.Length - index);
            newKeys[0] = 0; // the first leaf takes everything below the second
            return new Node(newKeys, newLeaves);
        }
    }
}
