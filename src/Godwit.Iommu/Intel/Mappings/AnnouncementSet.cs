using Godwit.Memory;

namespace Godwit.Iommu.Intel;

/// <summary>
/// The announcements of one device, ordered by IOVA, in chunks of sorted arrays: 16 bytes each plus at most half a chunk of slack, a binary
/// search over chunks and one within, and a short move on insertion. Not thread-safe.
/// </summary>
internal sealed class AnnouncementSet
{
    private const int ChunkSize = 256;

    /// <summary>Empty chunks kept for the next mapping, 256 KiB at most: buffers that come and go then allocate nothing.</summary>
    private const int MaxSpare = 64;

    private readonly List<Chunk> _chunks = [];
    private readonly Stack<Chunk> _spare = new();

    /// <summary>Announcements live.</summary>
    internal long Count { get; private set; }

    /// <summary>Arrays held.</summary>
    internal int ChunkCount => _chunks.Count;

    /// <summary>The first announcement that ends at or after <paramref name="iova"/>.</summary>
    internal bool TryFindEndingAtOrAfter(Iova iova, out Announcement found)
    {
        // The last chunk that starts at or below the address holds the only one that can reach over it from below.
        int chunk = Math.Max(ChunkOf(iova), 0);
        for (; chunk < _chunks.Count; chunk++)
        {
            Chunk candidates = _chunks[chunk];
            int index = candidates.FirstStartingAfter(iova);
            if (index > 0 && candidates.Items[index - 1].Last >= iova)
                index--;
            if (index < candidates.Count)
            {
                found = candidates.Items[index];
                return true;
            }
        }

        found = default;
        return false;
    }

    /// <summary>Adds one that overlaps none.</summary>
    internal void Add(in Announcement item)
    {
        int at = ChunkOf(item.First);
        if (at < 0)
        {
            at = 0;
            if (_chunks.Count == 0)
                _chunks.Add(Rent());
        }

        Chunk chunk = _chunks[at];
        if (chunk.Count == ChunkSize)
        {
            Chunk upper = Rent();
            chunk.Split(upper, item.First > chunk.Items[ChunkSize - 1].First);
            _chunks.Insert(at + 1, upper);
            if (upper.Count == 0 || item.First >= upper.Items[0].First)
                chunk = upper;
        }

        chunk.Insert(chunk.FirstStartingAfter(item.First), item);
        Count++;
    }

    /// <summary>Removes the announcement that starts where <paramref name="item"/> does; it must be there.</summary>
    internal void Remove(in Announcement item)
    {
        int at = ChunkOf(item.First);
        Chunk chunk = _chunks[at];
        int index = chunk.FirstStartingAfter(item.First) - 1;
        if (index < 0 || chunk.Items[index].First != item.First)
            throw new InvalidOperationException($"No announcement starts at {item.First}");
        chunk.RemoveAt(index);
        Count--;
        // Half full at most after a merge, so that neither splits nor merges follow each other; and a guest that leaves one announcement
        // in each chunk does not get the memory of full ones.
        if (at > 0 && _chunks[at - 1].Count + chunk.Count <= ChunkSize / 2)
            Merge(at - 1);
        else if (at + 1 < _chunks.Count && chunk.Count + _chunks[at + 1].Count <= ChunkSize / 2)
            Merge(at);
        else if (chunk.Count == 0)
            Return(at);
    }

    /// <summary>Forgets all.</summary>
    internal void Clear()
    {
        _chunks.Clear();
        Count = 0;
    }

    private void Merge(int lower)
    {
        _chunks[lower].Append(_chunks[lower + 1]);
        Return(lower + 1);
    }

    private Chunk Rent() => _spare.TryPop(out Chunk? chunk) ? chunk : new Chunk();

    private void Return(int index)
    {
        Chunk chunk = _chunks[index];
        _chunks.RemoveAt(index);
        chunk.Clear();
        if (_spare.Count < MaxSpare)
            _spare.Push(chunk);
    }

    /// <summary>Index of the last chunk whose first announcement starts at or below <paramref name="iova"/>, or -1.</summary>
    private int ChunkOf(Iova iova)
    {
        int low = 0;
        int high = _chunks.Count - 1;
        while (low <= high)
        {
            int middle = (low + high) >> 1;
            if (_chunks[middle].Items[0].First <= iova)
                low = middle + 1;
            else
                high = middle - 1;
        }

        return high;
    }

    private sealed class Chunk
    {
        internal readonly Announcement[] Items = new Announcement[ChunkSize];

        internal int Count { get; private set; }

        internal int FirstStartingAfter(Iova iova)
        {
            int low = 0;
            int high = Count;
            while (low < high)
            {
                int middle = (low + high) >> 1;
                if (Items[middle].First <= iova)
                    low = middle + 1;
                else
                    high = middle;
            }

            return low;
        }

        internal void Insert(int index, in Announcement item)
        {
            Array.Copy(Items, index, Items, index + 1, Count - index);
            Items[index] = item;
            Count++;
        }

        internal void RemoveAt(int index)
        {
            Array.Copy(Items, index + 1, Items, index, Count - index - 1);
            Count--;
        }

        internal void Append(Chunk other)
        {
            Array.Copy(other.Items, 0, Items, Count, other.Count);
            Count += other.Count;
        }

        internal void Clear() => Count = 0;

        /// <summary>Gives the upper half to an empty chunk, or nothing when growth is at the end (sequential maps then fill chunks).</summary>
        internal void Split(Chunk upper, bool growingAtEnd)
        {
            if (growingAtEnd)
                return;
            int half = Count / 2;
            Array.Copy(Items, half, upper.Items, 0, Count - half);
            upper.Count = Count - half;
            Count = half;
        }
    }
}
