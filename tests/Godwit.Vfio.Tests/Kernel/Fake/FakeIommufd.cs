using System.Runtime.InteropServices;
using Godwit.Interop.Linux;
using static Godwit.Interop.Linux.iommufd;

namespace Godwit.Vfio.Tests;

/// <summary>/dev/iommu: address spaces, hardware page tables, bound devices (drivers/iommu/iommufd).</summary>
internal sealed unsafe class IommufdFile(FakeKernel kernel, FakeIommufdTraits traits) : FakeFile
{
    private readonly Dictionary<uint, FakeAddressSpace> _spaces = [];
    private readonly Dictionary<uint, uint> _tables = []; // hwpt → ioas
    private readonly Dictionary<uint, (FakeVfioDevice Device, uint Attached)> _devices = [];
    private uint _next = 1;

    public override string NameOf(uint request) => request switch
    {
        IOMMU_DESTROY => nameof(IOMMU_DESTROY),
        IOMMU_IOAS_ALLOC => nameof(IOMMU_IOAS_ALLOC),
        IOMMU_IOAS_IOVA_RANGES => nameof(IOMMU_IOAS_IOVA_RANGES),
        IOMMU_IOAS_MAP => nameof(IOMMU_IOAS_MAP),
        IOMMU_IOAS_UNMAP => nameof(IOMMU_IOAS_UNMAP),
        IOMMU_HWPT_ALLOC => nameof(IOMMU_HWPT_ALLOC),
        IOMMU_GET_HW_INFO => nameof(IOMMU_GET_HW_INFO),
        IOMMU_HWPT_SET_DIRTY_TRACKING => nameof(IOMMU_HWPT_SET_DIRTY_TRACKING),
        IOMMU_HWPT_GET_DIRTY_BITMAP => nameof(IOMMU_HWPT_GET_DIRTY_BITMAP),
        _ => $"iommufd request 0x{request:x}",
    };

    public uint Bind(FakeVfioDevice device)
    {
        References++; // a bound device holds it
        _devices.Add(_next, (device, 0));
        return _next++;
    }

    public void Unbind(uint id)
    {
        _devices.Remove(id);
        if (--References == 0)
            OnClose();
    }

    public Errno Attach(uint id, ref uint table)
    {
        (FakeVfioDevice device, uint attached) = _devices[id];
        if (attached != 0)
            return Errno.EBUSY;
        if (_spaces.TryGetValue(table, out FakeAddressSpace? space))
        {
            uint made = _next++;
            _tables.Add(made, table);
            table = made;
        }
        else if (_tables.TryGetValue(table, out uint ioas))
        {
            space = _spaces[ioas];
        }
        else
        {
            return Errno.ENOENT;
        }

        _devices[id] = (device, table);
        device.Space = space;
        return Errno.None;
    }

    public override void OnClose()
    {
        foreach (FakeAddressSpace space in _spaces.Values)
            space.Clear();
    }

    public override Errno Ioctl(uint request, Span<byte> argument, out int result)
    {
        result = 0;
        return request switch
        {
            IOMMU_IOAS_ALLOC => Allocate(argument),
            IOMMU_IOAS_IOVA_RANGES => Ranges(argument),
            IOMMU_IOAS_MAP => Map(MemoryMarshal.Read<iommu_ioas_map>(argument)),
            IOMMU_IOAS_UNMAP => Unmap(argument),
            IOMMU_HWPT_ALLOC => AllocateTable(argument),
            IOMMU_GET_HW_INFO when traits.HardwareInfo => HardwareInfo(argument),
            IOMMU_HWPT_SET_DIRTY_TRACKING => SetTracking(MemoryMarshal.Read<iommu_hwpt_set_dirty_tracking>(argument)),
            IOMMU_HWPT_GET_DIRTY_BITMAP => GetDirty(MemoryMarshal.Read<iommu_hwpt_get_dirty_bitmap>(argument)),
            IOMMU_DESTROY => Destroy(MemoryMarshal.Read<iommu_destroy>(argument).id),
            _ => Errno.ENOTTY,
        };
    }

    public override string ToString() => "iommufd";

    private Errno Allocate(Span<byte> argument)
    {
        var alloc = MemoryMarshal.Read<iommu_ioas_alloc>(argument);
        if (alloc.flags != 0)
            return Errno.ENOTSUP;
        _spaces.Add(_next, new FakeAddressSpace(kernel));
        alloc.out_ioas_id = _next++;
        MemoryMarshal.Write(argument, alloc);
        return Errno.None;
    }

    private Errno Ranges(Span<byte> argument)
    {
        var query = MemoryMarshal.Read<iommu_ioas_iova_ranges>(argument);
        if (!_spaces.ContainsKey(query.ioas_id))
            return Errno.ENOENT;
        int room = (int)query.num_iovas;
        query.num_iovas = (uint)traits.Usable.Length;
        query.out_iova_alignment = FakeAddressSpace.PageSize;
        for (int i = 0; i < Math.Min(room, traits.Usable.Length); i++)
            ((iommu_iova_range*)query.allowed_iovas)[i] = new iommu_iova_range { start = traits.Usable[i].First, last = traits.Usable[i].Last };
        MemoryMarshal.Write(argument, query);
        return room < traits.Usable.Length ? Errno.EMSGSIZE : Errno.None;
    }

    private Errno Map(iommu_ioas_map map)
    {
        const ulong Mask = FakeAddressSpace.PageSize - 1;
        if ((map.flags & ~7u) != 0)
            return Errno.ENOTSUP;
        if (!_spaces.TryGetValue(map.ioas_id, out FakeAddressSpace? space))
            return Errno.ENOENT;
        if (map.length == 0 || ((map.iova | map.length | map.user_va) & Mask) != 0 || (map.flags & IOMMU_IOAS_MAP_FIXED_IOVA) == 0)
            return Errno.EINVAL;
        ulong first = map.iova, last = map.iova + (map.length - 1);
        if (last < first)
            return Errno.EOVERFLOW;
        if (!traits.Usable.Any(u => u.First <= first && last <= u.Last))
            return Errno.EINVAL;
        if (space.Overlaps(first, last))
            return Errno.EEXIST;
        return space.Add(new FakeMapping(map.iova, map.length, map.user_va, (map.flags & IOMMU_IOAS_MAP_WRITEABLE) != 0));
    }

    private Errno Unmap(Span<byte> argument)
    {
        var unmap = MemoryMarshal.Read<iommu_ioas_unmap>(argument);
        if (!_spaces.TryGetValue(unmap.ioas_id, out FakeAddressSpace? space))
            return Errno.ENOENT;
        bool all = unmap.iova == 0 && unmap.length == ulong.MaxValue;
        ulong last = all ? ulong.MaxValue : unmap.iova + (unmap.length - 1);
        FakeMapping[] hit = [.. space.All.Where(m => m.Iova <= last && unmap.iova <= m.Last)];
        // A mapping is never cut; nothing to unmap is an error.
        if (hit.Length == 0 || (!all && hit.Any(m => m.Iova < unmap.iova || m.Last > last)))
            return Errno.ENOENT;
        unmap.length = 0;
        foreach (FakeMapping mapping in hit)
        {
            unmap.length += mapping.Size;
            space.Remove(mapping);
        }

        MemoryMarshal.Write(argument, unmap);
        return Errno.None;
    }

    private Errno AllocateTable(Span<byte> argument)
    {
        var alloc = MemoryMarshal.Read<iommu_hwpt_alloc>(argument);
        if (!_devices.TryGetValue(alloc.dev_id, out (FakeVfioDevice Device, uint Attached) bound) || !_spaces.ContainsKey(alloc.pt_id))
            return Errno.ENOENT;
        if ((alloc.flags & ~IOMMU_HWPT_ALLOC_DIRTY_TRACKING) != 0 || (alloc.flags != 0 && !bound.Device.Traits.HostDirtyTracking))
            return Errno.ENOTSUP;
        _tables.Add(_next, alloc.pt_id);
        alloc.out_hwpt_id = _next++;
        MemoryMarshal.Write(argument, alloc);
        return Errno.None;
    }

    private Errno HardwareInfo(Span<byte> argument)
    {
        var info = MemoryMarshal.Read<iommu_hw_info>(argument);
        if (!_devices.TryGetValue(info.dev_id, out (FakeVfioDevice Device, uint Attached) bound))
            return Errno.ENOENT;
        info.out_capabilities = bound.Device.Traits.HostDirtyTracking ? IOMMU_HW_CAP_DIRTY_TRACKING : 0;
        MemoryMarshal.Write(argument, info);
        return Errno.None;
    }

    private Errno SetTracking(iommu_hwpt_set_dirty_tracking set)
    {
        if (!_tables.TryGetValue(set.hwpt_id, out uint ioas))
            return Errno.ENOENT;
        if ((set.flags & ~IOMMU_HWPT_DIRTY_TRACKING_ENABLE) != 0)
            return Errno.ENOTSUP;
        _spaces[ioas].TracksDirty = set.flags != 0;
        _spaces[ioas].Dirty.Clear();
        return Errno.None;
    }

    /// <summary>Only over IOVAs that are mapped without a gap (io_pagetable.c, iopt_area_contig_done); clears what it reports.</summary>
    private Errno GetDirty(iommu_hwpt_get_dirty_bitmap get)
    {
        const ulong Page = FakeAddressSpace.PageSize;
        if (!_tables.TryGetValue(get.hwpt_id, out uint ioas))
            return Errno.ENOENT;
        FakeAddressSpace space = _spaces[ioas];
        if (get.flags != 0)
            return Errno.ENOTSUP;
        if (get.page_size != Page || get.length == 0 || ((get.iova | get.length) & (Page - 1)) != 0 || !space.TracksDirty)
            return Errno.EINVAL;
        for (ulong at = get.iova; at < get.iova + get.length; at += Page)
        {
            if (space.Find(at) is null)
                return Errno.EINVAL;
        }

        var words = new Span<ulong>((void*)get.data, (int)((get.length / Page + 63) / 64));
        ulong first = get.iova / Page, last = (get.iova + (get.length - 1)) / Page;
        foreach (ulong page in space.Dirty.Where(p => p >= first && p <= last).ToArray())
        {
            words[(int)((page - first) / 64)] |= 1UL << (int)((page - first) % 64);
            space.Dirty.Remove(page);
        }

        return Errno.None;
    }

    private Errno Destroy(uint id)
    {
        if (_devices.Values.Any(d => d.Attached == id || (d.Attached != 0 && _tables.GetValueOrDefault(d.Attached) == id)))
            return Errno.EBUSY;
        if (_tables.Remove(id))
            return Errno.None;
        if (!_spaces.TryGetValue(id, out FakeAddressSpace? space))
            return Errno.ENOENT;
        if (_tables.ContainsValue(id))
            return Errno.EBUSY;
        space.Clear();
        _spaces.Remove(id);
        return Errno.None;
    }
}

/// <summary>What an iommufd can.</summary>
internal sealed record FakeIommufdTraits
{
    public bool HardwareInfo { get; init; } = true;

    public (ulong First, ulong Last)[] Usable { get; init; } = [(0, 0xFEDF_FFFF), (0xFEF0_0000, (1UL << 48) - 1)];
}
