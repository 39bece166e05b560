using System.Diagnostics;

namespace Godwit.Vfio;

/// <summary>
/// Neighbouring runs of a <see cref="PageRangeMap"/>, with a version that is odd while they change: who reads without a lock reads the version before
/// and after, and takes what it read only if it is even and the same (a seqlock).
/// </summary>
internal sealed class RangeChunk
{
    /// <summary>
    /// Most runs. An insertion moves half of three arrays of that length (3 KiB), a million runs make a directory of some 64 KiB, of which a
    /// split moves half; smaller chunks move less below and more above.
    /// </summary>
    internal const int Capacity = 256;

    private readonly ulong[] _keys = new ulong[Capacity]; // page number and shape, see RangeRun
    private readonly ulong[] _pages = new ulong[Capacity];
    private readonly ulong[] _values = new ulong[Capacity];
    private int _version;

    /// <summary>Runs in it.</summary>
    public int Count { get; private set; }

    /// <summary>Odd while it changes; never comes back to what it was.</summary>
    public int Version => Volatile.Read(ref _version);

    /// <summary>Whether nothing has changed since <paramref name="version"/> was read. What was read before this call is ordered before it.</summary>
    public bool IsStill(int version)
    {
        Volatile.ReadBarrier();
        return _version == version;
    }

    /// <summary>A run.</summary>
    public RangeRun this[int i] => new(_keys[i], _pages[i], _values[i]);

    /// <summary>The runs from <paramref name="from"/> on. For a reader: what is in them means something if nothing has changed.</summary>
    public RangeRuns From(int from)
    {
        int count = Math.Max(0, Math.Min(Count, Capacity) - from);
        return new RangeRuns(_keys.AsSpan(Math.Min(from, Capacity), count), _pages.AsSpan(Math.Min(from, Capacity), count), _values.AsSpan(Math.Min(from, Capacity), count));
    }

    /// <summary>First page of a run.</summary>
    public ulong FirstAt(int i) => _keys[i] >> RangeRun.ShapeBits;

    /// <summary>End of a run.</summary>
    public ulong EndAt(int i) => FirstAt(i) + _pages[i];

    /// <summary>The last run that begins at or below <paramref name="page"/>; -1 when there is none. <paramref name="count"/> is the number of runs.</summary>
    public int LastAtOrBelow(ulong page, int count)
    {
        // The end of the last range of a 64-bit space is one page number too many to be shifted.
        ulong key = page < IovaPages.SpacePages ? page << RangeRun.ShapeBits | RangeRun.ShapeMask : ulong.MaxValue;
        int low = 0, high = count;
        while (low < high)
        {
            int middle = (low + high) >>> 1;
            if (_keys[middle] <= key)
                low = middle + 1;
            else
                high = middle;
        }

        return low - 1;
    }

    /// <summary>
    /// The first run from <paramref name="from"/> on that ends above <paramref name="page"/>, near ones first; false when there is none here. For a reader:
    /// what comes out means something if nothing has changed.
    /// </summary>
    public bool TryFindAbove(ulong page, int from, out int index)
    {
        int count = Math.Min(Count, Capacity);
        index = from;
        if (from >= count || EndAt(count - 1) <= page)
            return false;
        int step = 1;
        while (index + step < count && EndAt(index + step - 1) <= page)
        {
            index += step;
            step *= 2;
        }

        for (int high = Math.Min(index + step, count) - 1; index < high;)
        {
            int middle = (index + high) >>> 1;
            if (EndAt(middle) <= page)
                index = middle + 1;
            else
                high = middle;
        }

        return true;
    }

    /// <summary>Puts a run in place of another.</summary>
    public void Replace(int i, in RangeRun run)
    {
        BeginChange();
        Set(i, run);
        EndChange();
    }

    /// <summary>Puts a run before run <paramref name="i"/>. There is room.</summary>
    public void Insert(int i, in RangeRun run)
    {
        BeginChange();
        MakeRoom(i);
        Set(i, run);
        EndChange();
    }

    /// <summary>Puts two runs in place of one, at once for every reader. There is room.</summary>
    public void ReplaceByTwo(int i, in RangeRun low, in RangeRun high)
    {
        BeginChange();
        MakeRoom(i + 1);
        Set(i, low);
        Set(i + 1, high);
        EndChange();
    }

    /// <summary>Takes a run out.</summary>
    public void Remove(int i)
    {
        BeginChange();
        Count--;
        Copy(i + 1, this, i, Count - i);
        EndChange();
    }

    /// <summary>Moves the runs from <paramref name="from"/> on behind those of another chunk. There is room.</summary>
    public void MoveTo(RangeChunk target, int from)
    {
        BeginChange();
        target.BeginChange();
        Copy(from, target, target.Count, Count - from);
        target.Count += Count - from;
        Count = from;
        target.EndChange();
        EndChange();
    }

    /// <summary>Forgets all runs.</summary>
    public void Clear()
    {
        BeginChange();
        Count = 0;
        EndChange();
    }

    private void BeginChange()
    {
        Debug.Assert((_version & 1) == 0);
        _version++;
        Volatile.WriteBarrier();
    }

    private void EndChange() => Volatile.Write(ref _version, _version + 1);

    private void Set(int i, in RangeRun run) => (_keys[i], _pages[i], _values[i]) = (run.Key, run.Pages, run.Value);

    private void MakeRoom(int i)
    {
        Copy(i, this, i + 1, Count - i);
        Count++;
    }

    private void Copy(int from, RangeChunk target, int to, int count)
    {
        Array.Copy(_keys, from, target._keys, to, count);
        Array.Copy(_pages, from, target._pages, to, count);
        Array.Copy(_values, from, target._values, to, count);
    }
}
