using Godwit.Interop.Linux;
using Godwit.Migration;
using Godwit.VfioUser;

namespace Godwit.Vfio.Tests;

/// <summary>Dirty bits of the host's IOMMU, by the rules of type1 and of iommufd.</summary>
public sealed class KernelDirtyTests
{
    private static readonly FakeDeviceTraits Tracked = new() { Migration = MigrationSupport.StopCopy, HostDirtyTracking = true };

    [Fact]
    public void Type1_says_of_everything_mapped_that_it_is_dirty_also_when_it_goes()
    {
        using var host = new FakeHost(Tracked, guestIommu: true);
        using VfioPciFunction function = host.Plug(HostIommuKind.Type1, DirtyTrackingMode.Iommu);
        FakeHost.Boot(function);
        Assert.Empty(function.QueryBlockers(1));
        IDirtyTracker tracker = Start(host, function);
        host.Map(0x100, ModelBoard.LowGpa + 3, 2);
        host.Map(0x110, ModelBoard.LowGpa + 9);
        tracker.Sync(final: false);
        Assert.Equal([3UL, 4UL, 9UL], host.Dirty());
        tracker.Sync(final: false);
        Assert.Equal([3UL, 4UL, 9UL], host.Dirty());
        host.Unmap(0x110);
        Assert.Equal([9UL], host.Dirty());
        tracker.Stop();
    }

    [Fact]
    public void Type1_is_not_chosen_by_itself_because_no_migration_converges_by_it()
    {
        using var host = new FakeHost(Tracked);
        using VfioPciFunction function = host.Plug(HostIommuKind.Type1);
        Assert.Equal("no-dirty-source", Assert.Single(function.QueryBlockers(1)).Code);
    }

    [Fact]
    public void Iommufd_tells_exactly_what_was_written()
    {
        using var host = new FakeHost(Tracked, iommufd: true, guestIommu: true);
        using VfioPciFunction function = host.Plug();
        FakeHost.Boot(function);
        Assert.Equal(DirtySourceKind.HostIommu, function.DirtyTracking.Source);
        Assert.Empty(function.QueryBlockers(1));
        host.Map(0x100, ModelBoard.LowGpa + 3, 8);
        host.Map(0x200, ModelBoard.LowGpa + 40, 8); // behind a hole, which no query may span
        IDirtyTracker tracker = Start(host, function);
        Assert.True(host.Device.Write(0x10_2000, [1]));
        Assert.True(host.Device.Write(0x20_7000, [1]));
        tracker.Sync(final: false);
        Assert.Equal([5UL, 47UL], host.Dirty());
        tracker.Sync(final: false);
        Assert.Empty(host.Dirty());
        Assert.True(host.Device.Write(0x20_0000, [1]));
        host.Unmap(0x200, 8);
        Assert.Contains(40UL, host.Dirty());
        tracker.Stop();
        Assert.False(host.Device.Space!.TracksDirty);
    }

    [Fact]
    public void A_query_of_iommufd_clears_what_it_tells_and_one_over_a_hole_is_refused()
    {
        using var host = new FakeHost(Tracked, iommufd: true);
        using KernelBackend device = host.Open();
        IHostIommu bits = device.HostIommu!;
        var page = new IovaPages(16, 1);
        device.QueueMap(page, host.Board.Low, 0, writable: true);
        bits.StartDirtyTracking();
        device.WriteRegion(PciRegion.Config, 4, [4, 0], posted: false);
        Assert.True(host.Device.Write(page.Iova.Value, [1]));
        foreach (ulong expected in (ulong[])[1, 0])
        {
            var bitmap = new ulong[1];
            bits.QueryDirty(page, bitmap);
            Assert.Equal(expected, bitmap[0]);
        }

        Assert.Equal(Errno.EINVAL, Assert.Throws<DeviceRefusedException>(() => bits.QueryDirty(new IovaPages(16, 2), new ulong[1])).Errno);
        Assert.Throws<ArgumentException>(() => bits.QueryDirty(new IovaPages(16, 65), new ulong[1]));
    }

    [Fact]
    public void Type1_cuts_no_mapping_and_bounds_its_bitmap()
    {
        using var host = new FakeHost(Tracked, new FakeType1Traits { MaxDirtyBitmapBytes = 8 });
        using KernelBackend device = host.Open();
        IHostIommu bits = device.HostIommu!;
        Assert.Equal((HostIommuShape.UnmapWithBitmap, 64UL, false), (bits.Traits.Shape, bits.Traits.MaxBitmapBits, bits.Traits.TracksWrites));
        var mapping = new IovaPages(16, 4);
        device.QueueMap(mapping, host.Board.Low, 0, writable: true);
        Assert.Equal(Errno.EINVAL, Assert.Throws<DeviceRefusedException>(() => bits.QueryDirty(mapping, new ulong[1])).Errno); // not started
        bits.StartDirtyTracking();
        Assert.Equal(Errno.EINVAL, Assert.Throws<DeviceRefusedException>(() => bits.QueryDirty(new IovaPages(16, 2), new ulong[1])).Errno);
        Assert.Equal(Errno.EINVAL, Assert.Throws<DeviceRefusedException>(() => bits.QueryDirty(new IovaPages(16, 65), new ulong[2])).Errno);
        var bitmap = new ulong[1];
        bits.UnmapWithDirty(mapping, bitmap);
        Assert.Equal(0xFUL, bitmap[0]);
        bits.UnmapWithDirty(mapping, bitmap);
        List<DmaFailure> failures = [];
        device.Flush(failures);
        Assert.Equal([new DmaFailure(2, Errno.ENOENT)], failures); // the third operation
        bits.StopDirtyTracking();
        Assert.Equal(0, host.Kernel.Mappings);
    }

    private static IDirtyTracker Start(FakeHost host, VfioPciFunction function)
    {
        host.Board.Ram.Dirty.Start();
        var tracker = (IDirtyTracker)function;
        tracker.Start();
        host.Dirty();
        return tracker;
    }
}
