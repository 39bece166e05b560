using System.Net.Sockets;
using Godwit.Memory;

namespace Godwit.Migration.Tests;

/// <summary>Pages that go straight from guest memory, and what becomes of one that is not what its checksum says.</summary>
public sealed unsafe class TornPagesTests
{
    private const ulong Page = 77;

    [Fact]
    public void A_page_that_changed_on_its_way_comes_again()
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        TestMachine source = pair.SourceMachine;
        Fill(source);
        // The write whose mark has it sent again.
        source.Calls.On("log0.Sync", () => source.Ram.Blocks[0].Write(Page * 4096, [0xAA, 0xBB], DirtySource.Vcpu));
        pair.Listen();
        var tear = new Tear(final: false);
        using var proxy = new FrameProxy(pair.ListenUri["unix:".Length..], tear.Forward);
        pair.Source.Parameters = new MigrationParameters { VerifyPages = true, DowntimeLimit = TimeSpan.FromSeconds(2000) };
        pair.Source.Start(proxy.Address);
        Assert.True(pair.WaitForSource(MigrationState.Completed, MigrationState.Failed) == MigrationState.Completed, pair.Source.Status.Error);
        Assert.True(tear.Done);
        Assert.Null(TestMachine.FirstDifference(source, pair.DestinationMachine));
    }

    /// <summary>Nothing writes to it afterwards; or the write has it sent in the final round, where it is damaged.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_page_that_was_damaged_and_does_not_come_again_is_missing(bool final)
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        TestMachine source = pair.SourceMachine;
        Fill(source);
        if (final)
            source.Calls.On("log0.Sync", () => source.Ram.Blocks[0].Write(Page * 4096, [0xAA, 0xBB], DirtySource.Vcpu));
        pair.Listen();
        var tear = new Tear(final);
        using var proxy = new FrameProxy(pair.ListenUri["unix:".Length..], tear.Forward);
        pair.Source.Parameters = new MigrationParameters { DowntimeLimit = TimeSpan.FromSeconds(2000) };
        pair.Source.Start(proxy.Address);
        Assert.Equal(MigrationState.Failed, pair.WaitForSource(MigrationState.Completed, MigrationState.Failed));
        Assert.True(tear.Done);
        Assert.Contains(
            "every page must come, main+0x4d000 has not; a page that came other than its checksum says does not count (1 did)",
            pair.Source.Status.Error, StringComparison.Ordinal);
        Assert.True(source.Executing);
        Assert.False(pair.DestinationMachine.Arrived);
    }

    [Fact]
    public void What_is_written_between_checksum_and_socket_is_torn()
    {
        using var from = new GuestRam();
        using var to = new GuestRam();
        RamBlock source = from.Add("main", 2 << 20);
        to.Add("main", 2 << 20);
        source.Pointer[0] = source.Pointer[4096] = source.Pointer[8192] = 1;
        (MigrationChannel near, MigrationChannel far) = Channels();
        using (near)
        using (far)
        using (var writer = new FrameWriter(near))
        {
            writer.SendPages(new PageRun(0, 0, 3), source.Pointer);
            source.Pointer[4096 + 100] = 7;
            writer.Flush();
            var receiver = new RamReceiver(to);
            receiver.BeginRound();
            var reader = new FrameReader(far);
            receiver.ReceivePages(reader, reader.ReadHeader());
            Assert.Equal((3UL, 2UL), (receiver.Pages, receiver.Arrived));

            // Sent again, it has come.
            writer.SendPages(new PageRun(0, 1, 1), source.Pointer + 4096);
            writer.Flush();
            receiver.ReceivePages(reader, reader.ReadHeader());
            Assert.Equal(3UL, receiver.Arrived);
            Assert.Equal(7, to.Blocks[0].Pointer[4096 + 100]);
        }
    }

    [Fact]
    public void Runs_of_any_length_and_frames_between_them_arrive_in_order()
    {
        int seed = Random.Shared.Next();
        var random = new Random(seed);
        using var from = new GuestRam();
        using var to = new GuestRam();
        RamBlock source = from.Add("main", 16 << 20);
        RamBlock target = to.Add("main", 16 << 20);
        random.NextBytes(new Span<byte>(source.Pointer, 16 << 20));
        (MigrationChannel near, MigrationChannel far) = Channels();
        using (near)
        using (far)
        {
            var sender = new Thread(() => SendAll(near, source, random)) { IsBackground = true };
            sender.Start();
            var receiver = new RamReceiver(to);
            receiver.BeginRound();
            var reader = new FrameReader(far);
            try
            {
                for (FrameHeader header = reader.ReadHeader(); header.Type != FrameType.Accept; header = reader.ReadHeader())
                {
                    if (header.Type == FrameType.Pages)
                        receiver.ReceivePages(reader, header);
                    else
                        Assert.True(reader.ReadPayload(header).IndexOfAnyExcept((byte)0x5A) < 0, $"seed {seed}");
                }
            }
            finally
            {
                // It reads memory that is gone afterwards.
                far.Abort("The test has ended");
                sender.Join();
            }

            Assert.Equal(4096UL, receiver.Arrived);
            Assert.True(new Span<byte>(source.Pointer, 16 << 20).SequenceEqual(new Span<byte>(target.Pointer, 16 << 20)), $"seed {seed}");
        }
    }

    private static void Fill(TestMachine machine)
    {
        machine.Fill(11);
        machine.Ram.Blocks[0].Write(Page * 4096, [1], DirtySource.Vmm); // no page of zeros
    }

    private static void SendAll(MigrationChannel channel, RamBlock source, Random random)
    {
        using var writer = new FrameWriter(channel);
        byte[] between = new byte[5000];
        between.AsSpan().Fill(0x5A);
        for (ulong page = 0; page < 4096;)
        {
            ulong count = Math.Min(4096 - page, random.Next(3) == 0 ? (ulong)random.Next(1, 257) : 1);
            writer.SendPages(new PageRun(0, page, count), source.Pointer + (page * 4096));
            page += count;
            if (random.Next(4) == 0)
                writer.Write(FrameType.MachineStateData, between.AsSpan(0, random.Next(1, between.Length)));
        }

        writer.Write(FrameType.Accept, default);
        writer.Flush();
    }

    private static (MigrationChannel Near, MigrationChannel Far) Channels()
    {
        (Socket near, Socket far) = InheritedSocket.CreatePair();
        var result = (new MigrationChannel(near, TimeProvider.System), new MigrationChannel(far, TimeProvider.System));
        near.SendBufferSize = 64 << 10; // so that a write comes to a stop within pieces
        return result;
    }

    /// <summary>Changes a byte of one page, once, and not its checksum.</summary>
    private sealed class Tear(bool final)
    {
        private bool _final;

        public bool Done { get; private set; }

        public void Forward(FrameType type, byte[] payload, Action<FrameType, byte[]> send)
        {
            var header = new FrameHeader(type, payload.Length, 0, 0);
            if (type == FrameType.RoundBegin)
                _final = RoundBeginMessage.Read(header, payload).Final;
            if (type == FrameType.Pages && _final == final && !Done && PageRun.Read(header, payload) is var run && run.FirstPage <= Page && Page - run.FirstPage < run.Count)
            {
                Done = true;
                payload[StreamFormat.CheckedBytes(type, payload.Length) + ((int)(Page - run.FirstPage) * 4096) + 5] ^= 0x10;
            }

            send(type, payload);
        }
    }
}
