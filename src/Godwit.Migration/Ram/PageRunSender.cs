using System.Buffers.Binary;
using System.Diagnostics;
using Godwit.Memory;

namespace Godwit.Migration;

/// <summary>
/// Sends runs of pages over one connection: finds zeros, compresses where that pays, and sends the rest as it is. For one thread.
/// </summary>
internal sealed unsafe class PageRunSender(GuestRam ram, FrameWriter writer, PageCompression compression, Bandwidth bandwidth, Action afterFrame)
    : IDisposable
{
    // 256 KiB a frame: what was checksummed should still be in the cache when the kernel copies it.
    private const ulong PagesPerFrame = 64;
    private const int PieceBytes = (int)PagesPerFrame * RamPage.Size;

    // From this run length on it pays to ask the kernel whether there is anything: 2 MiB, its allocation unit where it uses huge pages.
    private const ulong WorthAsking = 512;

    private readonly PageCodec _codec = new();
    private readonly CompressionGate _gate = new();

    // A copy of the pages, which does not change while it is compressed, and what comes out of it.
    private readonly byte[] _plain = compression == PageCompression.None ? [] : GC.AllocateUninitializedArray<byte>(PieceBytes, pinned: true);
    private readonly byte[] _compressed = compression == PageCompression.None ? [] : GC.AllocateUninitializedArray<byte>(PieceBytes, pinned: true);
    private PageRun _zeros; // zero pages found and not yet sent
    private ulong _pages;
    private ulong _zeroPages;
    private long _zerosBegan; // timestamp; 0 when what was found last is not zero
    private long _zeroTicks;

    /// <summary>Pages with contents sent since <see cref="BeginRound"/>. Any thread.</summary>
    internal ulong Pages => Volatile.Read(ref _pages);

    /// <summary>Zero pages sent since then. Any thread.</summary>
    internal ulong ZeroPages => Volatile.Read(ref _zeroPages);

    /// <summary>Time spent on finding zero pages since then, which leaves the link idle. Any thread.</summary>
    internal TimeSpan ZeroTime => Stopwatch.GetElapsedTime(0, Volatile.Read(ref _zeroTicks));

    /// <summary>Resets the counts.</summary>
    internal void BeginRound()
    {
        Volatile.Write(ref _zeroTicks, 0);
        Volatile.Write(ref _pages, 0);
        Volatile.Write(ref _zeroPages, 0);
    }

    /// <summary>Sends pages whose marks have been taken.</summary>
    internal void Send(ReadOnlySpan<DirtyRun> runs)
    {
        foreach (DirtyRun run in runs)
            SendRun(run.First, run.Count);
    }

    private void SendRun(RamPage first, ulong count)
    {
        while (count > 0)
        {
            int index = FindBlock(first);
            RamBlock block = ram.Blocks[index];
            ulong page = first.Index - block.FirstPage.Index;
            ulong inBlock = Math.Min(count, block.PageCount - page);
            SendRunOfBlock(index, block, page, inBlock);
            first += inBlock;
            count -= inBlock;
        }
    }

    private int FindBlock(RamPage page)
    {
        // Machines have a handful of blocks.
        for (int i = 0; i < ram.Blocks.Count; i++)
        {
            RamBlock block = ram.Blocks[i];
            if (page >= block.FirstPage && page.Index - block.FirstPage.Index < block.PageCount)
                return i;
        }

        throw new InvalidOperationException($"The dirty bitmap marks {page}, which no block holds");
    }

    private void SendRunOfBlock(int index, RamBlock block, ulong page, ulong count)
    {
        SendPagesOfBlock(index, block, page, count);
        EndZeros();
    }

    private void SendPagesOfBlock(int index, RamBlock block, ulong page, ulong count)
    {
        byte* memory = block.Pointer;
        ulong end = page + count;
        // Where a hole of the file ends; pages below it need no look.
        ulong hole = count >= WorthAsking ? RamHoles.NextData(block, page << RamPage.Shift) >> RamPage.Shift : page;
        while (page < end)
        {
            if (page < hole)
            {
                ulong empty = Math.Min(hole, end) - page;
                AddZeros(index, page, empty);
                page += empty;
                continue;
            }

            // SAFETY: page is below end, which is within the block.
            if (ZeroPage.IsZero(memory + (page << RamPage.Shift)))
            {
                AddZeros(index, page, 1);
                page++;
                // A stretch of zeros may be a hole from here on.
                if (page % WorthAsking == 0 && end - page >= WorthAsking)
                    hole = RamHoles.NextData(block, page << RamPage.Shift) >> RamPage.Shift;
                continue;
            }

            EndZeros();
            ulong run = 1;
            while (run < PagesPerFrame && page + run < end && !ZeroPage.IsZero(memory + ((page + run) << RamPage.Shift)))
                run++;
            FlushZeros();
            var pages = new PageRun(index, page, run);
            if (compression == PageCompression.None || !_gate.Try() || !SendCompressed(pages, memory + (page << RamPage.Shift)))
                writer.SendPages(pages, memory + (page << RamPage.Shift));
            Volatile.Write(ref _pages, _pages + run);
            page += run;
            afterFrame();
        }
    }

    /// <summary>False when it does not get shorter by an eighth.</summary>
    private bool SendCompressed(in PageRun run, byte* source)
    {
        int length = (int)run.Count * RamPage.Size;
        long began = Stopwatch.GetTimestamp();
        int count;
        fixed (byte* plain = _plain)
        fixed (byte* compressed = _compressed)
        {
            // SAFETY: both arrays have PieceBytes, the run has no more; the source is the block's.
            Buffer.MemoryCopy(source, plain, PieceBytes, length);
            count = _codec.Compress(compression, plain, length, compressed, length - (length / 8));
        }

        long limit = bandwidth.BytesPerSecond;
        double link = limit == 0 ? writer.BytesPerSecond : Math.Min(limit, writer.BytesPerSecond);
        _gate.Record(length, count, Stopwatch.GetElapsedTime(began), link);
        if (count == 0)
            return false;
        Span<byte> head = stackalloc byte[PageRun.Size + StreamFormat.CompressedHead];
        run.Write(head);
        BinaryPrimitives.WriteUInt64LittleEndian(head[PageRun.Size..], (uint)compression);
        writer.Write(FrameType.CompressedPages, head, _compressed.AsSpan(0, count));
        return true;
    }

    /// <inheritdoc/>
    public void Dispose() => _codec.Dispose();

    private void EndZeros()
    {
        if (_zerosBegan == 0)
            return;
        Volatile.Write(ref _zeroTicks, _zeroTicks + Stopwatch.GetTimestamp() - _zerosBegan);
        _zerosBegan = 0;
    }

    private void AddZeros(int block, ulong page, ulong count)
    {
        if (_zerosBegan == 0)
            _zerosBegan = Stopwatch.GetTimestamp();
        Volatile.Write(ref _zeroPages, _zeroPages + count);
        if (_zeros.Count != 0 && _zeros.Block == block && _zeros.FirstPage + _zeros.Count == page)
        {
            _zeros = _zeros with { Count = _zeros.Count + count };
            return;
        }

        FlushZeros();
        _zeros = new PageRun(block, page, count);
    }

    /// <summary>Sends the zero pages that are still gathered.</summary>
    internal void FlushZeros()
    {
        if (_zeros.Count == 0)
            return;
        Span<byte> payload = stackalloc byte[PageRun.Size];
        _zeros.Write(payload);
        writer.Write(FrameType.ZeroPages, payload);
        _zeros = default;
    }
}
