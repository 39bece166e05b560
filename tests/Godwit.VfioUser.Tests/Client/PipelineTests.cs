using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>Queued maps and unmaps, and requests from many threads.</summary>
public sealed class PipelineTests
{
    private const DmaAccess ReadWrite = DmaAccess.Read | DmaAccess.Write;

    [Fact]
    public void Thousands_of_queued_maps_and_unmaps_are_done_in_order()
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect(out IDeviceHost host);
        using MemFd ram = MemFd.Create("ram", 0x100000);
        for (int round = 0; round < 3; round++)
        {
            for (ulong i = 0; i < 5000; i++)
                client.DmaMapQueued(Page(i), ReadWrite, ram, i % 256 * 4096);
            client.DmaFlush();
            Assert.True(host.Write(new DmaAddress(4999 * 4096), [1]));
            for (ulong i = 0; i < 5000; i++)
            {
                client.DmaUnmapQueued(Page(i));
                client.DmaMapQueued(Page(i), DmaAccess.Read, ram, 0); // only in order is this no overlap
                client.DmaUnmapQueued(Page(i));
            }
            client.DmaFlush();
            Assert.False(host.Read(new DmaAddress(0), new byte[1]));
        }
        client.DmaFlush();
    }

    [Fact]
    public void Flush_names_the_first_failure_and_keeps_the_others()
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect();
        client.DmaMapQueued(new DmaRange(new DmaAddress(0x10000), 0x4000), ReadWrite, null, 0);
        client.DmaMapQueued(new DmaRange(new DmaAddress(0x11000), 0x1000), ReadWrite, null, 0);
        client.DmaMapQueued(new DmaRange(new DmaAddress(0x20000), 0x1000), ReadWrite, null, 0);
        client.DmaUnmapQueued(new DmaRange(new DmaAddress(0x12000), 0x1000));
        var e = Assert.Throws<VfioUserRemoteException>(client.DmaFlush);
        Assert.Equal(Errno.EEXIST, e.Errno);
        Assert.Contains("DMA_MAP", e.Command, StringComparison.Ordinal);
        Assert.Contains("0x11000", e.Message, StringComparison.Ordinal);
        var all = Assert.IsType<AggregateException>(e.InnerException);
        Assert.Equal([Errno.EEXIST, Errno.EINVAL], all.InnerExceptions.Cast<VfioUserRemoteException>().Select(i => i.Errno));
        client.DmaFlush(); // told once
        client.DmaUnmap(new DmaRange(new DmaAddress(0), 0x100000));
    }

    [Fact]
    public void Flush_ends_when_the_device_goes()
    {
        using var server = new RawServer();
        server.Play(peer =>
        {
            peer.AcceptVersion();
            for (int i = 0; i < 10; i++)
                peer.Receive().Dispose();
        });
        using VfioUserClient client = server.Connect();
        for (ulong i = 0; i < 10; i++)
            client.DmaMapQueued(Page(i), ReadWrite, null, 0);
        Assert.Throws<VfioUserDisconnectedException>(client.DmaFlush);
        Assert.Throws<VfioUserDisconnectedException>(() => client.DmaMapQueued(Page(1), ReadWrite, null, 0));
        Assert.Contains("closed", Background.LossOf(client), StringComparison.Ordinal);
    }

    [Fact]
    public void Answers_out_of_order_find_their_requests()
    {
        using var server = new RawServer();
        server.Play(peer =>
        {
            peer.AcceptVersion();
            RawMessage[] requests = [.. Enumerable.Range(0, 32).Select(_ => peer.Receive())];
            foreach (RawMessage request in requests.Reverse())
                peer.Reply(request.Header, [.. request.Body, .. BitConverter.GetBytes(request.As<RegionAccessBody>().Offset)]);
        });
        using VfioUserClient client = server.Connect();
        Background.Join(Background.Run(32, i =>
        {
            byte[] word = new byte[8];
            client.ReadRegion(0, (ulong)i * 8, word);
            Assert.Equal((ulong)i * 8, BitConverter.ToUInt64(word));
        }));
    }

    [Fact]
    public void Many_threads_share_one_connection()
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect();
        Background.Join(Background.Run(8, thread =>
        {
            byte[] word = new byte[8];
            for (ulong i = 0; i < 500; i++)
            {
                client.WriteRegion(0, (ulong)thread * 8, BitConverter.GetBytes(i), posted: i % 2 == 0);
                client.ReadRegion(0, (ulong)thread * 8, word);
                Assert.Equal(i, BitConverter.ToUInt64(word));
            }
        }));
    }

    [Fact]
    public void Hot_paths_allocate_nothing_in_the_caller()
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect();
        using MemFd ram = MemFd.Create("ram", 0x10000);
        client.StartDmaLogging(4096, []);
        byte[] word = new byte[4];
        ulong[] bitmap = new ulong[64];
        Assert.Equal(0, Allocations.Of(() =>
        {
            client.ReadRegion(0, 0, word);
            client.WriteRegion(0, 0, word, posted: false);
            client.WriteRegion(0, 0, word, posted: true);
            client.DmaMap(Page(1), ReadWrite, ram, 0);
            client.DmaUnmap(Page(1));
            client.DmaMapQueued(Page(1), ReadWrite, ram, 0);
            client.DmaUnmapQueued(Page(1));
            client.DmaFlush();
            client.ReportDmaLog(new DmaRange(new DmaAddress(0), 4096 * 4096), 4096, bitmap);
        }));
    }

    private static DmaRange Page(ulong index) => new(new DmaAddress(index * 4096), 4096);
}
