namespace Godwit.Vfio;

/// <summary>Steps through several tables at once, by the first page of each run. Kept and used again, it allocates nothing.</summary>
internal struct MappingWalk
{
    private readonly MappingTable[] _tables;
    private readonly (MappingTable.Cursor Cursor, bool More)[] _cursors;

    /// <summary>Walks through <paramref name="tables"/>.</summary>
    public MappingWalk(params ReadOnlySpan<MappingTable> tables)
    {
        _tables = [.. tables];
        _cursors = new (MappingTable.Cursor, bool)[tables.Length];
    }

    /// <summary>Begins with what ends above <paramref name="page"/>.</summary>
    public readonly void Seek(ulong page)
    {
        for (int i = 0; i < _tables.Length; i++)
        {
            // Tables of what was unmapped are empty most of the time.
            _cursors[i].Cursor = _tables[i].Seek(page);
            _cursors[i].More = _tables[i].RunCount > 0 && _cursors[i].Cursor.MoveNext();
        }
    }

    /// <summary>The next run; false at the end.</summary>
    public readonly bool MoveNext(out Mapping mapping)
    {
        int lowest = -1;
        for (int i = 0; i < _cursors.Length; i++)
        {
            if (_cursors[i].More && (lowest < 0 || _cursors[i].Cursor.Current.Iova.First < _cursors[lowest].Cursor.Current.Iova.First))
                lowest = i;
        }

        mapping = lowest < 0 ? default : _cursors[lowest].Cursor.Current;
        if (lowest >= 0)
            _cursors[lowest].More = _cursors[lowest].Cursor.MoveNext();
        return lowest >= 0;
    }
}
