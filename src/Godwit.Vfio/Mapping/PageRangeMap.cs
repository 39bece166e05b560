namespace Godwit.Vfio;

/// <summary>
/// An ordered map from disjoint page ranges to a 64-bit value: sorted arrays in chunks below a sorted directory, so that a search is two
/// binary searches in contiguous memory, and an insertion moves at most one chunk. Ranges that continue each other are kept as one run.
/// </summary>
/// <remarks>
/// One thread at a time may change it. <see cref="Seek"/> and the cursors may be used by any thread meanwhile, without a lock and without making
/// the writer wait: a reader that meets a change looks again. What was in the map all the time while a reader walked over it is seen, once, and
/// nothing is seen that was never there; <see cref="Epoch"/> tells whether anything has changed.
/// </remarks>
/// <param name="step">
/// How much values of neighbours differ by page when they may be joined; null when ranges are never joined. Only ranges of the same size, a power of
/// two, are joined, so that each can be taken out again as it was put in.
/// </param>
internal sealed class PageRangeMap(ulong? step = null)
{
    /// <summary>Empty chunks kept at most: 192 KiB.</summary>
    private const int MaxSpares = 32;

    private ulong[] _firsts = new ulong[8];
    private RangeChunk?[] _chunks = new RangeChunk?[8];
    private int _chunkCount;
    private int _version; // odd while the three above change
    private long _epoch;
    private readonly RangeChunk?[] _spares = new RangeChunk?[MaxSpares]; // chunks that fell empty, so that a map that comes and goes allocates nothing
    private int _spareCount;
    private (RangeChunk? Chunk, int Index) _lastInsert;

    /// <summary>Ranges, as they were inserted.</summary>
    public int Count { get; private set; }

    /// <summary>Runs that they are kept as.</summary>
    public int RunCount { get; private set; }

    /// <summary>Changes so far. Any thread.</summary>
    public long Epoch => Volatile.Read(ref _epoch);

    /// <summary>Adds a range; false when it overlaps one that is there.</summary>
    public bool TryInsert(IovaPages range, ulong value)
    {
        (int c, int i) = Locate(range.First);
        if (c >= 0 && ChunkAt(c).EndAt(i) > range.First)
            return false;
        bool hasNext = TryNext(c, i, out int nextChunk, out int nextIndex);
        if (hasNext && ChunkAt(nextChunk).FirstAt(nextIndex) < range.End)
            return false;

        RangeRun run = RangeRun.Of(range, value, step is not null);
        Count++;
        Changed();
        bool joinsNext = hasNext && step is { } s && run.Continues(ChunkAt(nextChunk)[nextIndex], s);
        if (c >= 0 && step is { } t && ChunkAt(c)[i].Continues(run, t))
        {
            RangeRun joined = ChunkAt(c)[i].With(run);
            if (joinsNext)
                joined = joined.With(ChunkAt(nextChunk)[nextIndex]);
            // Longer first and shorter afterwards, so that a reader in between sees a page twice and not never; its cursor leaves out what it had.
            ChunkAt(c).Replace(i, joined);
            if (joinsNext)
                RemoveRun(nextChunk, nextIndex);
        }
        else if (joinsNext)
        {
            ChunkAt(nextChunk).Replace(nextIndex, run.With(ChunkAt(nextChunk)[nextIndex]));
            KeepFirst(nextChunk, nextIndex);
        }
        else
        {
            InsertBehind(c, i, run);
        }

        return true;
    }

    /// <summary>Removes the lowest range that overlaps <paramref name="range"/>.</summary>
    public bool TryTakeFirst(IovaPages range, out IovaPages taken, out ulong value)
    {
        (int c, int i) = Locate(range.First);
        if ((c < 0 || ChunkAt(c).EndAt(i) <= range.First) && (!TryNext(c, i, out c, out i) || ChunkAt(c).FirstAt(i) >= range.End))
        {
            (taken, value) = (default, 0);
            return false;
        }

        RangeRun run = ChunkAt(c)[i];
        ulong from = Math.Max(range.First, run.First);
        from = run.First + (from - run.First) / run.RangePages * run.RangePages;
        RangeRun one = run.RangePages == run.Pages ? run : run.Part(from, from + run.RangePages, step ?? 0);
        (taken, value) = (one.Range, one.Value);
        Count--;
        Changed();
        TakeOut(c, i, run, one);
        return true;
    }

    /// <summary>A cursor that will step through all runs ending above <paramref name="page"/>, ascending. Any thread.</summary>
    public Cursor Seek(ulong page) => new(this, page);

    /// <summary>Forgets everything.</summary>
    public void Clear()
    {
        Changed();
        BeginDirectory();
        for (int c = 0; c < _chunkCount; c++)
        {
            ChunkAt(c).Clear();
            KeepSpare(ChunkAt(c));
        }

        Array.Clear(_chunks);
        _chunkCount = 0;
        EndDirectory();
        (Count, RunCount) = (0, 0);
    }

    /// <summary>The lowest run that ends above <paramref name="page"/>, and where it is. Any thread.</summary>
    private bool Find(ulong page, out RangeRun run, out RangeChunk? chunk, out int version, out int index)
    {
        var patience = default(SpinWait);
        while (true)
        {
            int before = Volatile.Read(ref _version);
            if ((before & 1) == 0 && TryFind(page, out bool found, out run, out chunk, out version, out index))
            {
                Volatile.ReadBarrier();
                if (_version == before)
                    return found;
            }

            patience.SpinOnce(sleep1Threshold: -1);
        }
    }

    /// <summary>One attempt; false when something changed meanwhile. What it reads of the directory is checked by the caller.</summary>
    private bool TryFind(ulong page, out bool found, out RangeRun run, out RangeChunk? chunk, out int version, out int index)
    {
        (found, run, chunk, version, index) = (false, default, null, 0, 0);
        // Read once; arrays that are exchanged meanwhile differ in length at most.
        ulong[] firsts = Volatile.Read(ref _firsts);
        RangeChunk?[] chunks = Volatile.Read(ref _chunks);
        int count = Math.Min(Volatile.Read(ref _chunkCount), Math.Min(firsts.Length, chunks.Length));
        for (int c = Math.Max(0, LastAtOrBelow(firsts.AsSpan(0, count), page)); c < count; c++)
        {
            chunk = chunks[c];
            if (chunk is null || ((version = chunk.Version) & 1) != 0)
                return false;
            int runs = Math.Min(chunk.Count, RangeChunk.Capacity);
            index = Math.Max(0, chunk.LastAtOrBelow(page, runs));
            if (index < runs && chunk.EndAt(index) <= page)
                index++;
            found = index < runs;
            if (found)
                run = chunk[index];
            if (!chunk.IsStill(version))
                return false;
            if (found)
                return true;
        }

        return true;
    }

    /// <summary>Takes one range out of a run: all of it, or an end, or from its middle.</summary>
    private void TakeOut(int c, int i, in RangeRun run, in RangeRun one)
    {
        ulong s = step ?? 0;
        if (one.Pages == run.Pages)
        {
            RemoveRun(c, i);
        }
        else if (one.End == run.End)
        {
            ChunkAt(c).Replace(i, run.Part(run.First, one.First, s));
        }
        else if (one.First == run.First)
        {
            ChunkAt(c).Replace(i, run.Part(one.End, run.End, s));
            KeepFirst(c, i);
        }
        else
        {
            if (ChunkAt(c).Count == RangeChunk.Capacity)
            {
                Split(c, RangeChunk.Capacity / 2);
                if (i >= ChunkAt(c).Count)
                    (c, i) = (c + 1, i - ChunkAt(c).Count);
            }

            ChunkAt(c).ReplaceByTwo(i, run.Part(run.First, one.First, s), run.Part(one.End, run.End, s));
            RunCount++;
        }
    }

    private void InsertBehind(int c, int i, in RangeRun run)
    {
        if (c < 0)
            (c, i) = (0, -1);
        i++;
        if (_chunkCount == 0)
        {
            InsertChunk(0, TakeSpare(), run.First);
        }
        else if (ChunkAt(c).Count == RangeChunk.Capacity)
        {
            // Who inserts in order, up or down, leaves full chunks behind; half full ones are for the others.
            if (i == RangeChunk.Capacity && c + 1 < _chunkCount && ChunkAt(c + 1).Count < RangeChunk.Capacity)
                (c, i) = (c + 1, 0);
            else if (i == RangeChunk.Capacity)
                InsertChunk(++c, TakeSpare(), run.First);
            else if (i == 0)
                InsertChunk(c, TakeSpare(), run.First);
            else
                Split(c, ReferenceEquals(_lastInsert.Chunk, ChunkAt(c)) && _lastInsert.Index is var last && (last == i || last == i - 1) ? i : RangeChunk.Capacity / 2);
            if (i > ChunkAt(c).Count)
                (c, i) = ChunkAt(c).Count == 0 ? (c, 0) : (c + 1, i - ChunkAt(c).Count);
        }

        ChunkAt(c).Insert(i, run);
        KeepFirst(c, i);
        RunCount++;
        _lastInsert = (ChunkAt(c), i);
    }

    private void RemoveRun(int c, int i)
    {
        RangeChunk chunk = ChunkAt(c);
        chunk.Remove(i);
        RunCount--;
        if (chunk.Count == 0)
        {
            RemoveChunk(c);
            return;
        }

        KeepFirst(c, i);
        // A chunk that has become small joins its neighbour while both leave room, so that churn does not leave a trail of splinters.
        if (chunk.Count <= RangeChunk.Capacity / 4)
        {
            if (c + 1 < _chunkCount && chunk.Count + ChunkAt(c + 1).Count <= RangeChunk.Capacity / 4 * 3)
                MergeWithNext(c);
            else if (c > 0 && chunk.Count + ChunkAt(c - 1).Count <= RangeChunk.Capacity / 4 * 3)
                MergeWithNext(c - 1);
        }
    }

    private RangeChunk ChunkAt(int c) => _chunks[c]!;

    private void Changed() => Volatile.Write(ref _epoch, _epoch + 1);

    /// <summary>The last run that begins at or below <paramref name="page"/>; (-1, -1) when there is none.</summary>
    private (int Chunk, int Index) Locate(ulong page)
    {
        int c = LastAtOrBelow(_firsts.AsSpan(0, _chunkCount), page);
        return c < 0 ? (-1, -1) : (c, ChunkAt(c).LastAtOrBelow(page, ChunkAt(c).Count));
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
        else if (i + 1 < ChunkAt(c).Count)
            (nextChunk, nextIndex) = (c, i + 1);
        else
            (nextChunk, nextIndex) = (c + 1, 0);
        return nextChunk < _chunkCount;
    }

    private void KeepFirst(int c, int changed)
    {
        if (changed != 0 || _firsts[c] == ChunkAt(c).FirstAt(0))
            return;
        BeginDirectory();
        _firsts[c] = ChunkAt(c).FirstAt(0);
        EndDirectory();
    }

    private void Split(int c, int at)
    {
        RangeChunk low = ChunkAt(c), high = TakeSpare();
        ulong first = low.FirstAt(at);
        BeginDirectory();
        low.MoveTo(high, at);
        PutChunk(c + 1, high, first);
        EndDirectory();
    }

    private void MergeWithNext(int c)
    {
        BeginDirectory();
        ChunkAt(c + 1).MoveTo(ChunkAt(c), 0);
        DropChunk(c + 1);
        EndDirectory();
    }

    private void InsertChunk(int at, RangeChunk chunk, ulong first)
    {
        BeginDirectory();
        PutChunk(at, chunk, first);
        EndDirectory();
    }

    private void RemoveChunk(int c)
    {
        BeginDirectory();
        DropChunk(c);
        EndDirectory();
    }

    private void PutChunk(int at, RangeChunk chunk, ulong first)
    {
        if (_chunkCount == _chunks.Length)
        {
            Array.Resize(ref _chunks, _chunkCount * 2);
            Array.Resize(ref _firsts, _chunkCount * 2);
        }

        Array.Copy(_chunks, at, _chunks, at + 1, _chunkCount - at);
        Array.Copy(_firsts, at, _firsts, at + 1, _chunkCount - at);
        _chunks[at] = chunk;
        _firsts[at] = first;
        _chunkCount++;
    }

    private void DropChunk(int c)
    {
        KeepSpare(ChunkAt(c));
        _chunkCount--;
        Array.Copy(_chunks, c + 1, _chunks, c, _chunkCount - c);
        Array.Copy(_firsts, c + 1, _firsts, c, _chunkCount - c);
        _chunks[_chunkCount] = null;
    }

    private RangeChunk TakeSpare() => _spareCount > 0 ? _spares[--_spareCount]! : new RangeChunk();

    private void KeepSpare(RangeChunk chunk)
    {
        if (_spareCount < MaxSpares)
            _spares[_spareCount++] = chunk;
    }

    private void BeginDirectory()
    {
        _version++;
        Volatile.WriteBarrier();
    }

    private void EndDirectory() => Volatile.Write(ref _version, _version + 1);

    /// <summary>Steps through a map, also while it changes.</summary>
    internal struct Cursor
    {
        private readonly PageRangeMap _map;
        private RangeChunk? _chunk;
        private int _version, _index;
        private ulong _next; // pages below were seen
        private bool _moved;

        internal Cursor(PageRangeMap map, ulong page)
        {
            _map = map;
            _next = page;
        }

        /// <summary>The run stepped to. The first may begin below the page of the search, none begins below the end of the one before.</summary>
        public RangeRun Current { get; private set; }

        /// <summary>Steps on; false at the end.</summary>
        public bool MoveNext() => MoveTo(_next);

        /// <summary>Steps on to the first run that ends above <paramref name="page"/>, which is not below the end of this one; false at the end.</summary>
        public bool MoveTo(ulong page)
        {
            if (_chunk is { } chunk && _index + 1 < Math.Min(chunk.Count, RangeChunk.Capacity))
            {
                RangeRun next = chunk[_index + 1];
                if (next.End > page && chunk.IsStill(_version))
                {
                    _index++;
                    return Take(next);
                }

                if (chunk.TryFindAbove(page, _index + 1, out int index))
                {
                    next = chunk[index];
                    if (chunk.IsStill(_version))
                    {
                        _index = index;
                        return Take(next);
                    }
                }
            }

            return _map.Find(page, out RangeRun found, out _chunk, out _version, out _index) && Take(found);
        }

        /// <summary>Runs that follow, as many as lie side by side. What is read from them counts when <see cref="TryPass"/> has stepped to the last one.</summary>
        public readonly RangeRuns Ahead => _chunk is { } chunk ? chunk.From(_index + 1) : default;

        /// <summary>Steps over some of <see cref="Ahead"/>; false, and stays, when something has changed since the step to this run.</summary>
        public bool TryPass(int count)
        {
            if (count == 0 || _chunk is not { } chunk)
                return false;
            RangeRun last = chunk[_index + count];
            if (!chunk.IsStill(_version))
                return false;
            _index += count;
            return Take(last);
        }

        private bool Take(in RangeRun run)
        {
            // Two runs may have been joined behind us: what we had of them is left out.
            Current = _moved && run.First < _next ? run.Part(_next, run.End, _map.Step) : run;
            _next = run.End;
            _moved = true;
            return true;
        }
    }

    private ulong Step => step ?? 0;
}
