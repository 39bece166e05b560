using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>A run of pages that the device can reach.</summary>
/// <param name="Iova">Where the device sees it.</param>
/// <param name="Ram">The RAM page behind its first page; the others follow in the same block.</param>
/// <param name="Writable">Whether the device may write.</param>
internal readonly record struct Mapping(IovaPages Iova, RamPage Ram, bool Writable)
{
    /// <summary>Pages <paramref name="first"/> to before <paramref name="end"/>, which are some of it.</summary>
    public Mapping Part(ulong first, ulong end) => new(IovaPages.Between(first, end), Ram + (first - Iova.First), Writable);
}

/// <summary>
/// What is <b>installed in the host now</b>, ordered by IOVA. Never derived from the guest's tables: this is what log bits are
/// attributed with (dirty-tracking, "Mapping table"). 24 bytes for a run of mappings of one size that continue each other by IOVA and by RAM.
/// Changed under its owner's gate; read by any thread at any time.
/// </summary>
internal sealed class MappingTable
{
    // RAM page numbers have 52 bits, so the right to write fits below.
    private readonly PageRangeMap _map = new(step: 2);

    /// <summary>Mappings installed.</summary>
    public int Count => _map.Count;

    /// <summary>Runs that they are kept as.</summary>
    public int RunCount => _map.RunCount;

    /// <summary>Changes so far: the same number means the same table.</summary>
    public long Epoch => _map.Epoch;

    /// <summary>Adds a mapping; false when it overlaps one that is installed.</summary>
    public bool TryInsert(in Mapping mapping) => _map.TryInsert(mapping.Iova, Encode(mapping));

    /// <summary>Removes the lowest mapping that has a page in <paramref name="range"/>, as it was inserted. It may reach beyond.</summary>
    public bool TryTakeFirst(IovaPages range, out Mapping mapping)
    {
        bool found = _map.TryTakeFirst(range, out IovaPages taken, out ulong value);
        mapping = found ? Decode(taken, value) : default;
        return found;
    }

    /// <summary>Whether every page of a mapping is there in one run, at the same IOVA and with the same right.</summary>
    public bool Contains(in Mapping mapping)
    {
        Cursor cursor = Seek(mapping.Iova.First);
        return cursor.MoveNext() && cursor.Current is var run && run.Iova.First <= mapping.Iova.First && mapping.Iova.End <= run.Iova.End
            && run.Writable == mapping.Writable && run.Ram + (mapping.Iova.First - run.Iova.First) == mapping.Ram;
    }

    /// <summary>
    /// Steps through what ends above <paramref name="page"/>, ascending, by runs: mappings of one size that continue each other by IOVA and by RAM
    /// come as one. What is installed all the time is seen once; what comes or goes meanwhile may be.
    /// </summary>
    public Cursor Seek(ulong page) => new(_map.Seek(page));

    /// <summary>Forgets everything.</summary>
    public void Clear() => _map.Clear();

    private static ulong Encode(in Mapping mapping) => (mapping.Ram.Index << 1) | (mapping.Writable ? 1UL : 0);

    private static Mapping Decode(IovaPages iova, ulong value) => new(iova, new RamPage(value >> 1), (value & 1) != 0);

    /// <summary>Steps through a table.</summary>
    internal struct Cursor
    {
        private PageRangeMap.Cursor _cursor;

        internal Cursor(PageRangeMap.Cursor cursor) => _cursor = cursor;

        /// <summary>The run stepped to.</summary>
        public readonly Mapping Current => Decode(_cursor.Current.Range, _cursor.Current.Value);

        /// <summary>First page of it.</summary>
        public readonly ulong First => _cursor.Current.First;

        /// <summary>Pages of each mapping in it.</summary>
        public readonly ulong MappingPages => _cursor.Current.RangePages;

        /// <summary>Behind its last page.</summary>
        public readonly ulong End => _cursor.Current.End;

        /// <summary>
        /// Of the mappings that follow, as many as lie side by side and <paramref name="pages"/> has room for: notes there the RAM pages of writable ones
        /// whose bit in <paramref name="bits"/> is set, and steps to the last one. It ends before a run of more than one page and before what has no
        /// bit. Returns how many it stepped over: none also when the table changes. Costs the same whether bits are set or not.
        /// </summary>
        /// <param name="bits">Bit 0 of <c>bits[0]</c> is IOVA page <paramref name="origin"/>.</param>
        /// <param name="origin">An IOVA page.</param>
        /// <param name="count">Pages that have bits.</param>
        /// <param name="pages">Where pages go.</param>
        /// <param name="found">How many went there.</param>
        public int PassSinglePages(ReadOnlySpan<ulong> bits, ulong origin, ulong count, Span<RamPage> pages, out int found)
        {
            RangeRuns runs = _cursor.Ahead;
            int most = Math.Min(pages.Length, runs.Keys.Length);
            ReadOnlySpan<ulong> keys = runs.Keys[..most], lengths = runs.Pages[..most], values = runs.Values[..most];
            found = 0;
            int seen = 0;
            for (; seen < keys.Length; seen++)
            {
                ulong bit = (keys[seen] >> RangeRun.ShapeBits) - origin;
                if (lengths[seen] != 1 || bit >= count)
                    break;
                // No branch that depends on the bit: a wrong guess costs more than the rest.
                ulong value = values[seen];
                pages[found] = new RamPage(value >> 1);
                found += (int)(bits[(int)(bit / 64)] >> (int)(bit % 64) & value & 1);
            }

            if (_cursor.TryPass(seen))
                return seen;
            found = 0;
            return 0;
        }

        /// <summary>Steps on; false at the end.</summary>
        public bool MoveNext() => _cursor.MoveNext();

        /// <summary>Steps on to the first run that ends above <paramref name="page"/>, which is not below the end of this one; false at the end.</summary>
        public bool MoveTo(ulong page) => _cursor.MoveTo(page);
    }
}
