using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>Many commands at once: answers are put together where that helps and never held where somebody may wait for them.</summary>
public sealed class PumpTests
{
    [Fact]
    public void Commands_that_come_in_one_piece_are_answered_one_by_one_in_order()
    {
        using var server = new TestServer();
        using RawPeer peer = RawPeer.ConnectAndNegotiate(server.Path);
        var stream = new List<byte>();
        for (ushort i = 0; i < 300; i++)
        {
            stream.AddRange((i % 3) switch
            {
                0 => Message(i, Command.DmaMap, Map(i)),
                1 => Message(i, Command.DmaUnmap, Unmap((ulong)i - 1)),
                _ => Message(i, Command.RegionRead, RawPeer.Bytes(new RegionAccessBody { Count = 4 })),
            });
        }
        peer.SendBytes(stream.ToArray());
        for (ushort i = 0; i < 300; i++)
        {
            using RawMessage reply = peer.Receive();
            Assert.Equal((i, Errno.None), (reply.Header.Id, reply.Header.ReplyErrno));
        }
    }

    /// <summary>The kernel gives the server one message with a descriptor at a time, however many there are.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Maps_with_descriptors_are_answered_in_order_whether_they_are_sent_ahead_or_not(bool ahead)
    {
        const ushort Commands = 2000; // their answers are more than is held back at once
        using var server = new TestServer();
        using RawPeer peer = RawPeer.ConnectAndNegotiate(server.Path);
        using MemFd ram = MemFd.Create("ram", 4096);
        var sender = Background.Run(() =>
        {
            for (ushort i = 0; ahead && i < Commands; i++)
                Send(i);
        });
        for (ushort i = 0; i < Commands; i++)
        {
            if (!ahead)
                Send(i);
            using RawMessage reply = peer.Receive();
            Assert.Equal((i, Errno.None), (reply.Header.Id, reply.Header.ReplyErrno));
        }
        Background.Join([sender]);

        // Unmaps among them, without a descriptor and so perhaps in one receive with what follows.
        void Send(ushort i) => peer.SendBytes(i % 5 == 4 ? Message(i, Command.DmaUnmap, Unmap((ulong)i - 1)) : Message(i, Command.DmaMap, Map(i)), i % 5 == 4 ? [] : [ram]);
    }

    [Fact]
    public void An_answer_is_not_kept_back_for_half_a_map()
    {
        using var server = new TestServer();
        using RawPeer peer = RawPeer.ConnectAndNegotiate(server.Path);
        using MemFd ram = MemFd.Create("ram", 4096);
        byte[] later = Message(9, Command.DmaMap, Map(9));
        for (ushort i = 0; i < 3; i++)
            peer.SendBytes(Message(i, Command.DmaMap, Map(i)), [ram]);
        peer.SendBytes(later.AsSpan(0, later.Length - 1), [ram]);
        for (ushort i = 0; i < 3; i++)
            Assert.Equal(i, peer.Receive().Header.Id);
        peer.SendBytes(later.AsSpan(later.Length - 1));
        Assert.Equal((ushort)9, peer.Receive().Header.Id);
    }

    [Fact]
    public void Answers_do_not_wait_for_an_unmap_that_waits_for_the_device()
    {
        using var server = new TestServer();
        using RawPeer peer = RawPeer.ConnectAndNegotiate(server.Path);
        IDeviceHost host = TestServer.Take(server.Device.Connections);
        using MemFd ram = MemFd.Create("ram", 4096);
        Assert.Equal(Errno.None, peer.Try(Command.DmaMap, Map(1), ram));
        Assert.True(host.TryAcquire(new DmaAddress(4096), 1, forWrite: false, out DmaPiece piece));
        peer.SendBytes([.. Message(1, Command.DmaMap, Map(2)), .. Message(2, Command.DmaMap, Map(3)), .. Message(3, Command.DmaUnmap, Unmap(1)), .. Message(4, Command.DmaMap, Map(4))]);
        Assert.Equal(1, peer.Receive().Header.Id);
        Assert.Equal(2, peer.Receive().Header.Id);
        piece.Dispose();
        Assert.Equal(3, peer.Receive().Header.Id);
        Assert.Equal(4, peer.Receive().Header.Id);
    }

    [Fact]
    public void An_answer_is_not_kept_back_for_a_command_that_wants_none()
    {
        using var server = new TestServer();
        using RawPeer peer = RawPeer.ConnectAndNegotiate(server.Path);
        byte[] silent = RawPeer.Message(new MessageHeader { Id = 2, Command = Command.DmaMap, Flags = HeaderFlags.NoReply }, Map(2));
        peer.SendBytes([.. Message(1, Command.DmaMap, Map(1)), .. silent]);
        Assert.Equal(1, peer.Receive().Header.Id);
        // Nor for what is no command: an answer that nobody asked for.
        byte[] answer = RawPeer.Message(new MessageHeader { Id = 6, Command = Command.DmaMap, Flags = HeaderFlags.Reply }, []);
        peer.SendBytes([.. Message(5, Command.DmaMap, Map(5)), .. answer]);
        Assert.Equal(5, peer.Receive().Header.Id);
        // Nor for one that ends the connection.
        byte[] broken = RawPeer.Bytes(new MessageHeader { Id = 4, Command = Command.DmaMap, Length = uint.MaxValue });
        peer.SendBytes([.. Message(3, Command.DmaMap, Map(3)), .. broken]);
        Assert.Equal(3, peer.Receive().Header.Id);
        Assert.Equal(4, peer.Receive().Header.Id);
        Assert.Null(peer.TryReceive());
    }

    [Fact]
    public void A_client_that_sends_without_end_instead_of_answering_is_cut_off()
    {
        using var server = new TestServer();
        using RawPeer peer = RawPeer.ConnectAndNegotiate(server.Path);
        IDeviceHost host = TestServer.Take(server.Device.Connections);
        Assert.Equal(Errno.None, peer.Try(Command.DmaMap, Map(1)));
        bool? read = null;
        server.Device.OnWrite = (_, _, _) =>
        {
            read = host.Read(new DmaAddress(4096), new byte[4]);
            return Errno.None;
        };
        peer.Send(Command.RegionWrite, RawPeer.Bytes(new RegionAccessBody { Count = 1 }, [1]));
        Assert.Equal(Command.DmaRead, peer.Receive().Header.Command);
        Assert.Throws<LinuxException>(() =>
        {
            for (int i = 0; i < 100_000; i++)
                peer.Send(Command.DeviceReset, [], HeaderFlags.NoReply);
        });
        TestServer.Take(server.Device.Disconnections);
        Assert.False(read);
        while (!TestServer.Take(server.LogLines).Contains("instead of answering DMA_READ", StringComparison.Ordinal))
        {
        }
    }

    private static byte[] Message(ushort id, Command command, byte[] body) => RawPeer.Message(new MessageHeader { Id = id, Command = command }, body);

    private static byte[] Map(ulong page) => RawPeer.Bytes(new DmaMapBody { ArgSize = 32, Flags = 3, Address = page * 4096, Size = 4096 });

    private static byte[] Unmap(ulong page) => RawPeer.Bytes(new DmaUnmapBody { ArgSize = 24, Address = page * 4096, Size = 4096 });
}
