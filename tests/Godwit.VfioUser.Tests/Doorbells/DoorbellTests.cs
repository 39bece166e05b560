using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>Region writes without messages, client and server of this library on both ends.</summary>
public sealed class DoorbellTests
{
    private const int Count = 40;
    private const ulong First = 0x1000;

    [Fact]
    public void A_doorbell_reaches_the_device_without_a_message()
    {
        using var served = new TestServer(Device());
        var seen = new ConcurrentQueue<Command>();
        using var relay = new SpoiledDevice(served.Path, new Spoil(Before: exchange => seen.Enqueue(exchange.Command)));
        using var client = VfioUserClient.Connect(relay.Path, new VfioUserClientOptions { ReplyTimeout = TestServer.Patience }, new NoDma());
        Assert.Empty(client.GetDoorbells(PciRegion.Bar0));
        Assert.Equal(Count, client.UseDoorbells(PciRegion.Bar0, 0x4000));
        Assert.Equal(Enumerable.Range(0, Count).Select(i => new SparseArea(First + (4 * (ulong)i), 4)), client.GetDoorbells(PciRegion.Bar0));
        Assert.Empty(client.GetDoorbells(PciRegion.Bar0 + 1));
        int before = seen.Count;
        var arrived = new BlockingCollection<(ulong, uint)>();
        served.Device.OnWrite = (_, offset, data) => { arrived.Add((offset, BitConverter.ToUInt32(data))); return Errno.None; };
        for (uint i = 0; i < 100; i++)
        {
            Write(client, First + 4 * (i % Count), 7); // always the same value
            Assert.Equal((First + 4 * (i % Count), 7u), TestServer.Take(arrived));
        }
        Assert.Equal(before, seen.Count);
        Assert.Equal(100, client.DoorbellsRung);
        Write(client, First - 4, 8); // beside them
        Assert.Equal((First - 4, 8u), TestServer.Take(arrived));
        client.WriteRegion(PciRegion.Bar0, First, new byte[8], posted: true); // of another size
        Assert.Equal([Command.RegionWrite, Command.RegionWrite], seen.Skip(before));
    }

    [Fact]
    public void What_is_rung_before_a_message_is_seen_before_it()
    {
        using var server = new TestServer(Device());
        using VfioUserClient client = server.Connect();
        client.UseDoorbells(PciRegion.Bar0, 0x4000);
        byte[] word = new byte[4];
        for (uint i = 0; i < 5000; i++)
        {
            ulong at = First + 4 * (i % Count);
            Write(client, at, i);
            client.ReadRegion(PciRegion.Bar0, at, word);
            Assert.Equal(i, BitConverter.ToUInt32(word));
        }
    }

    [Fact]
    public void The_last_value_of_every_doorbell_arrives_whoever_rings_at_once()
    {
        using var server = new TestServer(Device());
        using VfioUserClient client = server.Connect();
        client.UseDoorbells(PciRegion.Bar0, 0x4000);
        Background.Join(Background.Run(4, thread =>
        {
            for (uint value = 1; value <= 3000; value++)
                Write(client, First + 4 * ((uint)thread * 10 + value % 10), value);
        }));
        byte[] words = new byte[Count * 4];
        client.ReadRegion(PciRegion.Bar0, First, words);
        for (uint i = 0; i < Count; i++)
            Assert.Equal(3000 - (3000 - i % 10) % 10, BitConverter.ToUInt32(words, (int)i * 4));
    }

    [Fact]
    public void A_doorbell_rung_before_the_client_goes_is_delivered_and_nothing_is_left_open()
    {
        using var server = new TestServer(Device());
        using (server.Connect())
            TestServer.Take(server.Device.Connections);
        TestServer.Take(server.Device.Disconnections);
        int open = OpenFiles.Count();
        for (uint i = 1; i <= 20; i++)
        {
            using (VfioUserClient client = server.Connect())
            {
                client.UseDoorbells(PciRegion.Bar0, 0x4000);
                client.UseDoorbells(PciRegion.Bar0, 0x4000);
                Write(client, First, i);
            }
            TestServer.Take(server.Device.Disconnections);
            Assert.Equal(i, BitConverter.ToUInt32(server.Device.Region(0), (int)First));
        }
        OpenFiles.AssertReturnsTo(open);
    }

    [Fact]
    public void A_device_may_do_DMA_by_message_while_it_is_rung()
    {
        using var server = new TestServer(Device());
        var dma = new ArrayDma(0x10000, 0x1000);
        using VfioUserClient client = server.Connect(out IDeviceHost host, dma);
        client.DmaMap(new DmaRange(new DmaAddress(0x10000), 0x1000), DmaAccess.Read | DmaAccess.Write, null, 0);
        client.UseDoorbells(PciRegion.Bar0, 0x4000);
        var done = new BlockingCollection<bool>();
        server.Device.OnWrite = (_, offset, data) => { done.Add(host.Write(new DmaAddress(0x10000), data)); return Errno.None; };
        byte[] word = new byte[4];
        for (uint i = 0; i < 200; i++)
        {
            Write(client, First, i);
            client.ReadRegion(PciRegion.Bar0, 0, word);
            Assert.True(TestServer.Take(done));
            Assert.Equal(i, BitConverter.ToUInt32(dma.Memory));
        }
    }

    [Fact]
    public void A_device_that_fails_when_rung_goes_on()
    {
        using var server = new TestServer(Device());
        using VfioUserClient client = server.Connect();
        client.UseDoorbells(PciRegion.Bar0, 0x4000);
        server.Device.OnWrite = (_, _, _) => throw new InvalidOperationException("a defect");
        Write(client, First, 1);
        client.GetInfo();
        server.Device.OnWrite = null;
        Write(client, First, 2);
        client.GetInfo();
        Assert.Equal(2u, BitConverter.ToUInt32(server.Device.Region(0), (int)First));
        Assert.Contains(server.Log, line => line.Contains("a defect", StringComparison.Ordinal));
    }

    [Fact]
    public void A_device_without_doorbells_and_a_region_without_any_offer_none()
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect();
        Assert.Equal(0, client.UseDoorbells(PciRegion.Bar0, 0x4000));
        Assert.Equal(0, client.UseDoorbells(5, 0));
    }

    [Fact]
    public void The_answer_has_the_form_of_the_specification()
    {
        using var server = new TestServer(Device());
        using RawPeer peer = RawPeer.ConnectAndNegotiate(server.Path);
        using RawMessage small = peer.Call(Command.DeviceGetRegionIoFds, RawPeer.Bytes(new RegionIoFdsBody { ArgSize = 16 }));
        Assert.Equal((16, 16u + 48 * Count, (uint)Count, 0), (small.Body.Length, small.As<RegionIoFdsBody>().ArgSize, small.As<RegionIoFdsBody>().Count, small.Files.Length));
        using RawMessage whole = peer.Call(Command.DeviceGetRegionIoFds, RawPeer.Bytes(new RegionIoFdsBody { ArgSize = 16 + 48 * Count }));
        Assert.Equal((16 + 48 * Count, 2), (whole.Body.Length, whole.Files.Length));
        IoFdBody[] entries = MemoryMarshal.Cast<byte, IoFdBody>(whole.Body.AsSpan(16)).ToArray();
        Assert.All(entries, entry => Assert.Equal((4ul, 0u, IoFdType.ShadowIoEventFd, 1u), (entry.Size, entry.FileIndex, entry.Type, entry.ShadowFileIndex)));
        Assert.Equal(Enumerable.Range(0, Count).Select(i => First + 4 * (ulong)i), entries.Select(entry => entry.Offset));
        Assert.Equal(Count, entries.Select(entry => entry.ShadowOffset).Distinct().Count());
        Assert.NotEqual(0, unistd.fcntl(whole.Files[1], unistd.F_GET_SEALS, 0) & unistd.F_SEAL_SHRINK);
    }

    [Fact]
    public void A_client_that_cannot_take_two_descriptors_is_offered_none()
    {
        using var server = new TestServer(Device());
        using RawPeer peer = RawPeer.ConnectAndNegotiate(server.Path, """{"capabilities":{"max_msg_fds":1}}""");
        using RawMessage none = peer.Call(Command.DeviceGetRegionIoFds, RawPeer.Bytes(new RegionIoFdsBody { ArgSize = 65536 }));
        Assert.Equal((16, 0u, 0), (none.Body.Length, none.As<RegionIoFdsBody>().Count, none.Files.Length));
    }

    [Fact]
    public void Doorbells_outside_of_their_region_are_refused_when_the_device_is_served()
    {
        var options = new VfioUserServerOptions { SocketPath = Path.Combine(Path.GetTempPath(), Path.GetRandomFileName()) };
        Assert.Throws<ArgumentException>(() => VfioUserServer.Run(Device(new DoorbellRange(0x3ffc, 2)), options, CancellationToken.None));
        Assert.False(File.Exists(options.SocketPath));
        Assert.Throws<ArgumentException>(() => DoorbellBoard.Validate(Device(new DoorbellRange(2, 1)).Description));
        Assert.Throws<ArgumentException>(() => DoorbellBoard.Validate(Device(new DoorbellRange(0, DoorbellRange.MaxCount + 1)).Description));
    }

    private static TestDevice Device(DoorbellRange? range = null) => new()
    {
        Description = new DeviceDescription
        {
            Regions = new Dictionary<int, DeviceRegion>
            {
                [PciRegion.Bar0] = new(0x4000, Doorbells: [range ?? new DoorbellRange(First, Count)]),
                [PciRegion.Config] = new(4096),
            },
            Irqs = new Dictionary<int, int>(),
        },
    };

    private static void Write(VfioUserClient client, ulong offset, uint value) =>
        client.WriteRegion(PciRegion.Bar0, offset, BitConverter.GetBytes(value), posted: true);
}
