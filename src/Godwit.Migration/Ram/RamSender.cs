using Godwit.Memory;

namespace Godwit.Migration;

/// <summary>What the sender reports to while it works; the place for limits, cancelling and progress.</summary>
internal interface ISendPace
{
    /// <summary>Some pages have gone into the stream. May wait; may throw to stop.</summary>
    void PagesSent();

    /// <summary>A piece of the bitmap is done.</summary>
    void PieceDone();
}

/// <summary>Drains the dirty bitmap piece by piece and sends what it says, as runs of pages.</summary>
internal sealed unsafe class RamSender(GuestRam ram, FrameWriter writer)
{
    // A drain ends once it has found 16 MiB of pages, or with the block of 64 MiB that it is in: a page is sent soon after its mark was
    // taken, so few are marked again before they are sent.
    private const ulong PagesPerPiece = 4096;

    // 256 KiB a frame. The copy in the writer's buffer should still be in the cache when the kernel copies it on.
    private const ulong PagesPerFrame = 64;

    // From this run length on it pays to ask the kernel whether there is anything: 2 MiB, its allocation unit where it uses huge pages.
    private const ulong WorthAsking = 512;

    private readonly DirtyRun[] _runs = new DirtyRun[2 * DirtyBitmap.MinRuns];
    private PageRun _zeros; // zero pages found and not yet sent

    /// <summary>Pages with contents sent since <see cref="BeginRound"/>.</summary>
    internal ulong Pages { get; private set; }

    /// <summary>Zero pages sent since then.</summary>
    internal ulong ZeroPages { get; private set; }

    /// <summary>Resets the counts.</summary>
    internal void BeginRound()
    {
        Pages = 0;
        ZeroPages = 0;
    }

    /// <summary>Takes every mark and sends its page.</summary>
    internal void SendDirty(ISendPace pace)
    {
        for (RamPage next = default; next.Index < ram.PageCount;)
        {
            int count = ram.Dirty.Drain(ref next, PagesPerPiece, _runs);
            foreach (DirtyRun run in _runs.AsSpan(0, count))
                SendRun(run.First, run.Count, pace);
            if (count > 0)
                pace.PieceDone();
        }

        FlushZeros();
    }

    private void SendRun(RamPage first, ulong count, ISendPace pace)
    {
        while (count > 0)
        {
            int index = FindBlock(first);
            RamBlock block = ram.Blocks[index];
            ulong page = first.Index - block.FirstPage.Index;
            ulong inBlock = Math.Min(count, block.PageCount - page);
            SendRunOfBlock(index, block, page, inBlock, pace);
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

    private void SendRunOfBlock(int index, RamBlock block, ulong page, ulong count, ISendPace pace)
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

            ulong run = 1;
            while (run < PagesPerFrame && page + run < end && !ZeroPage.IsZero(memory + ((page + run) << RamPage.Shift)))
                run++;
            FlushZeros();
            writer.WritePages(new PageRun(index, page, run), memory + (page << RamPage.Shift));
            Pages += run;
            page += run;
            pace.PagesSent();
        }
    }

    private void AddZeros(int block, ulong page, ulong count)
    {
        ZeroPages += count;
        if (_zeros.Count != 0 && _zeros.Block == block && _zeros.FirstPage + _zeros.Count == page)
        {
            _zeros = _zeros with { Count = _zeros.Count + count };
            return;
        }

        FlushZeros();
        _zeros = new PageRun(block, page, count);
    }

    private void FlushZeros()
    {
        if (_zeros.Count == 0)
            return;
        Span<byte> payload = stackalloc byte[PageRun.Size];
        _zeros.Write(payload);
        writer.Write(FrameType.ZeroPages, payload);
        _zeros = default;
    }
}
