using System.Buffers;
using System.Runtime.InteropServices;
using Godwit.Memory;
using Godwit.Migration;

namespace Godwit.EndToEnd.Tests;

/// <summary>
/// Takes one page out of a migration stream from the moment at which it is sent again, as a dirty tracker would that missed it: the
/// destination keeps what it had. Counts are put right, so that only the contents can tell.
/// </summary>
internal sealed class WithheldPage
{
    private readonly Dictionary<ulong, byte[]> _firstContents = [];
    private uint _round;
    private ulong _pages;
    private ulong _zeroPages;

    /// <summary>Page within block 0 that is withheld, once one was found.</summary>
    public ulong? Page { get; private set; }

    public IEnumerable<(FrameType Type, byte[] Payload)> Rewrite(Frame frame)
    {
        switch (frame.Type)
        {
            case FrameType.RoundBegin:
                _round = RoundBeginMessage.Read(frame.Header, frame.Payload).Number;
                (_pages, _zeroPages) = (0, 0);
                return [(frame.Type, frame.Payload)];
            case FrameType.Pages or FrameType.ZeroPages:
                return Pages(frame);
            case FrameType.RoundEnd:
                RoundEndMessage end = RoundEndMessage.Read(frame.Header, frame.Payload);
                var writer = new ArrayBufferWriter<byte>();
                (end with { Pages = end.Pages - _pages, ZeroPages = end.ZeroPages - _zeroPages }).Write(writer);
                return [(frame.Type, writer.WrittenSpan.ToArray())];
            default:
                return [(frame.Type, frame.Payload)];
        }
    }

    private static ReadOnlySpan<byte> Contents(Frame frame, ulong index) =>
        frame.Payload.AsSpan(StreamFormat.CheckedBytes(frame.Type, frame.Payload.Length) + ((int)index * RamPage.Size), RamPage.Size);

    private IEnumerable<(FrameType Type, byte[] Payload)> Pages(Frame frame)
    {
        PageRun run = PageRun.Read(frame.Header, frame.Payload);
        if (run.Block != 0)
        {
            return [(frame.Type, frame.Payload)];
        }

        if (frame.Type == FrameType.Pages)
        {
            Remember(frame, run);
        }

        if (Page is not { } page || page < run.FirstPage || page >= run.FirstPage + run.Count)
        {
            return [(frame.Type, frame.Payload)];
        }

        _ = frame.Type == FrameType.Pages ? _pages++ : _zeroPages++;
        ulong before = page - run.FirstPage;
        return Part(frame, run, 0, before).Concat(Part(frame, run, before + 1, run.Count - before - 1));
    }

    private static IEnumerable<(FrameType Type, byte[] Payload)> Part(Frame frame, PageRun run, ulong skip, ulong count)
    {
        if (count == 0)
        {
            return [];
        }

        bool contents = frame.Type == FrameType.Pages;
        int head = contents ? PageRun.PagesHead((int)count) : PageRun.Size;
        byte[] payload = new byte[head + (contents ? (int)count * RamPage.Size : 0)];
        new PageRun(run.Block, run.FirstPage + skip, count).Write(payload);
        if (contents)
        {
            frame.Payload.AsSpan(PageRun.Size + ((int)skip * sizeof(uint)), (int)count * sizeof(uint)).CopyTo(payload.AsSpan(PageRun.Size));
            frame.Payload.AsSpan(PageRun.PagesHead((int)run.Count) + ((int)skip * RamPage.Size), (int)count * RamPage.Size).CopyTo(payload.AsSpan(head));
        }

        return [(frame.Type, payload)];
    }

    /// <summary>Keeps first contents, and picks the first page that comes again with most of its words changed.</summary>
    private void Remember(Frame frame, PageRun run)
    {
        for (ulong i = 0; i < run.Count && Page is null; i++)
        {
            ulong page = run.FirstPage + i;
            // One that the guest wrote while it was sent has not come.
            if (BitConverter.ToUInt32(frame.Payload, PageRun.Size + ((int)i * sizeof(uint))) != StreamChecksum.Of(Contents(frame, i)))
            {
                _firstContents.Remove(page);
                continue;
            }

            if (_round == 1)
            {
                _firstContents.TryAdd(page, Contents(frame, i).ToArray());
            }
            else if (_firstContents.TryGetValue(page, out byte[]? first) && MostlyDiffers(first, Contents(frame, i)))
            {
                Page = page;
            }
        }
    }

    private static bool MostlyDiffers(ReadOnlySpan<byte> first, ReadOnlySpan<byte> second)
    {
        ReadOnlySpan<ulong> a = MemoryMarshal.Cast<byte, ulong>(first);
        ReadOnlySpan<ulong> b = MemoryMarshal.Cast<byte, ulong>(second);
        int different = 0;
        for (int i = 0; i < a.Length; i++)
        {
            different += a[i] != b[i] ? 1 : 0;
        }

        return different > a.Length / 2;
    }
}
