using System.Runtime.InteropServices;
using Godwit.Interop.Linux;
using static Godwit.Interop.Linux.vfio;

namespace Godwit.Vfio.Tests;

/// <summary>A device's descriptor, from a group or from its own node (drivers/vfio/vfio_main.c, drivers/vfio/pci/vfio_pci_core.c).</summary>
internal sealed class DeviceFile : FakeFile
{
    private const int RegionShift = 40; // VFIO_PCI_OFFSET_SHIFT

    private readonly FakeVfioDevice _device;
    private readonly GroupFile? _group;
    private IommufdFile? _iommufd;
    private uint _id;

    public DeviceFile(FakeVfioDevice device, GroupFile? group)
    {
        _device = device;
        _group = group;
    }

    /// <summary>A device opened by its node answers only the binding until it is bound.</summary>
    private bool IsBound => _group is not null || _iommufd is not null;

    public override Errno OnOpen() => Errno.None;

    public override void OnClose()
    {
        _device.Closed();
        if (_iommufd is { } iommufd)
            iommufd.Unbind(_id);
        _group?.DeviceClosed();
    }

    public override string NameOf(uint request) => request switch
    {
        VFIO_DEVICE_GET_INFO => nameof(VFIO_DEVICE_GET_INFO),
        VFIO_DEVICE_GET_REGION_INFO => nameof(VFIO_DEVICE_GET_REGION_INFO),
        VFIO_DEVICE_GET_IRQ_INFO => nameof(VFIO_DEVICE_GET_IRQ_INFO),
        VFIO_DEVICE_SET_IRQS => nameof(VFIO_DEVICE_SET_IRQS),
        VFIO_DEVICE_RESET => nameof(VFIO_DEVICE_RESET),
        VFIO_DEVICE_GET_PCI_HOT_RESET_INFO => nameof(VFIO_DEVICE_GET_PCI_HOT_RESET_INFO),
        VFIO_DEVICE_PCI_HOT_RESET => nameof(VFIO_DEVICE_PCI_HOT_RESET),
        VFIO_DEVICE_FEATURE => nameof(VFIO_DEVICE_FEATURE),
        VFIO_DEVICE_BIND_IOMMUFD => nameof(VFIO_DEVICE_BIND_IOMMUFD),
        VFIO_DEVICE_ATTACH_IOMMUFD_PT => nameof(VFIO_DEVICE_ATTACH_IOMMUFD_PT),
        VFIO_DEVICE_DETACH_IOMMUFD_PT => nameof(VFIO_DEVICE_DETACH_IOMMUFD_PT),
        _ => $"device request 0x{request:x}",
    };

    public override Errno Ioctl(uint request, nuint argument, out int result)
    {
        result = 0;
        if (!IsBound)
            return Errno.EINVAL;
        if (request != VFIO_DEVICE_RESET)
            return Errno.ENOTTY;
        if (!_device.Traits.FunctionReset)
            return Errno.EINVAL;
        _device.Reset();
        return Errno.None;
    }

    public override Errno Ioctl(uint request, Span<byte> argument, out int result)
    {
        result = 0;
        if (request == VFIO_DEVICE_BIND_IOMMUFD)
            return Bind(argument);
        if (!IsBound)
            return Errno.EINVAL;
        return request switch
        {
            VFIO_DEVICE_GET_INFO => GetInfo(argument),
            VFIO_DEVICE_GET_REGION_INFO => GetRegionInfo(argument),
            VFIO_DEVICE_GET_IRQ_INFO => GetIrqInfo(argument),
            VFIO_DEVICE_SET_IRQS => SetIrqs(argument, out result),
            VFIO_DEVICE_GET_PCI_HOT_RESET_INFO => HotResetInfo(argument),
            VFIO_DEVICE_PCI_HOT_RESET => HotReset(argument),
            VFIO_DEVICE_FEATURE => FakeFeatures.Run(_device, argument),
            VFIO_DEVICE_ATTACH_IOMMUFD_PT => Attach(argument),
            _ => Errno.ENOTTY,
        };
    }

    /// <summary>vfio_pci_core_mmap: a BAR, as far as it reaches in whole pages.</summary>
    public override Errno Map(ulong offset, ulong length, bool writable, out MemoryMapping? mapping)
    {
        mapping = null;
        if (!IsBound || offset >> RegionShift != VFIO_PCI_BAR0_REGION_INDEX || offset + length > FakeVfioDevice.Bar0Bytes)
            return Errno.EINVAL;
        return MemoryMapping.TryMapShared(_device.ShareBar0(), offset, length, writable, out mapping);
    }

    public override Errno ReadAt(ulong offset, Span<byte> destination, out int count)
    {
        count = 0;
        Span<byte> bytes = Place(offset, destination.Length, out Errno errno);
        if (errno != Errno.None)
            return errno;
        bytes.CopyTo(destination);
        count = destination.Length;
        return Errno.None;
    }

    public override Errno WriteAt(ulong offset, ReadOnlySpan<byte> data, out int count)
    {
        count = 0;
        Span<byte> bytes = Place(offset, data.Length, out Errno errno);
        if (errno != Errno.None)
            return errno;
        bool master = _device.BusMaster;
        data.CopyTo(bytes);
        if (master && _device.Traits.KeepsBusMaster)
            _device.Config[4] |= 4;
        count = data.Length;
        return Errno.None;
    }

    public override string ToString() => $"{_device}";

    private Span<byte> Place(ulong offset, int length, out Errno errno)
    {
        errno = Errno.EINVAL;
        if (!IsBound)
            return default;
        int index = (int)(offset >> RegionShift);
        ulong at = offset & ((1UL << RegionShift) - 1);
        Span<byte> bytes = index switch
        {
            VFIO_PCI_BAR0_REGION_INDEX => _device.Bar0,
            VFIO_PCI_CONFIG_REGION_INDEX => _device.Config,
            _ => default,
        };
        if (at + (ulong)length > (ulong)bytes.Length)
            return default;
        // While memory space is disabled its accesses fail (vfio_pci_rdwr.c).
        if (index == VFIO_PCI_BAR0_REGION_INDEX && (_device.MemoryGone || (_device.Config[4] & 2) == 0))
        {
            errno = Errno.EIO;
            return default;
        }

        errno = Errno.None;
        return bytes.Slice((int)at, length);
    }

    private Errno GetInfo(Span<byte> argument)
    {
        var info = MemoryMarshal.Read<vfio_device_info>(argument);
        if (info.argsz < 16)
            return Errno.EINVAL;
        info.flags = VFIO_DEVICE_FLAGS_PCI | (_device.Traits.FunctionReset ? VFIO_DEVICE_FLAGS_RESET : 0);
        info.num_regions = VFIO_PCI_NUM_REGIONS;
        info.num_irqs = VFIO_PCI_NUM_IRQS;
        MemoryMarshal.AsBytes(new ReadOnlySpan<vfio_device_info>(in info))[..16].CopyTo(argument);
        return Errno.None;
    }

    private Errno GetRegionInfo(Span<byte> argument)
    {
        int head = Marshal.SizeOf<vfio_region_info>();
        var info = MemoryMarshal.Read<vfio_region_info>(argument);
        if (info.argsz < head || info.index >= VFIO_PCI_NUM_REGIONS || info.index == 8)
            return Errno.EINVAL;
        uint given = info.argsz;
        info.offset = (ulong)info.index << RegionShift;
        info.flags = 0;
        info.size = 0;
        var chain = new CapabilityChain(head);
        switch (info.index)
        {
            case VFIO_PCI_CONFIG_REGION_INDEX:
                info.size = (ulong)_device.Config.Length;
                info.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
                break;
            case VFIO_PCI_BAR0_REGION_INDEX:
                info.size = FakeVfioDevice.Bar0Bytes;
                info.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE | VFIO_REGION_INFO_FLAG_MMAP | VFIO_REGION_INFO_FLAG_CAPS;
                chain.Add(VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, new vfio_info_cap_header(), []);
                if (_device.Traits.Sparse is { } sparse)
                {
                    chain.Add(VFIO_REGION_INFO_CAP_SPARSE_MMAP, new vfio_region_info_cap_sparse_mmap { nr_areas = (uint)sparse.Length },
                        MemoryMarshal.AsBytes(sparse.Select(a => new vfio_region_sparse_mmap_area { offset = a.Offset, size = a.Size }).ToArray().AsSpan()));
                }

                break;
            default:
                break;
        }

        chain.Finish(argument, given, out info.argsz, out info.cap_offset);
        MemoryMarshal.Write(argument, info);
        return Errno.None;
    }

    private int Vectors(uint index) => (int)index switch
    {
        VFIO_PCI_INTX_IRQ_INDEX => _device.Traits.Pin == 0 ? 0 : 1,
        VFIO_PCI_MSI_IRQ_INDEX => _device.Traits.MsiVectors,
        VFIO_PCI_MSIX_IRQ_INDEX => _device.Traits.MsixVectors,
        _ => 1,
    };

    private bool HasIrq(uint index) => index < VFIO_PCI_NUM_IRQS && (index != VFIO_PCI_ERR_IRQ_INDEX || _device.Traits.Express);

    private Errno GetIrqInfo(Span<byte> argument)
    {
        var info = MemoryMarshal.Read<vfio_irq_info>(argument);
        if (info.argsz < Marshal.SizeOf<vfio_irq_info>() || !HasIrq(info.index))
            return Errno.EINVAL;
        info.count = (uint)Vectors(info.index);
        info.flags = VFIO_IRQ_INFO_EVENTFD | (info.index == VFIO_PCI_INTX_IRQ_INDEX ? VFIO_IRQ_INFO_MASKABLE | VFIO_IRQ_INFO_AUTOMASKED : VFIO_IRQ_INFO_NORESIZE);
        MemoryMarshal.Write(argument, info);
        return Errno.None;
    }

    private Errno SetIrqs(Span<byte> argument, out int result)
    {
        result = 0;
        int head = Marshal.SizeOf<vfio_irq_set>();
        var set = MemoryMarshal.Read<vfio_irq_set>(argument);
        uint data = set.flags & 7, action = set.flags & 0x38;
        if (set.argsz < head || !HasIrq(set.index) || (set.flags & ~0x3Fu) != 0 || data == 0 || action == 0)
            return Errno.EINVAL;
        if (set.start + set.count > Vectors(set.index) && !(set.count == 0 && data == VFIO_IRQ_SET_DATA_NONE))
            return Errno.EINVAL;
        uint unit = data == VFIO_IRQ_SET_DATA_EVENTFD ? 4u : data == VFIO_IRQ_SET_DATA_BOOL ? 1u : 0;
        if (set.argsz - head < set.count * unit || (set.count == 0 && unit > 0))
            return Errno.EINVAL;
        if (action == VFIO_IRQ_SET_ACTION_UNMASK && set.index == VFIO_PCI_INTX_IRQ_INDEX)
        {
            // vfio_pci_set_intx_unmask: vector 0, of an index that is enabled
            if (_device.EnabledIrq != VFIO_PCI_INTX_IRQ_INDEX || set.start != 0 || set.count != 1 || data != VFIO_IRQ_SET_DATA_NONE)
                return Errno.EINVAL;
            _device.UnmaskPin();
            return Errno.None;
        }

        if (action != VFIO_IRQ_SET_ACTION_TRIGGER)
            return Errno.ENOTTY;
        int index = (int)set.index;
        bool special = index is VFIO_PCI_ERR_IRQ_INDEX or VFIO_PCI_REQ_IRQ_INDEX;
        if (data == VFIO_IRQ_SET_DATA_NONE && set.count == 0)
        {
            if (!special && _device.EnabledIrq != index)
                return Errno.None;
            _device.DisableIrq(index);
            return Errno.None;
        }

        if (data != VFIO_IRQ_SET_DATA_EVENTFD)
            return Errno.EINVAL;
        if (!special && _device.EnabledIrq is { } enabled && enabled != index)
            return Errno.EINVAL; // one kind at a time
        if (!special && set.start + set.count > _device.Traits.HostVectors)
        {
            result = _device.Traits.HostVectors;
            return Errno.None;
        }

        ReadOnlySpan<int> numbers = MemoryMarshal.Cast<byte, int>(argument[head..])[..(int)set.count];
        for (int i = 0; i < numbers.Length; i++)
            _device.SetTrigger(index, (int)set.start + i, numbers[i]);
        if (!special)
            _device.EnableIrq(index);
        return Errno.None;
    }

    private Errno HotResetInfo(Span<byte> argument)
    {
        int head = Marshal.SizeOf<vfio_pci_hot_reset_info>(), entry = Marshal.SizeOf<vfio_pci_dependent_device>();
        var info = MemoryMarshal.Read<vfio_pci_hot_reset_info>(argument);
        if (info.argsz < head)
            return Errno.EINVAL;
        if (_device.Traits.BusNeighbours is not { } neighbours)
            return Errno.ENODEV;
        string[] all = [_device.Address, .. neighbours];
        info.count = (uint)all.Length;
        info.flags = 0;
        bool fits = info.argsz >= head + (all.Length * entry);
        MemoryMarshal.Write(argument, info);
        if (!fits)
            return Errno.ENOSPC;
        for (int i = 0; i < all.Length; i++)
        {
            Assert.True(HostPciAddress.TryParse(all[i], out HostPciAddress a));
            MemoryMarshal.Write(argument[(head + (i * entry))..],
                new vfio_pci_dependent_device { segment = (ushort)a.Domain, bus = a.Bus, devfn = (byte)(a.Slot << 3 | a.Function) });
        }

        return Errno.None;
    }

    /// <summary>Ownership of all that is reset is proven by groups, or by iommufd when no group is given.</summary>
    private Errno HotReset(Span<byte> argument)
    {
        var reset = MemoryMarshal.Read<vfio_pci_hot_reset>(argument);
        if (reset.argsz < Marshal.SizeOf<vfio_pci_hot_reset>() || reset.flags != 0)
            return Errno.EINVAL;
        if (_device.Traits.BusNeighbours is not { } neighbours)
            return Errno.ENODEV;
        if (reset.count == 0 != (_group is null) || neighbours.Length > 0)
            return Errno.EINVAL;
        if (reset.count > 0 && _device.Kernel.Find(MemoryMarshal.Read<int>(argument[Marshal.SizeOf<vfio_pci_hot_reset>()..])) != _group)
            return Errno.EINVAL;
        _device.Reset();
        return Errno.None;
    }

    private Errno Bind(Span<byte> argument)
    {
        var bind = MemoryMarshal.Read<vfio_device_bind_iommufd>(argument);
        if (_group is not null || _iommufd is not null || bind.argsz < 16 || bind.flags != 0)
            return Errno.EINVAL;
        if (_device.Open is not null)
            return Errno.EBUSY;
        if (_device.Kernel.Find(bind.iommufd) is not IommufdFile iommufd)
            return Errno.EBADF;
        _device.Open = this;
        _iommufd = iommufd;
        _id = iommufd.Bind(_device);
        bind.out_devid = _id;
        MemoryMarshal.Write(argument, bind);
        return Errno.None;
    }

    private Errno Attach(Span<byte> argument)
    {
        // Without the PASID: 12 bytes.
        if (_iommufd is null || argument.Length < 12 || MemoryMarshal.Read<uint>(argument) < 12 || MemoryMarshal.Read<uint>(argument[4..]) != 0)
            return Errno.EINVAL;
        uint table = MemoryMarshal.Read<uint>(argument[8..]);
        Errno errno = _iommufd.Attach(_id, ref table);
        MemoryMarshal.Write(argument[8..], table);
        return errno;
    }
}
