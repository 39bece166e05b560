using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Godwit.Memory;

namespace Godwit.Migration;

/// <summary>
/// Takes pages into this machine's RAM. Knows which pages hold something (they must be cleared when they come as zeros; the others need not
/// be touched) and which have come at all. One for each migration; pages and zeros may come on several threads.
/// </summary>
/// <remarks>
/// Contents are sent straight from guest memory. One that the guest has written between its checksum and its way into the socket is torn: it
/// has not come. The write's mark has it sent again; should that not happen, <see cref="CheckComplete"/> finds it missing. In a final round
/// too: nothing writes then, but a source that gives up runs on before all is out, and says why behind it.
/// </remarks>
internal sealed unsafe class RamReceiver
{
    private readonly GuestRam _ram;
    private readonly Lock _gate = new(); // held for what is counted, not while contents are read
    private readonly PageSet _holding;
    private readonly PageSet _arrived;
    private ulong _torn;
    private ulong _roundPages;
    private ulong _roundZeroPages;

    /// <summary>Looks at what the RAM holds now.</summary>
    internal RamReceiver(GuestRam ram)
    {
        _ram = ram;
        _holding = new PageSet(ram.PageCount);
        _arrived = new PageSet(ram.PageCount);
        foreach (RamBlock block in ram.Blocks)
        {
            for (ulong data = RamHoles.NextData(block, 0); data < block.Size;)
            {
                ulong end = RamHoles.NextHole(block, data);
                _holding.Add(block.FirstPage.Index + (data >> RamPage.Shift), (end - data) >> RamPage.Shift);
                data = end < block.Size ? RamHoles.NextData(block, end) : block.Size;
            }
        }
    }

    /// <summary>Pages with contents taken.</summary>
    internal ulong Pages { get; private set; }

    /// <summary>Zero pages taken.</summary>
    internal ulong ZeroPages { get; private set; }

    /// <summary>Pages that have come at least once.</summary>
    internal ulong Arrived => _arrived.Count;

    /// <summary>A round begins.</summary>
    internal void BeginRound()
    {
        _roundPages = 0;
        _roundZeroPages = 0;
    }

    /// <summary>Compares a round's counts.</summary>
    /// <exception cref="MigrationStreamException">Fewer or more pages came than the source sent.</exception>
    internal void EndRound(in FrameHeader header, in RoundEndMessage round)
    {
        if (round.Pages != _roundPages)
            MigrationStreamException.Throw(header, "pages", round.Pages, $"{_roundPages} have arrived in this round");
        if (round.ZeroPages != _roundZeroPages)
            MigrationStreamException.Throw(header, "zero pages", round.ZeroPages, $"{_roundZeroPages} have arrived in this round");
    }

    /// <summary>Reads a Pages frame into place.</summary>
    internal void ReceivePages(FrameReader reader, in FrameHeader header)
    {
        PageRun run = reader.ReadPagesHead(header);
        RamBlock block = Check(header, run, out ulong first);
        Hold(first, run.Count);
        // SAFETY: Check has bounded the run by the block. Nothing runs here yet, so nobody else writes; of two connections that name the
        // same page in one round, which no source does, the last byte wins.
        Span<ulong> torn = stackalloc ulong[StreamFormat.MaxPagesPerFrame / 64];
        bool any = reader.ReadPages(header, run, block.Pointer + (run.FirstPage << RamPage.Shift), torn);
        Count(first, run.Count);
        if (any)
            TakeBack(first, run.Count, torn);
    }

    /// <summary>Pages have come that are not what their checksums say.</summary>
    private void TakeBack(ulong first, ulong count, ReadOnlySpan<ulong> torn)
    {
        lock (_gate)
        {
            for (int page = 0; page < (int)count; page++)
            {
                if ((torn[page / 64] & (1UL << (page % 64))) == 0)
                    continue;
                _arrived.Remove(first + (ulong)page, 1);
                _torn++;
            }
        }
    }

    /// <summary>Takes a CompressedPages frame.</summary>
    /// <exception cref="MigrationStreamException">Its data does not give its pages.</exception>
    /// <exception cref="IOException">The library for it is not on this host.</exception>
    internal void ReceiveCompressed(in FrameHeader header, ReadOnlySpan<byte> payload, PageCodec codec)
    {
        PageRun run = PageRun.Read(header, payload);
        if (run.Count > StreamFormat.MaxPagesPerFrame)
            MigrationStreamException.Throw(header, "page count", run.Count, $"at most {StreamFormat.MaxPagesPerFrame}");
        RamBlock block = Check(header, run, out ulong first);
        ulong kind = BinaryPrimitives.ReadUInt64LittleEndian(payload[PageRun.Size..]);
        if (kind is not ((ulong)PageCompression.Lz4 or (ulong)PageCompression.Zstd))
            MigrationStreamException.Throw(header, "compression", kind, "it is 1 (lz4) or 2 (zstd)");
        PageCodec.Require((PageCompression)kind);
        Hold(first, run.Count);
        ReadOnlySpan<byte> data = payload[(PageRun.Size + StreamFormat.CompressedHead)..];
        // SAFETY: Check has bounded the run by the block, and no more than its bytes are written.
        if (!codec.Decompress((PageCompression)kind, data, block.Pointer + (run.FirstPage << RamPage.Shift), (int)run.Count * RamPage.Size))
            MigrationStreamException.Throw(header, "data", (ulong)data.Length, $"they do not give {run.Count} pages");
        Count(first, run.Count);
    }

    /// <summary>Before pages are written: should their frame turn out damaged, they hold something all the same.</summary>
    private void Hold(ulong first, ulong pages)
    {
        lock (_gate)
            _holding.Add(first, pages);
    }

    /// <summary>After it: they have come.</summary>
    private void Count(ulong first, ulong pages)
    {
        lock (_gate)
        {
            _arrived.Add(first, pages);
            Pages += pages;
            _roundPages += pages;
        }
    }

    /// <summary>Takes a ZeroPages frame: clears what holds something.</summary>
    internal void ReceiveZeros(in FrameHeader header, ReadOnlySpan<byte> payload)
    {
        PageRun run = PageRun.Read(header, payload);
        RamBlock block = Check(header, run, out ulong first);
        ulong end = first + run.Count;
        lock (_gate)
        {
            for (ulong page = _holding.Next(first, end, inSet: true); page < end;)
            {
                ulong stop = _holding.Next(page, end, inSet: false);
                // SAFETY: within the run, which Check has bounded by the block.
                NativeMemory.Clear(block.Pointer + ((page - block.FirstPage.Index) << RamPage.Shift), (nuint)((stop - page) << RamPage.Shift));
                page = _holding.Next(stop, end, inSet: true);
            }

            _holding.Remove(first, run.Count);
            _arrived.Add(first, run.Count);
            ZeroPages += run.Count;
            _roundZeroPages += run.Count;
        }
    }

    /// <summary>Every page must have come, as contents or as zeros.</summary>
    /// <exception cref="MigrationStreamException">One has not; names the first.</exception>
    internal void CheckComplete(in FrameHeader header)
    {
        if (_arrived.Count == _ram.PageCount)
            return;
        ulong missing = _arrived.Next(0, _ram.PageCount, inSet: false);
        _ram.TryResolve(new RamPage(missing), out RamBlock block, out ulong offset);
        MigrationStreamException.Throw(header, "pages", $"{_arrived.Count} of {_ram.PageCount}",
            $"every page must come, {PageNames.Of(block, offset >> RamPage.Shift)} has not"
                + (_torn > 0 ? $"; a page that came other than its checksum says does not count ({_torn} did), as the guest wrote to it meanwhile or the link has damaged it" : ""));
    }

    /// <summary>The block of a run that lies within it, and the machine's number of its first page.</summary>
    internal RamBlock Check(in FrameHeader header, in PageRun run, out ulong first)
    {
        if ((uint)run.Block >= (uint)_ram.Blocks.Count)
            MigrationStreamException.Throw(header, "block", (ulong)run.Block, $"this machine has {_ram.Blocks.Count}");
        RamBlock block = _ram.Blocks[run.Block];
        if (run.FirstPage >= block.PageCount)
            MigrationStreamException.Throw(header, "first page", run.FirstPage, $"block {block.Name} has {block.PageCount}");
        if (run.Count > block.PageCount - run.FirstPage)
        {
            MigrationStreamException.Throw(header, "page count", run.Count,
                $"block {block.Name} has {block.PageCount - run.FirstPage} from page {run.FirstPage} on");
        }

        first = block.FirstPage.Index + run.FirstPage;
        return block;
    }
}

/// <summary>Names of pages for people.</summary>
internal static class PageNames
{
    /// <summary>Block and byte offset, for example <c>main+0x1234000</c>.</summary>
    internal static string Of(RamBlock block, ulong page) => $"{block.Name}+0x{page << RamPage.Shift:x}";
}
