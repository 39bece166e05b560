namespace Godwit.Vfio;

/// <summary>
/// An ordered map from disjoint page ranges to a 64-bit value: sorted arrays in chunks below a sorted directory, so that a search is two
/// binary searches in contiguous memory, and an insertion moves at most one chunk. 24 bytes an entry. Not thread-safe.
/// </summary>
internal sealed class PageRangeMap
{
    /// <summary>
    /// Entries in a chunk. An insertion moves half of three arrays of that length (3 KiB), a million entries make a directory of
    /// some 64 KiB, of which a split moves half; smaller chunks move less below and more above.
    /// </summary>
    internal const int ChunkCapacity = 256;

    private ulong[] _firsts = new ulong[8];
    private Chunk[] _chunks = new Chunk[8];
    private int _chunkCount;
    private Chunk? _spare; // the last chunk that fell empty, so that a map that comes and goes allocates nothing

    /// <summary>Entries.</summary>
    public int Count { get; private set; }

    /// <summary>Adds a range; false when it overlaps one that is there.</summary>
    public bool TryInsert(IovaPages range, ulong value)
    {
        if (_chunkCount == 0)
        {
            InsertChunk(0, TakeSpare());
            _chunks[0].Set(0, range, value);
            _chunks[0].Count = 1;
            _firsts[0] = range.First;
            Count = 1;
            return true;
        }

        (int c, int i) = Locate(range.First);
        if (c >= 0 && _chunks[c].EndAt(i) > range.First)
            return false;
        if (TryNext(c, i, out int nextChunk, out int nextIndex) && _chunks[nextChunk].First[nextIndex] < range.End)
            return false;

        if (c < 0)
            (c, i) = (0, -1);
        i++; // goes behind the entry found
        if (i == ChunkCapacity && c + 1 < _chunkCount && _chunks[c + 1].Count < ChunkCapacity)
        {
            (c, i) = (c + 1, 0); // between two chunks: the one with room takes it
        }
        else if (_chunks[c].Count == ChunkCapacity)
        {
            Split(c);
            if (i > _chunks[c].Count)
            {
                i -= _chunks[c].Count;
                c++;
            }
        }

        Chunk chunk = _chunks[c];
        chunk.MakeRoom(i);
        chunk.Set(i, range, value);
        if (i == 0)
            _firsts[c] = range.First;
        Count++;
        return true;
    }

    /// <summary>Removes the lowest range that overlaps <paramref name="range"/>.</summary>
    public bool TryTakeFirst(IovaPages range, out IovaPages taken, out ulong value)
    {
        Cursor cursor = Seek(range.First);
        if (!cursor.MoveNext() || cursor.Range.First >= range.End)
        {
            (taken, value) = (default, 0);
            return false;
        }

        (taken, value) = (cursor.Range, cursor.Value);
        RemoveAt(cursor.ChunkIndex, cursor.Index);
        return true;
    }

    /// <summary>A cursor that will step through all ranges ending above <paramref name="page"/>, ascending. Ends with any change of the map.</summary>
    public Cursor Seek(ulong page)
    {
        (int c, int i) = Locate(page);
        if (c < 0)
            return new Cursor(this, 0, -1);
        return _chunks[c].EndAt(i) > page ? new Cursor(this, c, i - 1) : new Cursor(this, c, i);
    }

    /// <summary>Forgets everything.</summary>
    public void Clear()
    {
        Array.Clear(_chunks);
        _chunkCount = 0;
        Count = 0;
    }

    private void RemoveAt(int c, int i)
    {
        Chunk chunk = _chunks[c];
        chunk.Close(i);
        Count--;
        if (chunk.Count == 0)
        {
            RemoveChunk(c);
            return;
        }

        if (i == 0)
            _firsts[c] = chunk.First[0];
        // A chunk that has become small joins its neighbour while both leave room, so that churn does not leave a trail of splinters.
        if (chunk.Count <= ChunkCapacity / 4)
        {
            if (c + 1 < _chunkCount && chunk.Count + _chunks[c + 1].Count <= ChunkCapacity / 2)
                MergeWithNext(c);
            else if (c > 0 && chunk.Count + _chunks[c - 1].Count <= ChunkCapacity / 2)
                MergeWithNext(c - 1);
        }
    }

    /// <summary>The last entry that begins at or below <paramref name="page"/>; (-1, -1) when there is none.</summary>
    private (int Chunk, int Index) Locate(ulong page)
    {
        int c = LastAtOrBelow(_firsts.AsSpan(0, _chunkCount), page);
        return c < 0 ? (-1, -1) : (c, LastAtOrBelow(_chunks[c].First.AsSpan(0, _chunks[c].Count), page));
    }

    private static int LastAtOrBelow(ReadOnlySpan<ulong> sorted, ulong value)
    {
        int low = 0, high = sorted.Length;
        while (low < high)
        {
            int middle = (low + high) >>> 1;
            if (sorted[middle] <= value)
                low = middle + 1;
            else
                high = middle;
        }

        return low - 1;
    }

    private bool TryNext(int c, int i, out int nextChunk, out int nextIndex)
    {
        if (c < 0)
            (nextChunk, nextIndex) = (0, 0);
        else if (i + 1 < _chunks[c].Count)
            (nextChunk, nextIndex) = (c, i + 1);
        else
            (nextChunk, nextIndex) = (c + 1, 0);
        return nextChunk < _chunkCount;
    }

    private void Split(int c)
    {
        Chunk low = _chunks[c];
        Chunk high = TakeSpare();
        const int Half = ChunkCapacity / 2;
        low.CopyTo(Half, high, 0, low.Count - Half);
        high.Count = low.Count - Half;
        low.Count = Half;
        InsertChunk(c + 1, high);
        _firsts[c + 1] = high.First[0];
    }

    private void MergeWithNext(int c)
    {
        Chunk low = _chunks[c], high = _chunks[c + 1];
        high.CopyTo(0, low, low.Count, high.Count);
        low.Count += high.Count;
        RemoveChunk(c + 1);
    }

    private void InsertChunk(int at, Chunk chunk)
    {
        if (_chunkCount == _chunks.Length)
        {
            Array.Resize(ref _chunks, _chunkCount * 2);
            Array.Resize(ref _firsts, _chunkCount * 2);
        }

        Array.Copy(_chunks, at, _chunks, at + 1, _chunkCount - at);
        Array.Copy(_firsts, at, _firsts, at + 1, _chunkCount - at);
        _chunks[at] = chunk;
        _chunkCount++;
    }

    private void RemoveChunk(int c)
    {
        _spare = _chunks[c];
        _spare.Count = 0;
        _chunkCount--;
        Array.Copy(_chunks, c + 1, _chunks, c, _chunkCount - c);
        Array.Copy(_firsts, c + 1, _firsts, c, _chunkCount - c);
        _chunks[_chunkCount] = null!;
    }

    private Chunk TakeSpare()
    {
        Chunk chunk = _spare ?? new Chunk();
        _spare = null;
        return chunk;
    }

    /// <summary>Steps through a map.</summary>
    internal ref struct Cursor
    {
        private readonly PageRangeMap _map;

        internal Cursor(PageRangeMap map, int chunk, int index)
        {
            _map = map;
            ChunkIndex = chunk;
            Index = index;
        }

        internal int ChunkIndex { get; private set; }

        internal int Index { get; private set; }

        /// <summary>The range stepped to.</summary>
        public readonly IovaPages Range => new(_map._chunks[ChunkIndex].First[Index], _map._chunks[ChunkIndex].Pages[Index]);

        /// <summary>Its value.</summary>
        public readonly ulong Value => _map._chunks[ChunkIndex].Value[Index];

        /// <summary>Steps on; false at the end.</summary>
        public bool MoveNext()
        {
            if (ChunkIndex >= _map._chunkCount)
                return false;
            if (++Index < _map._chunks[ChunkIndex].Count)
                return true;
            ChunkIndex++;
            Index = 0;
            return ChunkIndex < _map._chunkCount; // no chunk is ever empty
        }
    }

    private sealed class Chunk
    {
        public readonly ulong[] First = new ulong[ChunkCapacity];
        public readonly ulong[] Pages = new ulong[ChunkCapacity];
        public readonly ulong[] Value = new ulong[ChunkCapacity];
        public int Count;

        public ulong EndAt(int i) => First[i] + Pages[i];

        public void Set(int i, IovaPages range, ulong value)
        {
            First[i] = range.First;
            Pages[i] = range.Count;
            Value[i] = value;
        }

        public void MakeRoom(int i)
        {
            CopyTo(i, this, i + 1, Count - i);
            Count++;
        }

        public void Close(int i)
        {
            Count--;
            CopyTo(i + 1, this, i, Count - i);
        }

        public void CopyTo(int from, Chunk target, int to, int count)
        {
            Array.Copy(First, from, target.First, to, count);
            Array.Copy(Pages, from, target.Pages, to, count);
            Array.Copy(Value, from, target.Value, to, count);
        }
    }
}
