namespace Godwit.Vfio;

/// <summary>Steps through several tables at once, by the first page of each run. Kept and used again, it allocates nothing.</summary>
internal struct MappingWalk
{
    private readonly MappingTable[] _tables;
    private readonly MappingTable.Cursor[] _cursors; // the first _open are on a run that has not been handed out
    private int _open;

    /// <summary>Walks through <paramref name="tables"/>.</summary>
    public MappingWalk(params ReadOnlySpan<MappingTable> tables)
    {
        _tables = [.. tables];
        _cursors = new MappingTable.Cursor[tables.Length];
    }

    /// <summary>Begins with what ends above <paramref name="page"/>.</summary>
    public void Seek(ulong page)
    {
        _open = 0;
        foreach (MappingTable table in _tables)
        {
            // Tables of what was unmapped are empty most of the time.
            if (table.RunCount == 0)
                continue;
            _cursors[_open] = table.Seek(page);
            if (_cursors[_open].MoveNext())
                _open++;
        }
    }

    /// <summary>The next run; false at the end.</summary>
    public bool MoveNext(out Mapping mapping)
    {
        int lowest = 0;
        for (int i = 1; i < _open; i++)
        {
            if (_cursors[i].First < _cursors[lowest].First)
                lowest = i;
        }

        if (_open == 0)
        {
            mapping = default;
            return false;
        }

        ref MappingTable.Cursor cursor = ref _cursors[lowest];
        mapping = cursor.Current;
        if (!cursor.MoveNext())
            cursor = _cursors[--_open];
        return true;
    }
}
