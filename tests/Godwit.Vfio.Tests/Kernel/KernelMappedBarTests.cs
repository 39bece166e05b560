using Godwit.Interop.Linux;

namespace Godwit.Vfio.Tests;

/// <summary>BARs of a kernel device that are mapped: what goes there, what does not, and when.</summary>
public sealed class KernelMappedBarTests
{
    [Theory]
    [InlineData(HostIommuKind.Type1)]
    [InlineData(HostIommuKind.Iommufd)]
    public void Accesses_of_the_guest_are_no_calls_but_where_its_MSIX_table_is(HostIommuKind kind)
    {
        using var host = new FakeHost(iommufd: true);
        using (VfioPciFunction function = host.Plug(kind, mapBars: true))
        {
            FakeHost.Boot(function);
            // The page of the table and of the pending bits, 0x1000, is left out.
            Assert.Equal([0x1000UL, 0x2000UL], host.Kernel.Mapped.Select(m => m.Length));
            int calls = host.Kernel.Trace.Count;
            foreach (int size in (int[])[1, 2, 4, 8])
            {
                host.Write(0x10, 0x8877_6655_4433_2211, size);
                Assert.Equal(0x8877_6655_4433_2211 & (ulong.MaxValue >> (64 - size * 8)), host.Read(0x10, size));
                host.Write(0x3FF8, (ulong)size, size);
                Assert.Equal(size, host.Device.Bar0[0x3FF8]);
            }

            host.Device.Bar0[0x20] = 0x5A;
            Assert.Equal(0x5AUL, host.Read(0x20, 1));
            Assert.Equal(calls, host.Kernel.Trace.Count);
            host.Write(0x1000, 0xFEE0_0000, 4); // the table is the VMM's
            Assert.Equal(calls, host.Kernel.Trace.Count);
            Assert.Equal(0, host.Device.Bar0[0x1003]);
            host.Write(0x1F00, 7, 4); // beside it
            Assert.Equal("pwrite", host.Kernel.Trace[^1]);
            Assert.Equal(7, host.Device.Bar0[0x1F00]);
            Assert.Empty(host.Notices);
        }

        host.Kernel.AssertClean("a mapped BAR");
    }

    [Fact]
    public void Only_what_the_device_offers_is_mapped()
    {
        using var host = new FakeHost(new FakeDeviceTraits { Sparse = [(0, 0x1000), (0x1000, 0x1000), (0x3000, 0x1000)] });
        using VfioPciFunction function = host.Plug(mapBars: true);
        FakeHost.Boot(function);
        Assert.Equal([0x1000UL, 0x1000UL], host.Kernel.Mapped.Select(m => m.Length));
        int calls = host.Kernel.Trace.Count;
        host.Write(0x3000, 0x33, 4);
        Assert.Equal(calls, host.Kernel.Trace.Count);
        host.Write(0x2000, 0x22, 4);
        Assert.Equal("pwrite", host.Kernel.Trace[^1]);
        Assert.Equal((0x33, 0x22), (host.Device.Bar0[0x3000], host.Device.Bar0[0x2000]));
    }

    [Fact]
    public void Without_being_asked_nothing_is_mapped()
    {
        using var host = new FakeHost();
        using VfioPciFunction function = host.Plug();
        FakeHost.Boot(function);
        Assert.Empty(host.Kernel.Mapped);
        Assert.DoesNotContain("mmap", host.Kernel.Trace);
    }

    /// <summary>Where a mapping's pages are taken away, only calls are made: an access through it would be the end of the process.</summary>
    [Fact]
    public void While_memory_space_is_off_and_after_a_reset_no_mapping_is_used()
    {
        using var host = new FakeHost();
        using KernelBackend device = host.Open();
        byte[] four = new byte[4];
        Assert.True(device.GetInfo().CanReset);
        Assert.Equal(FakeVfioDevice.Bar0Bytes, device.MapRegion(0, []));
        Refused(); // nobody has switched memory on yet
        Command(6);
        Assert.Equal(0, Reads());
        Command(4);
        Refused();
        device.WriteRegion(7, 5, [1], posted: false); // the upper half of the register says nothing of it
        Refused();
        device.WriteRegion(7, 2, [0, 0, 6, 0], posted: false); // a write over more than the register
        Assert.Equal(0, Reads());
        device.Reset();
        Assert.Equal(1, Reads()); // the kernel answers: it has waited for the reset
        Command(2);
        Assert.Equal(0, Reads());
        host.Kernel.Fault = (host.Kernel.Trace.Count, Errno.EIO);
        Assert.Throws<DeviceRefusedException>(() => Command(0));
        Assert.Equal(1, Reads()); // it may be off
        Command(2);
        Assert.Equal(0, Reads());
        device.CutOff("the test wants it");
        Assert.Empty(host.Kernel.Mapped);
        Assert.Throws<DeviceLostException>(() => device.ReadRegion(0, 0, four));
        Assert.Throws<DeviceLostException>(() => Command(2));
        Assert.Throws<DeviceLostException>(() => device.ReadRegion(0, 0, four));
        host.Kernel.AssertClean("a device cut off");

        void Command(byte value) => device.WriteRegion(7, 4, [value, 0], posted: false);

        void Refused()
        {
            int before = host.Kernel.Trace.Count;
            Assert.Equal(Errno.EIO, Assert.Throws<DeviceRefusedException>(() => device.ReadRegion(0, 0, four)).Errno);
            Assert.Equal("pread", Assert.Single(host.Kernel.Trace.Skip(before)));
        }

        int Reads()
        {
            int before = host.Kernel.Trace.Count;
            device.ReadRegion(0, 0, four);
            return host.Kernel.Trace.Count - before;
        }
    }

    [Fact]
    public void A_guest_that_resets_its_device_finds_it_mapped_again()
    {
        using var host = new FakeHost();
        using VfioPciFunction function = host.Plug(mapBars: true);
        FakeHost.Boot(function);
        host.Write(0x10, 0x55, 4);
        function.Reset();
        FakeHost.Boot(function);
        int calls = host.Kernel.Trace.Count;
        Assert.Equal(0UL, host.Read(0x10, 4));
        Assert.Equal(calls, host.Kernel.Trace.Count);
    }

    [Fact]
    public void What_cannot_be_mapped_is_reached_by_calls_and_that_is_told()
    {
        int mmap;
        using (var host = new FakeHost())
        using (VfioPciFunction function = host.Plug(mapBars: true))
            mmap = host.Kernel.Trace.ToList().LastIndexOf("mmap");
        using (var host = new FakeHost())
        {
            host.Kernel.Fault = (mmap, Errno.ENOMEM);
            using (VfioPciFunction function = host.Plug(mapBars: true))
            {
                Assert.Empty(host.Kernel.Mapped); // the second of two failed
                FakeHost.Boot(function);
                host.Write(0x10, 0x77, 4);
                Assert.Equal("pwrite", host.Kernel.Trace[^1]);
                Assert.Equal(0x77UL, host.Read(0x10, 4));
                string notice = Assert.Single(host.Notices);
                Assert.Contains("BAR 0", notice, StringComparison.Ordinal);
                Assert.Contains("ENOMEM", notice, StringComparison.Ordinal);
            }

            host.Kernel.AssertClean("a BAR that cannot be mapped");
        }
    }

    [Fact]
    public void A_device_that_goes_reads_all_ones_and_its_mappings_go_first()
    {
        using var host = new FakeHost();
        using VfioPciFunction function = host.Plug(mapBars: true);
        FakeHost.Boot(function);
        host.Write(0x10, 0x42, 4);
        Assert.True(host.Device.Raise(PciIrqRequest, 0));
        Assert.True(((IAsyncResult)function.Lost).AsyncWaitHandle.WaitOne(DeviceServer.Patience), "the loss is not noticed");
        Assert.Empty(host.Kernel.Mapped);
        Assert.True(SpinWait.SpinUntil(() => host.Read(0x10, 4) == 0xFFFF_FFFF, DeviceServer.Patience), "the device is not closed");
        host.Write(0x10, 1, 4);
        function.Dispose();
        host.Kernel.AssertClean("a device that the host took back");
    }

    private const int PciIrqRequest = VfioUser.PciIrq.Request;
}
