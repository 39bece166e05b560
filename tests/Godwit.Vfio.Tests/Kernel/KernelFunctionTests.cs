using Godwit.Interop.Linux;
using Godwit.Memory;
using Godwit.VfioUser;

namespace Godwit.Vfio.Tests;

/// <summary>A kernel device as a function of the guest: memory, registers, interrupts, reset, loss.</summary>
public sealed class KernelFunctionTests
{
    [Theory]
    [InlineData(HostIommuKind.Type1)]
    [InlineData(HostIommuKind.Iommufd)]
    public void DMA_goes_where_the_guest_mapped_it_and_nowhere_else(HostIommuKind kind)
    {
        using var host = new FakeHost(iommufd: true, guestIommu: true);
        using (VfioPciFunction function = host.Plug(kind))
        {
            FakeHost.Boot(function);
            Assert.False(Write(host, 0x100, 1));
            host.Map(0x100, ModelBoard.LowGpa + 3, 4);
            host.Map(0x200, ModelBoard.LowGpa + 9, 1, AccessRights.Read);
            Assert.True(Write(host, 0x102, 0xABCD));
            Assert.Equal(0xABCDUL, host.Ram(ModelBoard.LowGpa + 5));
            Assert.False(Write(host, 0x200, 2));
            // The guest cuts a hole into a mapping that the host only takes away whole.
            host.Unmap(0x101);
            Assert.False(Write(host, 0x101, 3));
            Assert.True(Write(host, 0x100, 4));
            Assert.True(Write(host, 0x103, 5));
            Assert.Equal((4UL, 5UL), (host.Ram(ModelBoard.LowGpa + 3), host.Ram(ModelBoard.LowGpa + 6)));
            function.WriteConfig(0x04, 2, 2); // no bus mastering
            Assert.False(Write(host, 0x100, 6));
        }

        host.Kernel.AssertClean("the function has gone");
    }

    [Fact]
    public void Without_a_vIOMMU_all_memory_is_mapped_once()
    {
        using var host = new FakeHost();
        using VfioPciFunction function = host.Plug();
        Assert.Equal(3, host.Kernel.Mappings); // two blocks and a read-only window
        Assert.Equal((ModelBoard.RamPages + 16) << 12, host.Kernel.LockedBytes);
    }

    [Fact]
    public void Registers_are_the_devices_and_one_that_is_pulled_reads_all_ones()
    {
        using var host = new FakeHost(new FakeDeviceTraits { Sparse = [(0, 0x1000), (0x2000, 0x2000)] });
        using VfioPciFunction function = host.Plug();
        FakeHost.Boot(function);
        host.Write(0x10, 0x1122_3344, 4);
        Assert.Equal(0x44, host.Device.Bar0[0x10]);
        host.Device.Bar0[0x20] = 0x5A;
        Assert.Equal(0x5AUL, host.Read(0x20, 1));
        host.Device.MemoryGone = true;
        Assert.Equal(0xFFFF_FFFFUL, host.Read(0x10, 4));
        host.Write(0x10, 0, 4);
        Assert.Contains("EIO", Assert.Single(host.Notices), StringComparison.Ordinal);
        host.Device.MemoryGone = false;
        Assert.Equal(0x1122_3344UL, host.Read(0x10, 4));
    }

    [Fact]
    public void Sparse_areas_are_those_of_the_device_and_the_whole_region_without_a_list()
    {
        using (var host = new FakeHost(new FakeDeviceTraits { Sparse = [(0, 0x1000), (0x2000, 0x2000), (0x3000, 0x9000)] }))
        {
            using KernelBackend device = host.Open();
            // The last one reaches out of the region and is not believed.
            Assert.Equal([new SparseArea(0, 0x1000), new SparseArea(0x2000, 0x2000)], device.GetRegionInfo(0).Mappable);
            Assert.Empty(device.GetRegionInfo(PciRegion.Config).Mappable);
            Assert.Equal(0UL, device.GetRegionInfo(PciRegion.Vga).Size);
        }

        using (var host = new FakeHost())
        {
            using KernelBackend device = host.Open();
            Assert.Equal([new SparseArea(0, FakeVfioDevice.Bar0Bytes)], device.GetRegionInfo(0).Mappable);
            Assert.Throws<DeviceRefusedException>(() => device.ReadRegion(0, FakeVfioDevice.Bar0Bytes - 2, new byte[4]));
        }
    }

    [Fact]
    public void MSIX_interrupts_arrive()
    {
        using var host = new FakeHost();
        using VfioPciFunction function = host.Plug();
        FakeHost.Boot(function);
        Assert.DoesNotContain((PciIrq.Msix, 0), host.Device.Triggers);
        for (uint vector = 0; vector < 2; vector++)
        {
            host.Write(0x1000 + (vector * 16), ModelBoard.InterruptWindow << 12, 8);
            host.Write(0x1000 + (vector * 16) + 8, 0x40 + vector, 8);
        }

        int msix = function.Config.FindCapability(0x11)!.Value;
        function.WriteConfig(msix + 2, 0x8000, 2);
        Assert.Equal(PciIrq.Msix, host.Device.EnabledIrq);
        Assert.True(host.Device.Raise(PciIrq.Msix, 1));
        Assert.Equal(0x41u, host.TakeInterrupt());
        function.WriteConfig(msix + 2, 0, 2);
        Assert.Null(host.Device.EnabledIrq);
    }

    [Theory]
    [InlineData(1, 0, 1)]
    [InlineData(8, 3, 8)]
    [InlineData(8, 1, 2)]
    [InlineData(4, 7, 4)]
    public void MSI_interrupts_arrive(int vectors, int enable, int enabled)
    {
        using var host = new FakeHost(new FakeDeviceTraits { MsiVectors = vectors, MsixVectors = 0 });
        using VfioPciFunction function = host.Plug();
        FakeHost.Boot(function);
        int msi = function.Config.FindCapability(0x05)!.Value;
        Assert.Equal(FakeVfioDevice.MsiAt, msi);
        function.WriteConfig(msi + 4, (uint)(ModelBoard.InterruptWindow << 12), 4);
        function.WriteConfig(msi + 12, 0x47, 2);
        function.WriteConfig(msi + 2, 1u | ((uint)enable << 4), 2);
        Assert.Equal(PciIrq.Msi, host.Device.EnabledIrq);
        Assert.Equal(enabled, host.Device.Triggers.Count(t => t.Index == PciIrq.Msi));
        Assert.True(host.Device.Raise(PciIrq.Msi, enabled - 1));
        Assert.Equal((0x47u & ~((uint)enabled - 1)) | ((uint)enabled - 1), host.TakeInterrupt());
        function.WriteConfig(msi + 2, 0, 2);
        Assert.Null(host.Device.EnabledIrq);
    }

    [Fact]
    public void A_guest_may_go_from_MSI_to_MSIX()
    {
        using var host = new FakeHost();
        using VfioPciFunction function = host.Plug();
        FakeHost.Boot(function);
        function.WriteConfig(FakeVfioDevice.MsiAt + 2, 1, 2);
        Assert.Equal(PciIrq.Msi, host.Device.EnabledIrq);
        function.WriteConfig(FakeVfioDevice.MsixAt + 2, 0x8000, 2);
        Assert.Equal(PciIrq.Msix, host.Device.EnabledIrq);
        Assert.DoesNotContain((PciIrq.Msi, 0), host.Device.Triggers);
        function.Reset();
        Assert.Null(host.Device.EnabledIrq);
        Assert.Empty(host.Notices);
    }

    [Fact]
    public void A_host_with_few_vectors_gives_those_it_has()
    {
        using var host = new FakeHost(new FakeDeviceTraits { MsixVectors = 8, HostVectors = 3 });
        using VfioPciFunction function = host.Plug();
        FakeHost.Boot(function);
        function.WriteConfig(function.Config.FindCapability(0x11)!.Value + 2, 0x8000, 2);
        Assert.Equal(3, host.Device.Triggers.Count(t => t.Index == PciIrq.Msix));
    }

    [Theory]
    [InlineData(true, false, HostIommuKind.Type1, true)]
    [InlineData(false, true, HostIommuKind.Type1, true)]
    [InlineData(false, true, HostIommuKind.Iommufd, true)]
    [InlineData(false, false, HostIommuKind.Type1, false)]
    public void A_device_is_reset_by_itself_or_with_a_bus_of_its_own(bool function, bool bus, HostIommuKind kind, bool can)
    {
        using var host = new FakeHost(new FakeDeviceTraits { FunctionReset = function, BusNeighbours = bus ? [] : null }, iommufd: true);
        using KernelBackend device = host.Open(kind);
        Assert.Equal(can, device.GetInfo().CanReset);
        if (can)
            device.Reset();
        else
            Assert.Equal(Errno.ENOTSUP, Assert.Throws<DeviceRefusedException>(device.Reset).Errno);
        Assert.Equal(can ? 1 : 0, host.Device.Resets);
    }

    [Fact]
    public void A_bus_with_others_on_it_is_never_reset()
    {
        using var host = new FakeHost(new FakeDeviceTraits { FunctionReset = false, BusNeighbours = ["0000:3b:00.0"] });
        using KernelBackend device = host.Open();
        Assert.False(device.GetInfo().CanReset);
        Assert.Throws<DeviceRefusedException>(device.Reset);
        Assert.Equal(0, host.Device.Resets);
    }

    [Fact]
    public void Memory_that_may_not_be_locked_is_refused_with_the_number_needed()
    {
        using var host = new FakeHost();
        host.Kernel.MemoryLockLimit = 64 << 10;
        var error = Assert.Throws<MemoryLockLimitException>(() => host.Plug());
        Assert.Equal((64UL << 10, (ModelBoard.RamPages + 16) << 12), (error.LimitBytes, error.NeededBytes));
        Assert.Contains($"{error.NeededBytes / 1024} KiB", error.Message, StringComparison.Ordinal);
        host.Kernel.AssertClean("a refused memory lock");
    }

    [Fact]
    public void Fewer_mappings_than_memory_needs_are_refused()
    {
        using var host = new FakeHost(type1: new FakeType1Traits { MaxMappings = 2 });
        var error = Assert.Throws<DmaMapLimitException>(() => host.Plug());
        Assert.Equal((3, 2), (error.Needed, error.Limit));
        Assert.Contains("dma_entry_limit", error.Message, StringComparison.Ordinal);
        host.Kernel.AssertClean("a map limit");
    }

    [Theory]
    [InlineData(HostIommuKind.Type1)]
    [InlineData(HostIommuKind.Iommufd)]
    public void A_vIOMMU_wider_than_the_hosts_is_refused_when_the_machine_is_built(HostIommuKind kind)
    {
        (ulong, ulong)[] narrow = [(0, 0x01FF_FFFF), (0x0400_0000, 0xFFFF_FFFF)]; // all of RAM, and a hole
        using var host = new FakeHost(
            type1: new FakeType1Traits { Usable = narrow }, iommufd: true, iommufdTraits: new FakeIommufdTraits { Usable = narrow }, guestIommu: true);
        var error = Assert.Throws<HostAddressRangeException>(() => host.Plug(kind));
        Assert.Equal("0x2000000-0x3ffffff", error.Missing);
        host.Kernel.AssertClean("a narrow host");
    }

    [Fact]
    public void The_guests_mappings_stop_at_the_limit_and_go_on_below_it()
    {
        using var host = new FakeHost(type1: new FakeType1Traits { MaxMappings = 8 }, guestIommu: true);
        using VfioPciFunction function = host.Plug();
        FakeHost.Boot(function);
        for (ulong page = 0; page < 10; page++)
            host.Map(0x100 + (2 * page), ModelBoard.LowGpa + page);
        Assert.Equal((8L, 2L), (function.Statistics.MappingsLive, function.Statistics.NotInstalled));
        Assert.Contains("at most 8 DMA mappings", Assert.Single(host.Notices), StringComparison.Ordinal);
        Assert.False(Write(host, 0x110, 7));
        host.Unmap(0x100); // one that was one too many has its turn
        Assert.True(Write(host, 0x110, 7));
        Assert.Equal((8L, 1L), (function.Statistics.MappingsLive, function.Statistics.NotInstalled));
        host.Unmap(0x102);
        host.Unmap(0x104);
        host.Map(0x300, ModelBoard.LowGpa + 20);
        Assert.True(Write(host, 0x300, 7));
        Assert.Equal((8L, 0L), (function.Statistics.MappingsLive, function.Statistics.NotInstalled));
    }

    [Theory]
    [InlineData(HostIommuKind.Type1)]
    [InlineData(HostIommuKind.Iommufd)]
    public void A_stale_mapping_of_the_host_gives_way(HostIommuKind kind)
    {
        using var host = new FakeHost(iommufd: true, guestIommu: true);
        using VfioPciFunction function = host.Plug(kind);
        FakeHost.Boot(function);
        Assert.Equal(Errno.None, host.Device.Space!.Add(new FakeMapping(0x10_0000, 0x1000, 0x1000, true)));
        host.Map(0x100, ModelBoard.LowGpa);
        Assert.True(Write(host, 0x100, 9));
        Assert.Equal(9UL, host.Ram(ModelBoard.LowGpa));
        // One that would have to be cut stays, and the guest's is refused.
        Assert.Equal(Errno.None, host.Device.Space!.Add(new FakeMapping(0x20_0000, 0x2000, 0x1000, false)));
        host.Map(0x200, ModelBoard.LowGpa + 1);
        Assert.Equal(1, function.Statistics.NotInstalled);
        Assert.Contains("EEXIST", Assert.Single(host.Notices), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(HostIommuKind.Type1, PciIrq.Request, "wants it back")]
    [InlineData(HostIommuKind.Iommufd, PciIrq.Error, "uncorrectable error")]
    public async Task A_device_that_the_host_wants_back_or_that_failed_is_let_go_and_the_guest_runs_on(HostIommuKind kind, int index, string why)
    {
        using var host = new FakeHost(iommufd: true, guestIommu: true);
        using VfioPciFunction function = host.Plug(kind);
        FakeHost.Boot(function);
        host.Map(0x100, ModelBoard.LowGpa);
        Assert.True(host.Device.Raise(index, 0));
        Assert.Contains(why, await function.Lost.WaitAsync(DeviceServer.Patience), StringComparison.Ordinal);
        Assert.IsType<DeviceLostBlocker>(function.QueryBlockers(1)[0]);
        // What the loss started may still be at work; disposing waits for it.
        function.Dispose();
        host.Kernel.AssertClean("a device that was let go");
        Assert.Equal(0xFFFF_FFFFUL, host.Read(0, 4));
        host.Map(0x101, ModelBoard.LowGpa + 1);
    }

    [Fact]
    public async Task A_device_that_the_kernel_no_longer_knows_is_lost()
    {
        using var host = new FakeHost();
        using VfioPciFunction function = host.Plug();
        FakeHost.Boot(function);
        host.Kernel.Fault = (host.Kernel.Trace.Count, Errno.ENODEV);
        Assert.Equal(0xFFUL, host.Read(0, 1));
        Assert.True(function.Lost.IsCompletedSuccessfully);
        Assert.Contains("ENODEV", await function.Lost, StringComparison.Ordinal);
    }

    [Fact]
    public void A_device_without_migration_or_log_says_what_blocks()
    {
        using var host = new FakeHost();
        using VfioPciFunction function = host.Plug();
        Assert.Equal(["device-without-migration", "no-dirty-source"], function.QueryBlockers(1).Select(b => b.Code));
    }

    private static bool Write(FakeHost host, ulong iovaPage, ulong value) => host.Device.Write(iovaPage << 12, BitConverter.GetBytes(value));
}
