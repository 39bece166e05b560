using System.Runtime.InteropServices;
using System.Text;
using Godwit.Interop.Linux;
using static Godwit.Interop.Linux.vfio;

namespace Godwit.Vfio.Tests;

/// <summary>An IOMMU group: opened by one at a time, viable when no host driver has a device of it (drivers/vfio/group.c).</summary>
internal sealed class FakeGroup(FakeKernel kernel, int number)
{
    public int Number { get; } = number;

    public bool Viable { get; set; } = true;

    public List<FakeVfioDevice> Devices { get; } = [];

    public GroupFile? Open { get; set; }

    public FakeKernel Kernel { get; } = kernel;
}

/// <summary>/dev/vfio/N.</summary>
internal sealed class GroupFile(FakeGroup group) : FakeFile
{
    public ContainerFile? Container { get; private set; }

    public int OpenDevices { get; private set; }

    public override string NameOf(uint request) => request switch
    {
        VFIO_GROUP_GET_STATUS => nameof(VFIO_GROUP_GET_STATUS),
        VFIO_GROUP_SET_CONTAINER => nameof(VFIO_GROUP_SET_CONTAINER),
        VFIO_GROUP_UNSET_CONTAINER => nameof(VFIO_GROUP_UNSET_CONTAINER),
        VFIO_GROUP_GET_DEVICE_FD => nameof(VFIO_GROUP_GET_DEVICE_FD),
        _ => $"group request 0x{request:x}",
    };

    public override Errno OnOpen()
    {
        if (group.Open is not null)
            return Errno.EBUSY;
        group.Open = this;
        return Errno.None;
    }

    /// <summary>Open devices hold the group.</summary>
    public override void OnClose()
    {
        if (OpenDevices > 0)
            return;
        group.Open = null;
        Container?.Leave(this);
    }

    public void DeviceClosed()
    {
        OpenDevices--;
        if (References == 0)
            OnClose();
    }

    public override Errno Ioctl(uint request, Span<byte> argument, out int result)
    {
        result = 0;
        switch (request)
        {
            case VFIO_GROUP_GET_STATUS:
                if (argument.Length < Marshal.SizeOf<vfio_group_status>() || MemoryMarshal.Read<vfio_group_status>(argument).argsz < 8)
                    return Errno.EINVAL;
                MemoryMarshal.Write(argument, new vfio_group_status
                {
                    argsz = 8,
                    flags = (group.Viable ? VFIO_GROUP_FLAGS_VIABLE : 0) | (Container is null ? 0 : VFIO_GROUP_FLAGS_CONTAINER_SET),
                });
                return Errno.None;
            case VFIO_GROUP_SET_CONTAINER:
                if (Container is not null)
                    return Errno.EINVAL;
                if (group.Kernel.Find(MemoryMarshal.Read<int>(argument)) is not { } file)
                    return Errno.EBADF;
                if (file is not ContainerFile container)
                    return Errno.EINVAL;
                if (!group.Viable)
                    return Errno.EPERM;
                Container = container;
                container.References++; // a group holds its container
                container.Join(this);
                return Errno.None;
            case VFIO_GROUP_GET_DEVICE_FD:
                string name = Encoding.ASCII.GetString(argument[..argument.IndexOf((byte)0)]);
                if (Container is not { IsIommuSet: true })
                    return Errno.EINVAL;
                if (group.Devices.FirstOrDefault(d => d.Address == name) is not { } device)
                    return Errno.ENODEV;
                OpenDevices++;
                result = group.Kernel.Add(device.OpenThrough(this));
                return Errno.None;
            default:
                return Errno.ENOTTY;
        }
    }

    public override Errno Ioctl(uint request, nuint argument, out int result)
    {
        result = 0;
        if (request != VFIO_GROUP_UNSET_CONTAINER)
            return Errno.ENOTTY;
        if (Container is null)
            return Errno.EINVAL;
        if (OpenDevices > 0)
            return Errno.EBUSY;
        Container.Leave(this);
        Container = null;
        return Errno.None;
    }

    public override string ToString() => $"group {group.Number}";
}

/// <summary>/dev/vfio/vfio with the type1v2 IOMMU (drivers/vfio/container.c, drivers/vfio/vfio_iommu_type1.c).</summary>
internal sealed class ContainerFile(FakeKernel kernel, FakeType1Traits traits) : FakeFile
{
    private readonly List<GroupFile> _groups = [];
    private bool _tracking;

    public bool IsIommuSet { get; private set; }

    public FakeAddressSpace Space { get; } = new(kernel);

    public override string NameOf(uint request) => request switch
    {
        VFIO_GET_API_VERSION => nameof(VFIO_GET_API_VERSION),
        VFIO_CHECK_EXTENSION => nameof(VFIO_CHECK_EXTENSION),
        VFIO_SET_IOMMU => nameof(VFIO_SET_IOMMU),
        VFIO_IOMMU_GET_INFO => nameof(VFIO_IOMMU_GET_INFO),
        VFIO_IOMMU_MAP_DMA => nameof(VFIO_IOMMU_MAP_DMA),
        VFIO_IOMMU_UNMAP_DMA => nameof(VFIO_IOMMU_UNMAP_DMA),
        VFIO_IOMMU_DIRTY_PAGES => nameof(VFIO_IOMMU_DIRTY_PAGES),
        _ => $"container request 0x{request:x}",
    };

    public void Join(GroupFile group) => _groups.Add(group);

    /// <summary>The last group takes the IOMMU, and so all mappings, with it.</summary>
    public void Leave(GroupFile group)
    {
        if (!_groups.Remove(group))
            return;
        if (_groups.Count == 0)
        {
            Space.Clear();
            IsIommuSet = false;
        }

        if (--References == 0)
            OnClose();
    }

    public override void OnClose() => Space.Clear();

    public override Errno Ioctl(uint request, nuint argument, out int result)
    {
        result = 0;
        switch (request)
        {
            case VFIO_GET_API_VERSION:
                result = VFIO_API_VERSION;
                return Errno.None;
            case VFIO_CHECK_EXTENSION:
                result = argument is VFIO_TYPE1v2_IOMMU && traits.HasType1 || (argument is VFIO_UNMAP_ALL && traits.UnmapAll) ? 1 : 0;
                return Errno.None;
            case VFIO_SET_IOMMU:
                if (IsIommuSet || _groups.Count == 0 || argument != VFIO_TYPE1v2_IOMMU)
                    return Errno.EINVAL;
                if (!traits.InterruptRemapping)
                    return Errno.EPERM;
                IsIommuSet = true;
                return Errno.None;
            default:
                return Errno.ENOTTY;
        }
    }

    public override Errno Ioctl(uint request, Span<byte> argument, out int result)
    {
        result = 0;
        if (!IsIommuSet)
            return Errno.EINVAL;
        return request switch
        {
            VFIO_IOMMU_GET_INFO => GetInfo(argument),
            VFIO_IOMMU_MAP_DMA => Map(MemoryMarshal.Read<vfio_iommu_type1_dma_map>(argument)),
            VFIO_IOMMU_UNMAP_DMA => Unmap(argument),
            VFIO_IOMMU_DIRTY_PAGES => Dirty(argument),
            _ => Errno.ENOTTY,
        };
    }

    private Errno GetInfo(Span<byte> argument)
    {
        int head = Marshal.SizeOf<vfio_iommu_type1_info>();
        var info = MemoryMarshal.Read<vfio_iommu_type1_info>(argument);
        if (info.argsz < head - 8) // up to iova_pgsizes
            return Errno.EINVAL;
        var chain = new CapabilityChain(head);
        if (traits.Usable.Length > 0)
        {
            chain.Add(VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, new vfio_iommu_type1_info_cap_iova_range { nr_iovas = (uint)traits.Usable.Length },
                MemoryMarshal.AsBytes(traits.Usable.Select(u => new vfio_iova_range { start = u.First, end = u.Last }).ToArray().AsSpan()));
        }

        chain.Add(VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION,
            new vfio_iommu_type1_info_cap_migration { pgsize_bitmap = 4096, max_dirty_bitmap_size = (ulong)traits.MaxDirtyBitmapBytes }, []);
        chain.Add(VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, new vfio_iommu_type1_info_dma_avail { avail = (uint)(traits.MaxMappings - Space.Count) }, []);
        info.flags = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS;
        info.iova_pgsizes = traits.PageSizes;
        chain.Finish(argument, info.argsz, out info.argsz, out info.cap_offset);
        MemoryMarshal.Write(argument, info);
        return Errno.None;
    }

    private Errno Map(vfio_iommu_type1_dma_map map)
    {
        const ulong Mask = FakeAddressSpace.PageSize - 1;
        if (map.argsz < Marshal.SizeOf<vfio_iommu_type1_dma_map>() || (map.flags & ~3u) != 0 || map.flags == 0)
            return Errno.EINVAL;
        if (map.size == 0 || ((map.size | map.iova | map.vaddr) & Mask) != 0 || map.iova + (map.size - 1) < map.iova)
            return Errno.EINVAL;
        ulong first = map.iova, last = map.iova + (map.size - 1);
        if (Space.Overlaps(first, last))
            return Errno.EEXIST;
        if (Space.Count >= traits.MaxMappings)
            return Errno.ENOSPC;
        if (traits.Usable.Length > 0 && !traits.Usable.Any(u => u.First <= first && last <= u.Last))
            return Errno.EINVAL;
        return Space.Add(new FakeMapping(map.iova, map.size, map.vaddr, (map.flags & VFIO_DMA_MAP_FLAG_WRITE) != 0));
    }

    private unsafe Errno Unmap(Span<byte> argument)
    {
        const ulong Mask = FakeAddressSpace.PageSize - 1;
        int head = Marshal.SizeOf<vfio_iommu_type1_dma_unmap>();
        var unmap = MemoryMarshal.Read<vfio_iommu_type1_dma_unmap>(argument);
        bool all = (unmap.flags & VFIO_DMA_UNMAP_FLAG_ALL) != 0, withBitmap = (unmap.flags & VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP) != 0;
        if (unmap.argsz < head || (unmap.flags & ~3u) != 0 || (all && withBitmap))
            return Errno.EINVAL;
        if (all && (!traits.UnmapAll || unmap.iova != 0 || unmap.size != 0))
            return Errno.EINVAL;
        if (!all && (unmap.size == 0 || ((unmap.iova | unmap.size) & Mask) != 0 || unmap.iova + (unmap.size - 1) < unmap.iova))
            return Errno.EINVAL;
        ulong last = all ? ulong.MaxValue : unmap.iova + (unmap.size - 1);
        // A mapping is never cut.
        if (!all && ((Space.Find(unmap.iova) is { } low && low.Iova != unmap.iova) || (Space.Find(last) is { } high && high.Last != last)))
            return Errno.EINVAL;
        if (withBitmap)
        {
            if (unmap.argsz < head + Marshal.SizeOf<vfio_bitmap>())
                return Errno.EINVAL;
            var bitmap = MemoryMarshal.Read<vfio_bitmap>(argument[head..]);
            if (!_tracking || bitmap.pgsize != FakeAddressSpace.PageSize || !Fits(bitmap, unmap.size))
                return Errno.EINVAL;
            Fill(bitmap, unmap.iova, last);
        }

        ulong size = 0;
        foreach (FakeMapping mapping in Space.All.Where(m => m.Iova >= unmap.iova && m.Last <= last).ToArray())
        {
            size += mapping.Size;
            Space.Remove(mapping);
        }

        unmap.size = size;
        MemoryMarshal.Write(argument, unmap);
        return Errno.None;
    }

    private Errno Dirty(Span<byte> argument)
    {
        int head = Marshal.SizeOf<vfio_iommu_type1_dirty_bitmap>();
        var dirty = MemoryMarshal.Read<vfio_iommu_type1_dirty_bitmap>(argument);
        if (dirty.argsz < head)
            return Errno.EINVAL;
        switch (dirty.flags)
        {
            case VFIO_IOMMU_DIRTY_PAGES_FLAG_START:
                _tracking = true;
                return Errno.None;
            case VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP:
                _tracking = false;
                return Errno.None;
            case VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP:
                if (dirty.argsz < head + Marshal.SizeOf<vfio_iommu_type1_dirty_bitmap_get>() || !_tracking)
                    return Errno.EINVAL;
                var get = MemoryMarshal.Read<vfio_iommu_type1_dirty_bitmap_get>(argument[head..]);
                if (get.bitmap.pgsize != FakeAddressSpace.PageSize || get.size == 0 || ((get.iova | get.size) & (FakeAddressSpace.PageSize - 1)) != 0
                    || get.iova + (get.size - 1) < get.iova || !Fits(get.bitmap, get.size))
                    return Errno.EINVAL;
                ulong last = get.iova + (get.size - 1);
                if ((Space.Find(get.iova) is { } low && low.Iova != get.iova) || (Space.Find(last) is { } high && high.Last != last))
                    return Errno.EINVAL;
                Fill(get.bitmap, get.iova, last);
                return Errno.None;
            default:
                return Errno.EINVAL;
        }
    }

    private bool Fits(vfio_bitmap bitmap, ulong bytes) =>
        bitmap.size <= (ulong)traits.MaxDirtyBitmapBytes && bitmap.size >= (bytes / FakeAddressSpace.PageSize + 63) / 64 * 8;

    /// <summary>Pages of a device behind an IOMMU without dirty bits are all dirty, at every query (vfio_iommu_type1.c, update_user_bitmap).</summary>
    private unsafe void Fill(vfio_bitmap bitmap, ulong first, ulong last)
    {
        var words = new Span<ulong>((void*)bitmap.data, (int)(bitmap.size / 8));
        foreach (FakeMapping mapping in Space.All.Where(m => m.Iova >= first && m.Last <= last))
        {
            for (ulong page = mapping.Iova; page <= mapping.Last; page += FakeAddressSpace.PageSize)
            {
                ulong bit = (page - first) / FakeAddressSpace.PageSize;
                words[(int)(bit / 64)] |= 1UL << (int)(bit % 64);
            }
        }
    }

    public override string ToString() => "container";
}

/// <summary>What a type1 container can.</summary>
internal sealed record FakeType1Traits
{
    public bool HasType1 { get; init; } = true;

    public bool UnmapAll { get; init; } = true;

    public bool InterruptRemapping { get; init; } = true;

    public int MaxMappings { get; init; } = 65535;

    public ulong PageSizes { get; init; } = 0x4020_1000;

    public (ulong First, ulong Last)[] Usable { get; init; } = [(0, 0xFEDF_FFFF), (0xFEF0_0000, (1UL << 48) - 1)];

    public int MaxDirtyBitmapBytes { get; init; } = 256 << 20;
}
