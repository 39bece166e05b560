using System.Collections.Concurrent;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>Plain ioeventfds: registers of which only matters that they are written.</summary>
public sealed class EventRegisterTests
{
    private static readonly EventRegister[] Registers = [new(0x200, 4), new(0x208, 2, 7), new(0x210, 8, ulong.MaxValue), new(0x218, 1)];

    [Fact]
    public void The_answer_has_the_specifications_form_and_a_descriptor_for_each()
    {
        using var server = new TestServer(Device(doorbells: false));
        using RawPeer peer = RawPeer.ConnectAndNegotiate(server.Path);
        using RawMessage small = peer.Call(Command.DeviceGetRegionIoFds, RawPeer.Bytes(new RegionIoFdsBody { ArgSize = 16 }));
        Assert.Equal((16, 16u + 40 * 4, 4u, 0), (small.Body.Length, small.As<RegionIoFdsBody>().ArgSize, small.As<RegionIoFdsBody>().Count, small.Files.Length));
        using RawMessage whole = peer.Call(Command.DeviceGetRegionIoFds, RawPeer.Bytes(new RegionIoFdsBody { ArgSize = 16 + 40 * 4 }));
        Assert.Equal((16 + 40 * 4, 4), (whole.Body.Length, whole.Files.Length));
        for (int i = 0; i < Registers.Length; i++)
        {
            ReadOnlySpan<byte> entry = whole.Body.AsSpan(16 + 40 * i, 40);
            Assert.Equal(Registers[i].Offset, BitConverter.ToUInt64(entry));
            Assert.Equal((ulong)Registers[i].Size, BitConverter.ToUInt64(entry[8..]));
            Assert.Equal((uint)i, BitConverter.ToUInt32(entry[16..]));
            Assert.Equal(0u, BitConverter.ToUInt32(entry[20..])); // ioeventfd
            Assert.Equal(Registers[i].Value is null ? 0u : 1u, BitConverter.ToUInt32(entry[24..])); // KVM_IOEVENTFD_FLAG_DATAMATCH
            Assert.Equal(Registers[i].Value ?? 0, BitConverter.ToUInt64(entry[32..]));
        }
    }

    [Fact]
    public void A_write_reaches_the_device_without_a_message_and_another_value_or_size_with_one()
    {
        using var served = new TestServer(Device(doorbells: true));
        var seen = new ConcurrentQueue<Command>();
        using var relay = new SpoiledDevice(served.Path, new Spoil(Before: exchange => seen.Enqueue(exchange.Command)));
        using var client = VfioUserClient.Connect(relay.Path, new VfioUserClientOptions { ReplyTimeout = TestServer.Patience }, new NoDma());
        Assert.Equal(Registers.Length + 3, client.UseDoorbells(PciRegion.Bar0, 0x4000));
        int before = seen.Count;
        var arrived = new BlockingCollection<(ulong Offset, byte[] Data)>();
        served.Device.OnWrite = (_, offset, data) => { arrived.Add((offset, data)); return Errno.None; };
        for (int i = 0; i < 50; i++)
        {
            AssertArrives(0x200, [5, 0, 0, 0], [0, 0, 0, 0]); // any value, which is lost
            AssertArrives(0x208, [7, 0], [7, 0]);
            AssertArrives(0x210, [.. Enumerable.Repeat((byte)0xFF, 8)], [.. Enumerable.Repeat((byte)0xFF, 8)]);
            AssertArrives(0x218, [9], [0]);
            AssertArrives(0x1004, [1, 2, 3, 4], [1, 2, 3, 4]); // a doorbell beside them
        }
        Assert.Equal(before, seen.Count);
        Assert.Equal(250, client.DoorbellsRung);
        AssertArrives(0x208, [8, 0], [8, 0]);
        AssertArrives(0x200, [5, 6], [5, 6]);
        Assert.Equal([Command.RegionWrite, Command.RegionWrite], seen.Skip(before));

        void AssertArrives(ulong offset, byte[] data, byte[] expected)
        {
            client.WriteRegion(PciRegion.Bar0, offset, data, posted: true);
            (ulong at, byte[] got) = TestServer.Take(arrived);
            Assert.Equal(offset, at);
            Assert.Equal(expected, got);
        }
    }

    [Fact]
    public void What_is_signalled_before_a_message_is_seen_before_it()
    {
        using var server = new TestServer(Device(doorbells: false));
        using VfioUserClient client = server.Connect();
        client.UseDoorbells(PciRegion.Bar0, 0x4000);
        int heard = 0;
        server.Device.OnWrite = (_, _, _) => { heard++; return Errno.None; }; // one at a time, whoever calls
        int atRead = 0;
        server.Device.OnRead = (_, _, _) => { atRead = heard; return Errno.None; };
        byte[] word = new byte[4];
        for (int i = 1; i <= 3000; i++)
        {
            client.WriteRegion(PciRegion.Bar0, 0x208, [7, 0], posted: true);
            client.ReadRegion(PciRegion.Bar0, 0, word);
            Assert.Equal(i, atRead); // once each: nothing is heard of twice either
        }
    }

    [Theory]
    [InlineData(0, false, 0, 0)]
    [InlineData(1, true, 1, 40)] // no doorbells, whose two do not fit
    [InlineData(2, true, 3, 48)]
    [InlineData(3, true, 4, 48)]
    [InlineData(3, false, 3, 40)]
    [InlineData(1024, true, 7, 48)]
    public void A_client_is_offered_what_it_can_take_the_descriptors_of(int maxFiles, bool doorbells, int entries, int entrySize)
    {
        using var server = new TestServer(Device(doorbells));
        using RawPeer peer = RawPeer.ConnectAndNegotiate(server.Path, $$$"""{"capabilities":{"max_msg_fds":{{{maxFiles}}}}}""");
        using RawMessage answer = peer.Call(Command.DeviceGetRegionIoFds, RawPeer.Bytes(new RegionIoFdsBody { ArgSize = 65536 }));
        Assert.Equal((16 + entries * entrySize, (uint)entries), (answer.Body.Length, answer.As<RegionIoFdsBody>().Count));
        Assert.True(answer.Files.Length <= maxFiles);
        foreach (int at in Enumerable.Range(0, entries).Select(i => 16 + i * entrySize))
            Assert.True(BitConverter.ToUInt32(answer.Body, at + 16) < (uint)answer.Files.Length);
    }

    [Fact]
    public void An_event_of_a_client_that_goes_is_delivered_and_nothing_is_left_open()
    {
        using var server = new TestServer(Device(doorbells: true));
        using (server.Connect())
            TestServer.Take(server.Device.Connections);
        TestServer.Take(server.Device.Disconnections);
        int open = OpenFiles.Count();
        for (int i = 1; i <= 20; i++)
        {
            int heard = 0;
            server.Device.OnWrite = (_, _, _) => { heard++; return Errno.None; };
            using (VfioUserClient client = server.Connect())
            {
                client.UseDoorbells(PciRegion.Bar0, 0x4000);
                client.WriteRegion(PciRegion.Bar0, 0x218, [1], posted: true);
            }
            TestServer.Take(server.Device.Disconnections);
            Assert.Equal(1, heard);
        }
        OpenFiles.AssertReturnsTo(open);
    }

    /// <summary>The client shares the eventfd: it may make it blocking, take its signals away or fill it.</summary>
    [Fact]
    public unsafe void An_eventfd_that_the_client_plays_with_holds_nobody_up()
    {
        using var server = new TestServer(Device(doorbells: false));
        using RawPeer peer = RawPeer.ConnectAndNegotiate(server.Path);
        using RawMessage whole = peer.Call(Command.DeviceGetRegionIoFds, RawPeer.Bytes(new RegionIoFdsBody { ArgSize = 4096 }));
        foreach (FileDescriptor file in whole.Files)
        {
            Assert.Equal(0, unistd.fcntl(file, unistd.F_SETFL, 0));
            // SAFETY: 8 bytes of this frame.
            ulong full = ulong.MaxValue - 1;
            Assert.Equal(8, unistd.write(file, &full, 8));
        }
        for (int i = 0; i < 100; i++)
            Assert.Equal(Errno.None, peer.Try(Command.DeviceGetInfo, RawPeer.Bytes(new DeviceInfoBody { ArgSize = 16 })));
    }

    [Theory]
    [InlineData(0x3FFEUL, 4, null)]
    [InlineData(0x202UL, 4, null)]
    [InlineData(0x200UL, 3, null)]
    [InlineData(0x200UL, 0, null)]
    [InlineData(ulong.MaxValue - 3, 4, null)]
    [InlineData(0x200UL, 2, 0x10000UL)]
    public void What_is_no_register_is_refused_when_the_device_is_served(ulong offset, int size, ulong? value)
    {
        DeviceDescription description = Device(false, new EventRegister(offset, size, value)).Description;
        Assert.Throws<ArgumentException>(() => EventBoard.Validate(description));
        Assert.Throws<ArgumentException>(() => EventBoard.Validate(Device(false, [.. Enumerable.Range(0, EventRegister.MaxCount + 1).Select(i => new EventRegister((ulong)i, 1))]).Description));
        EventBoard.Validate(Device(false).Description);
    }

    private static TestDevice Device(bool doorbells, params EventRegister[] registers) => new()
    {
        Description = new DeviceDescription
        {
            Regions = new Dictionary<int, DeviceRegion>
            {
                [PciRegion.Bar0] = new(0x4000, Doorbells: doorbells ? [new DoorbellRange(0x1000, 3)] : null, Events: registers.Length == 0 ? Registers : registers),
                [PciRegion.Config] = new(4096),
            },
            Irqs = new Dictionary<int, int>(),
        },
    };
}
