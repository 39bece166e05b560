using System.Collections.Concurrent;
using System.Numerics;

namespace Godwit.VfioUser;

/// <summary>
/// Which pages the device has written since they were last reported, by DMA address. Chunks exist only where something was written, so
/// a log over all 64 bits of addresses costs nothing by itself. Any thread marks; one thread reports.
/// </summary>
internal sealed class DmaLog
{
    /// <summary>log2 of the pages in a chunk: 4096, so 512 bytes of bits.</summary>
    private const int ChunkShift = 12;
    private const int ChunkWords = 1 << (ChunkShift - 6);

    /// <summary>
    /// Chunks at most, half a GiB. A guest that makes its device write to ever new addresses without the client reading the log gets
    /// there; from then on every page is reported as written, which costs time but loses nothing.
    /// </summary>
    public const int MaxChunks = 1 << 20;

    private readonly ConcurrentDictionary<ulong, Chunk> _chunks = new();
    private readonly int _pageShift;
    private readonly LogRanges _ranges;
    private readonly int _maxChunks;
    private int _chunkCount;
    private volatile bool _overflowed;

    /// <summary>Creates an empty log.</summary>
    /// <param name="pageSize">Bytes for each bit; a power of two.</param>
    /// <param name="ranges">Where writes are logged.</param>
    /// <param name="maxChunks">Bound of the memory used.</param>
    public DmaLog(ulong pageSize, LogRanges ranges, int maxChunks = MaxChunks)
    {
        _pageShift = BitOperations.Log2(pageSize);
        _ranges = ranges;
        _maxChunks = maxChunks;
    }

    /// <summary>Chunks in memory now.</summary>
    public int ChunkCount => Volatile.Read(ref _chunkCount);

    /// <summary>Marks what was written. Call after the write and before the access ends. <paramref name="length"/> above 0, no wrap.</summary>
    public void Mark(ulong address, ulong length)
    {
        ulong last = address + (length - 1);
        if (_ranges.IsAll)
        {
            MarkPages(address >> _pageShift, last >> _pageShift);
            return;
        }
        for (int i = _ranges.FirstEndingAtOrAfter(address); i < _ranges.Count && _ranges[i].Start <= last; i++)
            MarkPages(Math.Max(address, _ranges[i].Start) >> _pageShift, Math.Min(last, _ranges[i].Last) >> _pageShift);
    }

    /// <summary>
    /// ORs the marks of <paramref name="length"/> bytes at <paramref name="address"/> into <paramref name="bitmap"/> and clears them here.
    /// A logged page that lies in the window only in part is reported and stays marked, for the rest of it is another report's to see.
    /// </summary>
    /// <param name="address">A multiple of <paramref name="pageSize"/>.</param>
    /// <param name="length">Above 0, no wrap.</param>
    /// <param name="pageSize">Bytes for each bit of the bitmap; may differ from the log's.</param>
    /// <param name="bitmap">Large enough; bit 0 is the page at <paramref name="address"/>.</param>
    public void Report(ulong address, ulong length, ulong pageSize, Span<ulong> bitmap)
    {
        var window = new Window(address, address + (length - 1), BitOperations.Log2(pageSize));
        if (_overflowed)
            window.SetAll(bitmap);
        ulong firstChunk = address >> _pageShift >> ChunkShift;
        ulong lastChunk = window.Last >> _pageShift >> ChunkShift;
        if (lastChunk - firstChunk < (ulong)ChunkCount)
        {
            for (ulong key = firstChunk; key <= lastChunk; key++)
            {
                if (_chunks.TryGetValue(key, out Chunk? chunk))
                    Drain(key, chunk, window, bitmap);
            }
        }
        else
        {
            // Fewer chunks than keys in the window: the peer chooses the window, so its size must not choose the work.
            foreach ((ulong key, Chunk chunk) in _chunks)
            {
                if (key >= firstChunk && key <= lastChunk)
                    Drain(key, chunk, window, bitmap);
            }
        }
    }

    private void MarkPages(ulong first, ulong last)
    {
        while (true)
        {
            ulong key = first >> ChunkShift;
            ulong lastHere = Math.Min(last, (key << ChunkShift) + ((1ul << ChunkShift) - 1));
            if (!TryMarkChunk(key, first, lastHere))
                continue; // the chunk was taken out meanwhile: mark in its successor
            if (lastHere == last)
                return;
            first = lastHere + 1;
        }
    }

    private bool TryMarkChunk(ulong key, ulong first, ulong last)
    {
        if (!_chunks.TryGetValue(key, out Chunk? chunk))
        {
            if (Volatile.Read(ref _chunkCount) >= _maxChunks)
            {
                _overflowed = true;
                Interlocked.MemoryBarrier();
                return true;
            }
            chunk = new Chunk();
            if (!_chunks.TryAdd(key, chunk))
                return false;
            Interlocked.Increment(ref _chunkCount);
        }
        int firstBit = (int)(first & ((1ul << ChunkShift) - 1));
        int lastBit = (int)(last & ((1ul << ChunkShift) - 1));
        for (int word = firstBit >> 6; word <= lastBit >> 6; word++)
        {
            // Always an interlocked OR, also where the bit is set already: it orders the write of the data before the mark. To look first
            // could see a bit that a report is about to clear, and the write would be lost.
            Interlocked.Or(ref chunk.Words[word], Mask(word, firstBit, lastBit));
        }
        // Either this thread sees the chunk dead, or the reporting thread sees the bits when it looks a last time.
        if (!chunk.IsDead)
            return true;
        TakeOut(key, chunk);
        return false;
    }

    private void Drain(ulong key, Chunk chunk, Window window, Span<ulong> bitmap)
    {
        ulong firstPage = key << ChunkShift;
        int firstBit = (int)(Math.Max(window.First >> _pageShift, firstPage) - firstPage);
        int lastBit = (int)(Math.Min(window.Last >> _pageShift, firstPage + ((1ul << ChunkShift) - 1)) - firstPage);
        bool any = DrainWords(firstPage, chunk, firstBit, lastBit, window, bitmap);
        if (any || firstBit != 0 || lastBit != (1 << ChunkShift) - 1 || !window.Covers(firstPage << _pageShift, ((firstPage + (1ul << ChunkShift)) << _pageShift) - 1))
            return;
        // Nothing was written here since the last report: give the memory back, keeping bits that come at this very moment.
        chunk.Kill();
        DrainWords(firstPage, chunk, firstBit, lastBit, window, bitmap);
        TakeOut(key, chunk);
    }

    private void TakeOut(ulong key, Chunk chunk)
    {
        if (_chunks.TryRemove(KeyValuePair.Create(key, chunk)))
            Interlocked.Decrement(ref _chunkCount);
    }

    private bool DrainWords(ulong firstPage, Chunk chunk, int firstBit, int lastBit, Window window, Span<ulong> bitmap)
    {
        bool any = false;
        for (int word = firstBit >> 6; word <= lastBit >> 6; word++)
        {
            if (Volatile.Read(ref chunk.Words[word]) == 0)
                continue;
            ulong overlapping = Mask(word, firstBit, lastBit);
            ulong clear = overlapping;
            if (word == firstBit >> 6 && !window.Covers((firstPage + (ulong)firstBit) << _pageShift, LastByte(firstPage + (ulong)firstBit)))
                clear &= ~(1ul << (firstBit & 63));
            if (word == lastBit >> 6 && !window.Covers((firstPage + (ulong)lastBit) << _pageShift, LastByte(firstPage + (ulong)lastBit)))
                clear &= ~(1ul << (lastBit & 63));
            ulong bits = Interlocked.And(ref chunk.Words[word], ~clear) & overlapping;
            any |= bits != 0;
            window.Set(bitmap, firstPage + (ulong)word * 64, bits, _pageShift);
        }
        return any;
    }

    private ulong LastByte(ulong page) => ((page + 1) << _pageShift) - 1;

    /// <summary>The bits of word <paramref name="word"/> from <paramref name="first"/> to <paramref name="last"/>, counted over all words.</summary>
    private static ulong Mask(int word, int first, int last)
    {
        ulong mask = ulong.MaxValue;
        if (word == first >> 6)
            mask &= ulong.MaxValue << (first & 63);
        if (word == last >> 6)
            mask &= ulong.MaxValue >> (63 - (last & 63));
        return mask;
    }

    /// <summary>4096 pages.</summary>
    private sealed class Chunk
    {
        private volatile bool _isDead;

        public ulong[] Words { get; } = new ulong[ChunkWords];

        /// <summary>Taken out of the log, or about to be.</summary>
        public bool IsDead => _isDead;

        public void Kill()
        {
            _isDead = true;
            Interlocked.MemoryBarrier(); // before the last look at the bits
        }
    }

    /// <summary>What is reported, in the pages of the report.</summary>
    private readonly record struct Window(ulong First, ulong Last, int PageShift)
    {
        public bool Covers(ulong first, ulong last) => first >= First && last <= Last;

        public void SetAll(Span<ulong> bitmap) => SetPages(bitmap, 0, (Last - First) >> PageShift);

        /// <summary>Sets what 64 pages of <paramref name="shift"/> bits from <paramref name="page"/> on mean in this window.</summary>
        public void Set(Span<ulong> bitmap, ulong page, ulong bits, int shift)
        {
            if (shift == PageShift && page << shift >= First && (((page << shift) - First) >> shift) % 64 == 0)
            {
                if (bits != 0)
                    bitmap[(int)((((page << shift) - First) >> shift) / 64)] |= bits;
                return;
            }
            for (; bits != 0; bits &= bits - 1)
            {
                ulong start = (page + (ulong)BitOperations.TrailingZeroCount(bits)) << shift;
                ulong last = start + ((1ul << shift) - 1);
                SetPages(bitmap, (Math.Max(start, First) - First) >> PageShift, (Math.Min(last, Last) - First) >> PageShift);
            }
        }

        private static void SetPages(Span<ulong> bitmap, ulong first, ulong last)
        {
            for (ulong word = first / 64; word <= last / 64; word++)
                bitmap[(int)word] |= Mask((int)(word - first / 64), (int)(first % 64), (int)(last - (first & ~63ul)));
        }
    }
}
