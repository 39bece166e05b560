using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>The client's forms of DMA_UNMAP beside the plain one, and what it does with servers that take no descriptors.</summary>
public sealed class UnmapTests : IDisposable
{
    private const DmaAccess ReadWrite = DmaAccess.Read | DmaAccess.Write;
    private readonly MemFd _ram = MemFd.Create("ram", 0x200000);

    public void Dispose() => _ram.Dispose();

    [Fact]
    public void Everything_goes_at_once()
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect(out IDeviceHost host);
        for (ulong i = 0; i < 50; i++)
            client.DmaMap(Range(i * 0x3000, 0x1000), ReadWrite, _ram, i * 0x1000);
        client.DmaUnmapAll();
        for (ulong i = 0; i < 50; i++)
            Assert.False(host.Write(new DmaAddress(i * 0x3000), [1]));
        client.DmaUnmapAll(); // of nothing
        client.DmaMap(Range(0, 0x1000), ReadWrite, _ram, 0);
    }

    [Fact]
    public void What_was_written_comes_with_the_unmap()
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect(out IDeviceHost host);
        client.DmaMap(Range(0x100000, 0x100000), ReadWrite, _ram, 0);
        ulong[] bitmap = [1ul << 63, 0, 0, 0];
        Assert.Equal(Errno.EINVAL, Assert.Throws<VfioUserRemoteException>(() => client.DmaUnmap(Range(0x100000, 0x100000), 4096, bitmap)).Errno); // no log
        client.StartDmaLogging(4096, []);
        Assert.True(host.Write(new DmaAddress(0x100fff), [1, 2]));
        Assert.True(host.Write(new DmaAddress(0x1ff000), [1]));
        client.DmaUnmap(Range(0x100000, 0x100000), 4096, bitmap);
        Assert.Equal([3ul | 1ul << 63, 0, 0, 1ul << 63], bitmap);
        Assert.False(host.Write(new DmaAddress(0x100fff), [1, 2]));
        // Coarser pages than the log has.
        client.DmaMap(Range(0x100000, 0x100000), ReadWrite, _ram, 0);
        Assert.True(host.Write(new DmaAddress(0x13f000), [1]));
        bitmap = [0];
        client.DmaUnmap(Range(0x100000, 0x100000), 0x10000, bitmap);
        Assert.Equal([8ul], bitmap);
    }

    [Fact]
    public void What_no_message_can_tell_is_not_asked()
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect();
        Assert.Throws<ArgumentOutOfRangeException>(() => client.DmaUnmap(Range(0, 0x2000), 0x1800, new ulong[1]));
        Assert.Throws<ArgumentOutOfRangeException>(() => client.DmaUnmap(Range(0x1000, 0x1000), 0x2000, new ulong[1]));
        Assert.Throws<ArgumentOutOfRangeException>(() => client.DmaUnmap(Range(0, 65 * 4096), 4096, new ulong[1]));
        Assert.Throws<ArgumentOutOfRangeException>(() => client.DmaUnmap(Range(0, 1ul << 40), 4096, new ulong[1 << 22]));
    }

    [Fact]
    public void A_server_that_takes_no_descriptors_is_not_sent_any()
    {
        using var server = new RawServer();
        server.Play(peer =>
        {
            peer.AcceptVersion("""{"capabilities":{"max_msg_fds":0}}""");
            using RawMessage map = peer.Receive();
            Assert.Equal((Command.DmaMap, 0, 0ul), (map.Header.Command, map.Files.Length, map.As<DmaMapBody>().FileOffset));
            peer.Reply(map.Header, []);
            using RawMessage info = peer.Receive();
            Assert.Equal(Command.DeviceReset, info.Header.Command); // the eventfds were not even tried
            peer.Reply(info.Header, []);
        });
        using VfioUserClient client = server.Connect();
        client.DmaMap(Range(0, 0x1000), ReadWrite, _ram, 0x3000);
        using EventFd bell = EventFd.Create();
        Assert.Equal(Errno.ENOTSUP, Assert.Throws<VfioUserRemoteException>(() => client.SetIrqEventFds(2, 0, [bell])).Errno);
        client.Reset();
    }

    private static DmaRange Range(ulong address, ulong length) => new(new DmaAddress(address), length);
}
