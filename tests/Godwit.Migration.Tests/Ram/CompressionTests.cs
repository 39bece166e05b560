using System.Buffers;
using System.Buffers.Binary;
using Godwit.Interop.Linux;
using Godwit.Memory;

namespace Godwit.Migration.Tests;

public sealed class CompressionTests
{
    public static TheoryData<PageCompression> Kinds => [PageCompression.Lz4, PageCompression.Zstd];

    [Theory]
    [MemberData(nameof(Kinds))]
    public unsafe void What_was_compressed_comes_back_and_nothing_else_does(PageCompression kind)
    {
        Require(kind);
        using var codec = new PageCodec();
        byte[] pages = Text(16);
        byte[] packed = new byte[pages.Length];
        byte[] back = new byte[pages.Length];
        int count;
        fixed (byte* from = pages)
        fixed (byte* to = packed)
            count = codec.Compress(kind, from, pages.Length, to, packed.Length);
        Assert.InRange(count, 1, pages.Length / 2);
        fixed (byte* to = back)
        {
            Assert.True(codec.Decompress(kind, packed.AsSpan(0, count), to, back.Length));
            Assert.Equal(pages, back);
            // Too long, too short, cut off, and not compressed at all.
            Assert.False(codec.Decompress(kind, packed.AsSpan(0, count), to, back.Length - 1));
            Assert.False(codec.Decompress(kind, packed.AsSpan(0, count - 1), to, back.Length));
            Assert.False(codec.Decompress(kind, new byte[99], to, back.Length));
        }

        byte[] noise = new byte[pages.Length];
        new Random(31).NextBytes(noise);
        fixed (byte* from = noise)
        fixed (byte* to = packed)
            Assert.Equal(0, codec.Compress(kind, from, noise.Length, to, noise.Length - (noise.Length / 8)));
    }

    [Fact]
    public void It_is_used_while_it_pays()
    {
        var gate = new CompressionGate();
        // A slow link: 128 KiB less are worth 13 ms, for 1 ms of work.
        for (int i = 0; i < 10; i++)
        {
            Assert.True(gate.Try());
            Assert.True(gate.Record(256 << 10, 128 << 10, TimeSpan.FromMilliseconds(1), 10e6));
        }
    }

    [Theory]
    [InlineData(128 << 10, 1e12)] // a link that is faster than the compression
    [InlineData(0, 10e6)] // contents that do not get shorter
    public void It_rests_longer_and_longer_while_it_does_not_pay(int compressed, double link)
    {
        var gate = new CompressionGate();
        int tries = 0;
        for (int i = 0; i < 10_000; i++)
        {
            if (!gate.Try())
                continue;
            tries++;
            Assert.False(gate.Record(256 << 10, compressed, TimeSpan.FromMilliseconds(1), link));
        }

        // 1 + 2 + 4 … + 256, then every 256.
        Assert.InRange(tries, 10, 50);
        while (!gate.Try())
        {
        }

        // Contents that pay bring it back at once.
        Assert.True(gate.Record(256 << 10, 1 << 10, TimeSpan.FromMilliseconds(1), 10e6));
        Assert.True(gate.Try());
    }

    [Theory]
    [MemberData(nameof(Kinds))]
    public void Pages_go_compressed_over_a_slow_link_and_arrive_whole(PageCompression kind)
    {
        Require(kind);
        using var pair = new Pair(new TestMachine(mebibytes: 16), new TestMachine(mebibytes: 16, running: false));
        FillWithText(pair.SourceMachine);
        pair.SourceMachine.AddDirtyingVcpu(32, pages: 256);
        pair.Listen();
        using var proxy = new FrameProxy(pair.ListenUri["unix:".Length..], FrameProxy.PassOn);
        pair.Source.Parameters = new MigrationParameters
        {
            Compression = kind,
            MaxBandwidth = 20_000_000,
            VerifyPages = true,
            DowntimeLimit = TimeSpan.FromSeconds(30),
        };
        pair.Source.Start(proxy.Address);
        pair.WaitForSource(MigrationState.Completed, MigrationState.Failed);
        Assert.True(pair.Source.Status.State == MigrationState.Completed, pair.Source.Status.Error);
        Assert.Equal(0, pair.Source.Status.Verification!.PagesDiffering);
        Assert.Contains(proxy.Frames, frame => frame.Type == FrameType.CompressedPages);
        long pages = proxy.Frames.Where(frame => frame.Type is FrameType.Pages or FrameType.CompressedPages).Sum(frame => (long)frame.Length);
        Assert.True(pages < pair.Source.Status.RamTransferredBytes / 2, $"{pages} bytes for {pair.Source.Status.RamTransferredBytes} of memory");
    }

    [Fact]
    public void Page_channels_compress_too()
    {
        Require(PageCompression.Lz4);
        using var pair = new Pair(new TestMachine(mebibytes: 16), new TestMachine(mebibytes: 16, running: false));
        FillWithText(pair.SourceMachine);
        pair.Source.Parameters = new MigrationParameters
        {
            Compression = PageCompression.Lz4,
            Channels = 2,
            MaxBandwidth = 20_000_000,
            VerifyPages = true,
        };
        pair.Migrate();
        Assert.True(pair.Source.Status.State == MigrationState.Completed, pair.Source.Status.Error);
    }

    [Theory]
    [InlineData(3UL, 1UL, "it is 1 (lz4) or 2 (zstd)")]
    [InlineData(1UL, 1UL, "they do not give 1 pages")]
    [InlineData(1UL, 257UL, "at most 256")]
    [InlineData(1UL, 1UL << 63, "at most 256")]
    [InlineData(2UL, 200UL, "they do not give 200 pages")]
    public void A_hostile_frame_is_refused(ulong kind, ulong pages, string says)
    {
        Require(PageCompression.Lz4);
        Require(PageCompression.Zstd);
        using var recording = new Recording();
        byte[] payload = new byte[PageRun.Size + StreamFormat.CompressedHead + 64];
        new PageRun(0, 0, pages).Write(payload);
        BinaryPrimitives.WriteUInt64LittleEndian(payload.AsSpan(PageRun.Size), kind);
        payload.AsSpan(PageRun.Size + StreamFormat.CompressedHead).Fill(0xFF);
        var begin = new ArrayBufferWriter<byte>();
        new RoundBeginMessage(1, Final: false).Write(begin);
        byte[] stream = Recording.Compose(
        [
            (FrameType.Description, recording.Payload(0)), (FrameType.RoundBegin, begin.WrittenSpan.ToArray()), (FrameType.CompressedPages, payload),
        ]);
        (IncomingOutcome outcome, Exception? cause, TestMachine machine) = recording.Play(stream);
        using (machine)
        {
            Assert.Equal(IncomingOutcome.MayRetry, outcome);
            Assert.Contains(says, cause!.Message, StringComparison.Ordinal);
        }
    }

    private static void Require(PageCompression kind) =>
        Assert.SkipUnless(kind == PageCompression.Lz4 ? lz4.IsPresent : zstd.IsPresent, $"the library for {kind} is not on this host");

    private static byte[] Text(int pages)
    {
        byte[] text = new byte[pages * RamPage.Size];
        for (int i = 0; i < text.Length; i++)
            text[i] = (byte)('a' + (i * i / 64 % 23));
        return text;
    }

    private static void FillWithText(TestMachine machine)
    {
        byte[] text = Text(256);
        for (ulong offset = 0; offset < machine.Ram.Blocks[0].Size; offset += (ulong)text.Length)
            machine.Ram.Blocks[0].Write(offset, text, DirtySource.Vmm);
    }
}
