using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>The device's commands on a socket of their own: agreed on, used, and given up.</summary>
public sealed class TwinSocketTests
{
    private static readonly DmaRange Range = new(new DmaAddress(0x10000), 0x10000);

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void DMA_by_message_works_with_and_without(bool twin)
    {
        using var server = new TestServer();
        var dma = new ArrayDma(0x10000, 0x10000);
        using VfioUserClient client = server.Connect(dma, new VfioUserClientOptions { ReplyTimeout = TestServer.Patience, TwinSocket = twin });
        Assert.Equal(twin, client.HasTwinSocket);
        IDeviceHost host = TestServer.Take(server.Device.Connections);
        client.DmaMap(Range, DmaAccess.Read | DmaAccess.Write, null, 0);
        byte[] data = new byte[0x8001];
        new Random(7).NextBytes(data);
        byte[] word = new byte[4];
        // Both directions at once, several threads on each side.
        Background[] all =
        [
            .. Background.Run(2, thread =>
            {
                byte[] back = new byte[data.Length];
                ulong at = 0x10001 + (ulong)thread * 0x4000;
                for (int i = 0; i < 50; i++)
                    Assert.True(thread == 0 ? host.Write(new DmaAddress(0x10001), data) : host.Read(new DmaAddress(0x10001), back));
            }),
            .. Background.Run(2, _ =>
            {
                byte[] own = new byte[4];
                for (int i = 0; i < 2000; i++)
                    client.ReadRegion(0, 8, own);
            }),
        ];
        Background.Join(all);
        Assert.Equal(data, dma.Memory.AsSpan(1, data.Length).ToArray());
        client.ReadRegion(0, 8, word);
    }

    /// <summary>On one socket a device that waits for memory must take commands meanwhile; with two it need not.</summary>
    [Fact]
    public void A_device_may_read_memory_in_the_middle_of_a_command()
    {
        using var server = new TestServer();
        var dma = new ArrayDma(0x10000, 0x10000);
        using VfioUserClient client = server.Connect(out IDeviceHost host, dma);
        client.DmaMap(Range, DmaAccess.Read | DmaAccess.Write, null, 0);
        server.Device.OnWrite = (_, _, data) => host.Write(new DmaAddress(0x10010), data) ? Errno.None : Errno.EFAULT;
        for (int i = 0; i < 100; i++)
        {
            client.WriteRegion(0, 0, BitConverter.GetBytes(i), posted: false);
            Assert.Equal(i, BitConverter.ToInt32(dma.Memory, 0x10));
        }
    }

    [Fact]
    public void The_answer_carries_the_socket_and_the_devices_commands_come_on_it()
    {
        using var server = new TestServer();
        using RawPeer peer = RawPeer.Connect(server.Path);
        using RawMessage version = peer.Call(Command.Version, RawPeer.VersionBody(0, 0, """{"capabilities":{"max_msg_fds":1,"twin_socket":{"supported":true}}}"""));
        Assert.Equal(new TwinSocketCapability(true, 0), Capabilities.Parse(version.Body.AsSpan(4)).TwinSocket);
        using var twin = new RawPeer(SocketHandle.DuplicateOf(Assert.Single(version.Files)));
        IDeviceHost host = TestServer.Take(server.Device.Connections);
        Assert.Equal(Errno.None, peer.Try(Command.DmaMap, RawPeer.Bytes(new DmaMapBody { ArgSize = 32, Flags = 3, Address = 0x10000, Size = 0x1000 })));
        Background read = Background.Run(() =>
        {
            byte[] data = new byte[4];
            Assert.True(host.Read(new DmaAddress(0x10000), data));
            Assert.Equal([1, 2, 3, 4], data);
        });
        using RawMessage question = twin.Receive();
        Assert.Equal(Command.DmaRead, question.Header.Command);
        twin.Send(Command.DeviceReset, []); // which has no business here
        Assert.Equal(Errno.None, peer.Try(Command.DeviceGetInfo, RawPeer.Bytes(new DeviceInfoBody { ArgSize = 16 }))); // no collision
        using (RawMessage refusal = twin.Receive())
            Assert.Equal((Command.DeviceReset, Errno.EINVAL), (refusal.Header.Command, refusal.Header.ReplyErrno));
        twin.Reply(question.Header, [.. question.Body.AsSpan(0, 16), 1, 2, 3, 4]);
        read.Join();
        Assert.Equal(0, server.Device.Resets);
        twin.Dispose();
        Assert.False(host.Read(new DmaAddress(0x10000), new byte[4]));
        Assert.Equal(Errno.None, peer.Try(Command.DeviceGetInfo, RawPeer.Bytes(new DeviceInfoBody { ArgSize = 16 })));
    }

    [Theory]
    [InlineData("""{"capabilities":{"max_msg_fds":0,"twin_socket":{"supported":true}}}""")] // contradicts itself
    [InlineData("""{"capabilities":{"twin_socket":{"supported":false}}}""")]
    [InlineData("""{"capabilities":{"twin_socket":{}}}""")]
    public void Who_cannot_have_one_is_given_none(string json)
    {
        using var server = new TestServer();
        using RawPeer peer = RawPeer.Connect(server.Path);
        using RawMessage version = peer.Call(Command.Version, RawPeer.VersionBody(0, 0, json));
        Assert.Equal((Errno.None, 0), (version.Header.ReplyErrno, version.Files.Length));
        Assert.Null(Capabilities.Parse(version.Body.AsSpan(4)).TwinSocket);
    }

    [Theory]
    [InlineData("no descriptor")]
    [InlineData("no index")]
    [InlineData("another index")]
    [InlineData("no socket")]
    [InlineData("not asked for")]
    public void A_server_that_promises_one_and_has_none_is_given_up(string kind)
    {
        int open = OpenFiles.Count();
        using (var server = new RawServer())
        using (EventFd wrong = EventFd.Create())
        {
            (SocketHandle near, SocketHandle far) = SocketHandle.CreatePair();
            server.Play(peer =>
            {
                using RawMessage version = peer.Receive();
                string json = kind switch
                {
                    "no index" => """{"capabilities":{"twin_socket":{"supported":true}}}""",
                    "another index" => """{"capabilities":{"twin_socket":{"supported":true,"fd_index":1}}}""",
                    _ => """{"capabilities":{"twin_socket":{"supported":true,"fd_index":0}}}""",
                };
                peer.Reply(version.Header, RawPeer.VersionBody(0, 0, json), Errno.None, kind switch { "no descriptor" => [], "no socket" => [wrong], _ => [far] });
                peer.TryReceive()?.Dispose();
            });
            var options = new VfioUserClientOptions { ReplyTimeout = TestServer.Patience, TwinSocket = kind != "not asked for" };
            Assert.Throws<VfioUserProtocolException>(() => server.Connect(options).Dispose());
            near.Dispose();
            far.Dispose();
        }
        OpenFiles.AssertReturnsTo(open);
    }

    [Theory]
    [InlineData("closes")]
    [InlineData("half a message")]
    [InlineData("a reply")]
    [InlineData("too long")]
    public void A_server_that_breaks_the_twin_socket_is_lost(string kind)
    {
        using var server = new RawServer();
        (SocketHandle near, SocketHandle far) = SocketHandle.CreatePair();
        server.Play(peer =>
        {
            using RawMessage version = peer.Receive();
            peer.Reply(version.Header, RawPeer.VersionBody(0, 0, """{"capabilities":{"twin_socket":{"supported":true,"fd_index":0}}}"""), Errno.None, far);
            far.Dispose();
            byte[] bytes = kind switch
            {
                "closes" => [],
                "half a message" => RawPeer.Message(new MessageHeader { Command = Command.DmaRead }, new byte[16])[..20],
                "a reply" => RawPeer.Message(new MessageHeader { Command = Command.DmaRead, Flags = HeaderFlags.Reply }, []),
                _ => RawPeer.Bytes(new MessageHeader { Command = Command.DmaRead, Length = uint.MaxValue }),
            };
            if (bytes.Length != 0)
                near.Send(bytes);
            near.Dispose();
            peer.TryReceive()?.Dispose();
        });
        using VfioUserClient client = server.Connect();
        Assert.Contains("twin socket", Background.LossOf(client), StringComparison.Ordinal);
    }
}
