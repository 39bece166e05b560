using Godwit.Interop.Linux;

namespace Godwit.Vfio.Tests;

/// <summary>The ways to a kernel device, and what each obstacle is called.</summary>
public sealed class KernelAttachTests
{
    [Theory]
    [InlineData(HostIommuKind.Auto, false, HostIommuKind.Type1)]
    [InlineData(HostIommuKind.Auto, true, HostIommuKind.Iommufd)]
    [InlineData(HostIommuKind.Type1, true, HostIommuKind.Type1)]
    [InlineData(HostIommuKind.Iommufd, true, HostIommuKind.Iommufd)]
    public void Auto_takes_the_best_and_a_wish_is_followed(HostIommuKind wanted, bool iommufd, HostIommuKind got)
    {
        using var host = new FakeHost(iommufd: iommufd);
        using (KernelBackend device = host.Open(wanted))
        {
            Assert.Equal(got, device.Kind);
            Assert.Equal(FakeHost.Address, device.Address);
            Assert.Equal(2, device.Usable.Length);
        }

        host.Kernel.AssertClean("a device that was attached and closed");
    }

    [Theory]
    [InlineData("3b:00.2")]
    [InlineData("0000:3b:00.2")]
    [InlineData("/sys/bus/pci/devices/0000:3b:00.2")]
    public void A_device_is_found_by_address_and_by_path(string name)
    {
        using var host = new FakeHost();
        using KernelBackend device = host.Open(host: name.Replace("/sys", host.Kernel.Sysfs.Root, StringComparison.Ordinal));
        Assert.Equal(FakeHost.Address, device.Address);
    }

    [Theory]
    [InlineData("0000:3b:00.3")]
    [InlineData("nonsense")]
    [InlineData("/sys/bus/pci")]
    public void A_device_that_is_not_there_is_named(string name)
    {
        using var host = new FakeHost();
        var error = Assert.Throws<VfioAttachException>(() => host.Open(host: name));
        Assert.Contains(name, error.Message, StringComparison.Ordinal);
        Assert.Contains("no such PCI device", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_device_of_a_host_driver_is_refused_with_the_commands_that_bind_it()
    {
        using var host = new FakeHost();
        host.Kernel.Sysfs.Add("0000:3c:00.0", 8, "mlx5_core");
        var error = Assert.Throws<DeviceNotBoundException>(() => host.Open(host: "0000:3c:00.0"));
        Assert.Contains("bound to mlx5_core", error.Message, StringComparison.Ordinal);
        Assert.Equal(
            [
                "modprobe vfio-pci",
                "echo vfio-pci > /sys/bus/pci/devices/0000:3c:00.0/driver_override",
                "echo 0000:3c:00.0 > /sys/bus/pci/devices/0000:3c:00.0/driver/unbind",
                "echo 0000:3c:00.0 > /sys/bus/pci/drivers_probe",
            ],
            error.Device.BindCommands);
        Assert.All(error.Device.BindCommands, c => Assert.Contains(c, error.Message, StringComparison.Ordinal));
        Assert.Empty(host.Kernel.Trace);
    }

    [Fact]
    public void A_group_that_is_not_viable_names_the_devices_in_the_way()
    {
        using var host = new FakeHost();
        host.Group.Viable = false;
        host.Kernel.Sysfs.Add("0000:3b:00.0", 7, "mlx5_core");
        host.Kernel.Sysfs.Add("0000:3b:00.1", 7, null);
        host.Kernel.Sysfs.Add("0000:3a:00.0", 7, "pcieport", classCode: 0x060400);
        host.Kernel.Sysfs.Add("0000:3d:00.0", 9, "nvme");
        var error = Assert.Throws<GroupNotViableException>(() => host.Open());
        Assert.Equal(7, error.Group);
        Assert.Equal("0000:3b:00.0", Assert.Single(error.Others).Address.ToString());
        Assert.Contains("0000:3b:00.0 is bound to mlx5_core", error.Message, StringComparison.Ordinal);
        host.Kernel.AssertClean("a group that is not viable");
    }

    [Theory]
    [InlineData(FakeHost.ContainerPath, HostIommuKind.Type1)]
    [InlineData(FakeHost.GroupPath, HostIommuKind.Type1)]
    [InlineData(FakeHost.NodePath, HostIommuKind.Auto)]
    [InlineData(IommufdSpace.Node, HostIommuKind.Iommufd)]
    public void A_file_without_permission_is_named(string path, HostIommuKind kind)
    {
        using var host = new FakeHost(iommufd: true);
        host.Kernel.Refusals[path] = Errno.EACCES;
        var error = Assert.Throws<DevicePermissionException>(() => host.Open(kind));
        Assert.Equal(path, error.Path);
        Assert.Contains(path, error.Message, StringComparison.Ordinal);
        host.Kernel.AssertClean("a file without permission");
    }

    [Fact]
    public void A_group_in_use_is_said_to_be()
    {
        using var host = new FakeHost();
        using KernelBackend first = host.Open();
        var error = Assert.Throws<DeviceBusyException>(() => host.Open());
        Assert.Equal(FakeHost.GroupPath, error.Path);
        Assert.Equal(3, host.Kernel.Open.Count); // of the first
    }

    [Fact]
    public void A_node_in_use_is_said_to_be()
    {
        using var host = new FakeHost(iommufd: true);
        using KernelBackend first = host.Open();
        Assert.Throws<DeviceBusyException>(() => host.Open());
        Assert.Equal(2, host.Kernel.Open.Count); // of the first
    }

    [Fact]
    public void A_host_that_cannot_isolate_interrupts_says_what_would_help()
    {
        using var host = new FakeHost(type1: new FakeType1Traits { InterruptRemapping = false });
        var error = Assert.Throws<VfioAttachException>(() => host.Open());
        Assert.Contains("allow_unsafe_interrupts", error.Message, StringComparison.Ordinal);
        host.Kernel.AssertClean("no interrupt remapping");
    }

    [Fact]
    public void A_kernel_without_type1_and_one_with_large_pages_only_are_refused()
    {
        using (var host = new FakeHost(type1: new FakeType1Traits { HasType1 = false }))
        {
            Assert.Contains("type1v2", Assert.Throws<VfioAttachException>(() => host.Open()).Message, StringComparison.Ordinal);
            host.Kernel.AssertClean("no type1");
        }

        using (var host = new FakeHost(type1: new FakeType1Traits { PageSizes = 0x20_0000 }))
        {
            Assert.Contains("pages of 4096", Assert.Throws<VfioAttachException>(() => host.Open()).Message, StringComparison.Ordinal);
            host.Kernel.AssertClean("large pages");
        }
    }

    [Fact]
    public void A_function_outside_every_group_says_that_the_IOMMU_is_off()
    {
        using var host = new FakeHost();
        host.Kernel.Sysfs.Add("0000:3e:00.0", null, "vfio-pci");
        Assert.Contains("no IOMMU group", Assert.Throws<VfioAttachException>(() => host.Open(host: "3e:00.0")).Message, StringComparison.Ordinal);
        host.Kernel.AssertClean("no group");
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_page_table_with_dirty_bits_is_taken_where_the_hardware_has_them(bool dirtyBits)
    {
        using var host = new FakeHost(new FakeDeviceTraits { HostDirtyTracking = dirtyBits }, iommufd: true);
        using (KernelBackend device = host.Open())
            Assert.Equal(dirtyBits, host.Kernel.Trace.Contains("IOMMU_HWPT_ALLOC"));
        host.Kernel.AssertClean("iommufd");
    }

    [Fact]
    public void A_kernel_before_hardware_info_and_one_with_many_ranges_are_taken()
    {
        var many = new FakeIommufdTraits { HardwareInfo = false, Usable = [.. Enumerable.Range(0, 40).Select(i => ((ulong)i << 32, ((ulong)i << 32) | 0xFFFF_FFFF))] };
        using var host = new FakeHost(iommufd: true, iommufdTraits: many);
        using KernelBackend device = host.Open(HostIommuKind.Iommufd);
        Assert.Equal(40, device.Usable.Length);
    }

    [Fact]
    public void A_descriptor_passed_in_is_taken_over_and_closed()
    {
        using var host = new FakeHost(iommufd: true);
        int number = host.Kernel.Inherit(new DeviceFile(host.Device, null), new InheritedDescriptor(true, 511, 3, CloseOnExec: false));
        using (KernelBackend device = Open(host, number))
        {
            Assert.Equal((FakeHost.Address, HostIommuKind.Iommufd), (device.Address, device.Kind));
            // The same number again names a descriptor that is this process's own by now.
            Assert.Contains("one of its own", Assert.Throws<VfioAttachException>(() => Open(host, number)).Message, StringComparison.Ordinal);
        }

        host.Kernel.AssertClean("a descriptor passed in");
    }

    [Theory]
    [InlineData(true, 511u, 3u, true, "one of its own")]
    [InlineData(true, 1u, 3u, false, "no node of a VFIO device")]
    [InlineData(false, 511u, 3u, false, "no node of a VFIO device")]
    public void A_descriptor_that_is_something_else_is_left_alone(bool character, uint major, uint minor, bool closeOnExec, string why)
    {
        using var host = new FakeHost(iommufd: true);
        int number = host.Kernel.Inherit(new DeviceFile(host.Device, null), new InheritedDescriptor(character, major, minor, closeOnExec));
        Assert.Contains(why, Assert.Throws<VfioAttachException>(() => Open(host, number)).Message, StringComparison.Ordinal);
        Assert.Single(host.Kernel.Open); // not ours to close
    }

    [Fact]
    public void A_descriptor_that_is_not_open_and_one_for_type1_are_refused()
    {
        using var host = new FakeHost(iommufd: true);
        Assert.Contains("no such descriptor", Assert.Throws<VfioAttachException>(() => Open(host, 99)).Message, StringComparison.Ordinal);
        int number = host.Kernel.Inherit(new DeviceFile(host.Device, null), new InheritedDescriptor(true, 511, 3, CloseOnExec: false));
        var error = Assert.Throws<VfioAttachException>(
            () => KernelAttach.Open(new KernelDeviceOptions { Descriptor = number, Iommu = HostIommuKind.Type1 }, host.Kernel, host.Kernel.Host));
        Assert.Contains("needs iommufd", error.Message, StringComparison.Ordinal);
    }

    /// <summary>The real calls look at real descriptors: this process's own are never taken for inherited ones.</summary>
    [Fact]
    public void Real_descriptors_are_told_apart()
    {
        LinuxKernelCalls kernel = LinuxKernelCalls.Instance;
        Assert.Equal(Errno.None, kernel.Open("/dev/null", out FileDescriptor? file));
        using (file)
        {
            Assert.Equal(Errno.None, kernel.Inspect(file!.Number, out InheritedDescriptor found));
            Assert.Equal(new InheritedDescriptor(true, 1, 3, CloseOnExec: true), found); // Documentation/admin-guide/devices.txt
        }

        Assert.Equal(Errno.EBADF, kernel.Inspect(int.MaxValue, out _));
        Assert.Equal(Errno.ENOENT, kernel.Open("/dev/vfio/no such thing", out FileDescriptor? none));
        Assert.Null(none);
    }

    private static KernelBackend Open(FakeHost host, int number) =>
        KernelAttach.Open(new KernelDeviceOptions { Descriptor = number }, host.Kernel, host.Kernel.Host);
}
