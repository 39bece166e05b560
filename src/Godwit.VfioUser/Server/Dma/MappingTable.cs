using System.Diagnostics.CodeAnalysis;

namespace Godwit.VfioUser;

/// <summary>
/// The client's DMA mappings by address. Any thread looks up without a lock; one thread changes. Sorted leaves of mappings stand under nodes, and those under
/// the root, all of bounded size but the root. An array is never changed once readers can see it: a leaf or a node gets another one. So a change costs
/// the same with a million mappings as with a hundred: most copy one leaf, the few that make or remove one copy a node too, and hardly any the root.
/// </summary>
/// <param name="leafCapacity">Mappings of a full leaf: 1 KiB to copy.</param>
/// <param name="nodeCapacity">Leaves of a full node: 4 KiB to copy. A million mappings are some hundred nodes.</param>
internal sealed class MappingTable(int leafCapacity = 64, int nodeCapacity = 256)
{
    private volatile Index<Node> _root = Empty();

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
        (Index<Node> root, int nodeAt, Index<Leaf> leaves, int leafAt) = Descend(mapping.Start);
        Node node = root.Children[nodeAt];
        Leaf leaf = leaves.Children[leafAt];
        Entry[] entries = leaf.Entries;
        int at = UpperBound(entries, mapping.Start);
        var added = new Entry(mapping.Start, mapping);
        Count++;
        if (entries.Length < leafCapacity)
        {
            leaf.Entries = Inserted(entries, at, added);
            return;
        }
        leaves = Split(leaves, leafAt, at, added);
        if (leaves.Children.Length <= nodeCapacity)
        {
            node.Leaves = leaves;
        }
        else
        {
            // New nodes for both halves, as with leaves.
            (Index<Leaf> lower, ulong border, Index<Leaf> upper) = leaves.Halves();
            _root = root.Replaced(nodeAt, new Node(lower), border, new Node(upper));
        }
    }

    /// <summary>Takes a mapping of this table out. Accesses may still be inside.</summary>
    public void Remove(Mapping mapping)
    {
        (Index<Node> root, int nodeAt, Index<Leaf> leaves, int leafAt) = Descend(mapping.Start);
        Leaf leaf = leaves.Children[leafAt];
        Entry[] entries = leaf.Entries;
        int at = UpperBound(entries, mapping.Start) - 1;
        if (at < 0 || entries[at].Mapping != mapping)
            throw new InvalidOperationException($"No such mapping at 0x{mapping.Start:x}.");
        Count--;
        if (entries.Length > 1)
            leaf.Entries = Removed(entries, at);
        else if (leaves.Children.Length > 1)
            root.Children[nodeAt].Leaves = leaves.Without(leafAt);
        else if (root.Children.Length > 1)
            _root = root.Without(nodeAt);
        else
            _root = Empty();
    }

    /// <summary>Takes all out and lists them.</summary>
    public List<Mapping> Clear()
    {
        var all = new List<Mapping>(Count);
        Collect(0, ulong.MaxValue, all);
        _root = Empty();
        Count = 0;
        return all;
    }

    /// <summary>Lists the mappings that have a byte in the range, in order. For the changing thread.</summary>
    public void Collect(ulong start, ulong last, List<Mapping> result)
    {
        // The one around the start may stand in an earlier leaf.
        if (FindAtOrBefore(start) is { } around && around.Last >= start)
            result.Add(around);
        (Index<Node> root, int nodeAt, Index<Leaf> leaves, int leafAt) = Descend(start);
        while (true)
        {
            Entry[] entries = leaves.Children[leafAt].Entries;
            for (int i = UpperBound(entries, start); i < entries.Length; i++)
            {
                if (entries[i].Start > last)
                    return;
                result.Add(entries[i].Mapping);
            }
            if (++leafAt < leaves.Children.Length)
                continue;
            if (++nodeAt == root.Children.Length)
                return;
            leaves = root.Children[nodeAt].Leaves;
            leafAt = 0;
        }
    }

    private Mapping? FindAtOrBefore(ulong address)
    {
        Index<Node> root = _root;
        for (int nodeAt = root.PlaceOf(address); nodeAt >= 0; nodeAt--)
        {
            Index<Leaf> leaves = root.Children[nodeAt].Leaves;
            for (int leafAt = leaves.PlaceOf(address); leafAt >= 0; leafAt--)
            {
                // A leaf may hold nothing at or before the address when a mapping of the leaf before reaches over the border.
                Entry[] entries = leaves.Children[leafAt].Entries;
                int at = UpperBound(entries, address) - 1;
                if (at >= 0)
                    return entries[at].Mapping;
            }
        }
        return null;
    }

    /// <summary>The leaf that an address belongs to, and the way to it.</summary>
    private (Index<Node> Root, int NodeAt, Index<Leaf> Leaves, int LeafAt) Descend(ulong address)
    {
        Index<Node> root = _root;
        int nodeAt = root.PlaceOf(address);
        Index<Leaf> leaves = root.Children[nodeAt].Leaves;
        return (root, nodeAt, leaves, leaves.PlaceOf(address));
    }

    /// <summary>
    /// The leaves with a full one made two. A mapping beyond either end of the leaf begins one of its own, to which what else lies there belongs from then on:
    /// who maps upwards or downwards leaves full leaves behind.
    /// </summary>
    private static Index<Leaf> Split(Index<Leaf> leaves, int leafAt, int at, Entry added)
    {
        Leaf leaf = leaves.Children[leafAt];
        Entry[] entries = leaf.Entries;
        if (at == entries.Length)
            return leaves.Replaced(leafAt, leaf, entries[^1].Mapping.Last + 1, new Leaf([added]));
        if (at == 0)
            return leaves.Replaced(leafAt, new Leaf([added]), entries[0].Start, leaf);
        // New leaves for both halves: a reader that still holds the old leaves must keep seeing this one whole.
        Entry[] changed = Inserted(entries, at, added);
        int half = changed.Length / 2;
        return leaves.Replaced(leafAt, new Leaf(changed[..half]), changed[half].Start, new Leaf(changed[half..]));
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

    private static T[] Inserted<T>(T[] array, int at, T item)
    {
        var changed = new T[array.Length + 1];
        Array.Copy(array, changed, at);
        changed[at] = item;
        Array.Copy(array, at, changed, at + 1, array.Length - at);
        return changed;
    }

    private static T[] Removed<T>(T[] array, int at)
    {
        var changed = new T[array.Length - 1];
        Array.Copy(array, changed, at);
        Array.Copy(array, at + 1, changed, at, changed.Length - at);
        return changed;
    }

    /// <summary>One node with one leaf without a mapping: only in an empty table is a leaf empty.</summary>
    private static Index<Node> Empty() => new([], [new Node(new Index<Leaf>([], [new Leaf([])]))]);

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

    /// <summary>A node likewise.</summary>
    private sealed class Node(Index<Leaf> leaves)
    {
        private volatile Index<Leaf> _leaves = leaves;

        public Index<Leaf> Leaves
        {
            get => _leaves;
            set => _leaves = value;
        }
    }

    /// <summary>Children in order. What starts from border i on belongs to the children behind child i, what starts below to those up to it. Never changed.</summary>
    private sealed class Index<T>(ulong[] borders, T[] children)
    {
        public T[] Children { get; } = children;

        public int PlaceOf(ulong address)
        {
            int place = Array.BinarySearch(borders, address);
            return place >= 0 ? place + 1 : ~place;
        }

        /// <summary>With two children in the place of one.</summary>
        public Index<T> Replaced(int place, T lower, ulong border, T upper)
        {
            T[] changed = Inserted(Children, place + 1, upper);
            changed[place] = lower;
            return new Index<T>(Inserted(borders, place, border), changed);
        }

        /// <summary>Without a child: its addresses become those of the one before, or of the second if it was the first.</summary>
        public Index<T> Without(int place) => new(Removed(borders, Math.Max(place - 1, 0)), Removed(Children, place));

        public (Index<T> Lower, ulong Border, Index<T> Upper) Halves()
        {
            int half = Children.Length / 2;
            return (new Index<T>(borders[..(half - 1)], Children[..half]), borders[half - 1], new Index<T>(borders[half..], Children[half..]));
        }
    }
}
