using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>A run of pages that the device can reach.</summary>
/// <param name="Iova">Where the device sees it.</param>
/// <param name="Ram">The RAM page behind its first page; the others follow in the same block.</param>
/// <param name="Writable">Whether the device may write.</param>
internal readonly record struct Mapping(IovaPages Iova, RamPage Ram, bool Writable);

/// <summary>
/// What is <b>installed in the host now</b>, ordered by IOVA. Never derived from the guest's tables: this is what log bits are
/// attributed with (dirty-tracking, "Mapping table"). Guarded by its owner's gate.
/// </summary>
internal sealed class MappingTable
{
    private readonly PageRangeMap _map = new();

    /// <summary>Mappings installed.</summary>
    public int Count => _map.Count;

    /// <summary>Adds a mapping; false when it overlaps one that is installed.</summary>
    public bool TryInsert(in Mapping mapping) => _map.TryInsert(mapping.Iova, Encode(mapping));

    /// <summary>Removes the lowest mapping that has a page in <paramref name="range"/>. It may reach beyond.</summary>
    public bool TryTakeFirst(IovaPages range, out Mapping mapping)
    {
        bool found = _map.TryTakeFirst(range, out IovaPages taken, out ulong value);
        mapping = found ? Decode(taken, value) : default;
        return found;
    }

    /// <summary>Steps through the mappings that end above <paramref name="page"/>, ascending; over with any change of the table.</summary>
    public Cursor Seek(ulong page) => new(_map.Seek(page));

    /// <summary>Forgets everything.</summary>
    public void Clear() => _map.Clear();

    // RAM page numbers have 52 bits, so the right to write fits below.
    private static ulong Encode(in Mapping mapping) => (mapping.Ram.Index << 1) | (mapping.Writable ? 1UL : 0);

    private static Mapping Decode(IovaPages iova, ulong value) => new(iova, new RamPage(value >> 1), (value & 1) != 0);

    /// <summary>Steps through a table.</summary>
    internal ref struct Cursor
    {
        private PageRangeMap.Cursor _cursor;

        internal Cursor(PageRangeMap.Cursor cursor) => _cursor = cursor;

        /// <summary>The mapping stepped to.</summary>
        public readonly Mapping Current => Decode(_cursor.Range, _cursor.Value);

        /// <summary>Steps on; false at the end.</summary>
        public bool MoveNext() => _cursor.MoveNext();
    }
}
