using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>Client and server over a real socket, each command once.</summary>
public sealed class RoundTripTests
{
    [Fact]
    public void Info_tells_what_the_device_describes()
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect();
        Assert.Equal(new DeviceInfo(9, 5, CanReset: true, IsPci: true), client.GetInfo());
        Assert.Equal(64, client.GetIrqInfo(PciIrq.Msix).Count);
        Assert.Equal(0, client.GetIrqInfo(PciIrq.Msi).Count);
        RegionInfo bar = client.GetRegionInfo(PciRegion.Bar0);
        Assert.Equal((0x4000ul, true, true, null), (bar.Size, bar.Readable, bar.Writable, bar.File));
        Assert.Empty(bar.Mappable);
        Assert.Equal(0ul, client.GetRegionInfo(1).Size);
    }

    [Fact]
    public void Region_writes_are_read_back_whole_and_in_pieces()
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect();
        var random = new Random(1);
        byte[] data = new byte[0x300000]; // three times the largest message
        random.NextBytes(data);
        client.WriteRegion(2, 0x1000, data, posted: false);
        byte[] back = new byte[data.Length];
        client.ReadRegion(2, 0x1000, back);
        Assert.Equal(data, back);
        Assert.Equal(data, server.Device.Region(2).AsSpan(0x1000, data.Length).ToArray());
    }

    [Fact]
    public void Posted_writes_are_done_before_a_later_read()
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect();
        byte[] word = new byte[4];
        for (int i = 0; i < 1000; i++)
        {
            client.WriteRegion(0, 8, BitConverter.GetBytes(i), posted: true);
            client.ReadRegion(0, 8, word);
            Assert.Equal(i, BitConverter.ToInt32(word));
        }
    }

    [Fact]
    public void Device_writes_reach_mapped_memory_and_the_log()
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect(out IDeviceHost host);
        using MemFd ram = MemFd.Create("ram", 0x100000);
        using MemoryMapping view = MemoryMapping.MapShared(ram, 0, 0x100000, writable: true);
        client.DmaMap(new DmaRange(new DmaAddress(0xffff_0000_0000), 0x10000), DmaAccess.Read | DmaAccess.Write, ram, 0x20000);
        Assert.Equal(4096ul, client.StartDmaLogging(4096, []));
        Assert.True(host.Write(new DmaAddress(0xffff_0000_3ffe), [1, 2, 3, 4]));
        unsafe
        {
            Assert.Equal([1, 2, 3, 4], new ReadOnlySpan<byte>(view.Address + 0x23ffe, 4).ToArray());
        }
        ulong[] bitmap = new ulong[1];
        client.ReportDmaLog(new DmaRange(new DmaAddress(0xffff_0000_0000), 0x10000), 4096, bitmap);
        Assert.Equal([0x18ul], bitmap);
        client.ReportDmaLog(new DmaRange(new DmaAddress(0xffff_0000_0000), 0x10000), 4096, bitmap = new ulong[1]);
        Assert.Equal([0ul], bitmap);
        client.DmaUnmap(new DmaRange(new DmaAddress(0xffff_0000_0000), 0x10000));
        Assert.False(host.Write(new DmaAddress(0xffff_0000_3ffe), [1, 2, 3, 4]));
    }

    [Fact]
    public void Memory_without_a_file_is_reached_by_messages()
    {
        using var server = new TestServer();
        var dma = new ArrayDma(0x10000, 0x80000);
        using VfioUserClient client = server.Connect(out IDeviceHost host, dma);
        client.DmaMap(new DmaRange(new DmaAddress(0x10000), 0x80000), DmaAccess.Read | DmaAccess.Write, null, 0);
        byte[] data = new byte[0x70003];
        new Random(2).NextBytes(data);
        Assert.True(host.Write(new DmaAddress(0x10001), data));
        Assert.Equal(data, dma.Memory.AsSpan(1, data.Length).ToArray());
        byte[] back = new byte[data.Length];
        Assert.True(host.Read(new DmaAddress(0x10001), back));
        Assert.Equal(data, back);
        Assert.False(host.TryAcquire(new DmaAddress(0x10001), 4, forWrite: false, out _));
    }

    [Fact]
    public void Interrupts_reach_the_eventfd()
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect(out IDeviceHost host);
        EventFd?[] fds = [.. Enumerable.Range(0, 40).Select(i => i == 5 ? null : EventFd.Create())];
        client.SetIrqEventFds(PciIrq.Msix, 3, fds);
        host.Trigger(PciIrq.Msix, 3 + 39);
        host.Trigger(PciIrq.Msix, 3 + 5);
        Assert.Equal(1ul, fds[39]!.Drain());
        Assert.All(fds.Take(39), fd => Assert.Equal(0ul, fd?.Drain() ?? 0));
        client.TriggerIrq(PciIrq.Msix, 3, 2);
        Assert.Equal((1ul, 1ul), (fds[0]!.Drain(), fds[1]!.Drain()));
        client.DisableIrqs(PciIrq.Msix);
        host.Trigger(PciIrq.Msix, 3);
        Assert.Equal(0ul, fds[0]!.Drain());
    }

    [Fact]
    public void Migration_data_crosses_both_ways()
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect();
        Assert.Equal(MigrationSupport.StopCopy | MigrationSupport.PreCopy | MigrationSupport.P2P, client.GetMigrationSupport());
        Assert.True(client.SupportsDmaLogging());
        Assert.Equal(4711ul, client.GetStopCopySize());
        byte[] data = new byte[2_500_000];
        new Random(3).NextBytes(data);
        server.Device.Saved = new MemoryStream(data);
        client.SetMigrationState(DeviceMigrationState.StopCopy);
        Assert.Equal(DeviceMigrationState.StopCopy, client.GetMigrationState());
        byte[] back = new byte[data.Length + 10];
        Assert.Equal(data.Length, client.ReadMigrationData(back));
        Assert.Equal(data, back[..data.Length]);
        Assert.Equal(0, client.ReadMigrationData(back));
        client.SetMigrationState(DeviceMigrationState.Resuming);
        client.WriteMigrationData(data);
        client.SetMigrationState(DeviceMigrationState.Running);
        Assert.Equal(data, server.Device.Loaded.ToArray());
        client.Reset();
        Assert.Equal(1, server.Device.Resets);
    }
}
