using System.Collections.Immutable;
using System.Runtime.InteropServices;
using Godwit.Interop.Linux;
using Godwit.Pci.Spec;
using Godwit.VfioUser;

namespace Godwit.Vfio;

/// <summary>
/// Regions of a kernel device. Accesses go through pread(2) and pwrite(2), which the kernel answers with EIO while the device's memory is disabled
/// or in reset, and where that is asked for through mappings, which would end this process with SIGBUS then. vfio-pci takes the pages of
/// its mappings away when memory space is disabled, at a reset and in power state D3, and gives them back on access while memory space is enabled
/// (Linux drivers/vfio/pci/vfio_pci_core.c, vfio_pci_zap_bars and vfio_pci_mmap_huge_fault; vfio_pci_config.c, __vfio_pci_memory_enabled). The first two
/// are done here, with the gate closed; the guest has no power states to set. What a driver or the host takes away by itself cannot be seen in time.
/// </summary>
internal sealed class KernelRegions(DeviceCalls device) : IDisposable
{
    /// <summary>A region's info with 64 sparse areas has 1 KiB; what wants more than this is not believed.</summary>
    private const int MaxInfoBytes = 1 << 16;

    private readonly RegionInfo?[] _infos = new RegionInfo?[PciRegion.Count];
    private readonly RegionMappings _mappings = new();
    private readonly Lock _memory = new(); // whether the device's memory is enabled, and the gate

    /// <summary>VFIO_DEVICE_GET_REGION_INFO. No file is handed out.</summary>
    public RegionInfo GetInfo(int index)
    {
        byte[] buffer = new byte[Marshal.SizeOf<vfio_region_info>()];
        vfio_region_info info;
        while (true)
        {
            MemoryMarshal.Write(buffer, new vfio_region_info { argsz = (uint)buffer.Length, index = (uint)index });
            Errno errno = device.Try(vfio.VFIO_DEVICE_GET_REGION_INFO, buffer, out _);
            // The kernel knows the index and the device has no such region (VGA of a device that is none).
            if (errno == Errno.EINVAL && index == PciRegion.Vga)
                return new RegionInfo(index, 0, false, false, 0, [], null);
            device.Throw("VFIO_DEVICE_GET_REGION_INFO", errno);
            info = MemoryMarshal.Read<vfio_region_info>(buffer);
            if (info.argsz <= buffer.Length || info.argsz > MaxInfoBytes)
                break;
            buffer = new byte[info.argsz];
        }

        var result = new RegionInfo(
            index,
            info.size,
            (info.flags & vfio.VFIO_REGION_INFO_FLAG_READ) != 0,
            (info.flags & vfio.VFIO_REGION_INFO_FLAG_WRITE) != 0,
            info.offset,
            (info.flags & vfio.VFIO_REGION_INFO_FLAG_MMAP) != 0 ? Mappable(info, buffer) : [],
            null);
        if ((uint)index < (uint)_infos.Length)
            _infos[index] = result;
        return result;
    }

    /// <inheritdoc cref="IDeviceAccess.MapRegion"/>
    public ulong Map(int index, ReadOnlySpan<SparseArea> keepOut)
    {
        RegionInfo info = Known(index);
        List<SparseArea> areas = MappableAreas.Of(info, keepOut);
        return areas.Count == 0 ? 0 : _mappings.Map(index, areas, Map);

        Errno Map(SparseArea area, out MemoryMapping? mapping)
        {
            try
            {
                return device.Kernel.Map(device.File, info.FileOffset + area.Offset, MappableAreas.BytesMapped(area), writable: true, out mapping);
            }
            catch (ObjectDisposedException e)
            {
                throw DeviceCalls.Closed(e);
            }
        }
    }

    /// <summary>Makes a call that takes the device's memory away; until the command register enables it again no mapping is used.</summary>
    public void WithoutMemory(Action call)
    {
        lock (_memory)
        {
            _mappings.Close();
            call();
        }
    }

    /// <summary>Nothing is mapped any more; for good.</summary>
    public void Dispose() => _mappings.Dispose();

    /// <summary>Reads all of <paramref name="destination"/>.</summary>
    public void Read(int index, ulong offset, Span<byte> destination)
    {
        if (_mappings.TryRead(index, offset, destination))
            return;
        ulong at = Place(index, offset, destination.Length);
        while (destination.Length > 0)
        {
            Errno errno;
            int count;
            try
            {
                errno = device.Kernel.ReadAt(device.File, at, destination, out count);
            }
            catch (ObjectDisposedException e)
            {
                throw DeviceCalls.Closed(e);
            }

            device.Throw("a read of a region", errno == Errno.None && count == 0 ? Errno.EIO : errno);
            at += (ulong)count;
            destination = destination[count..];
        }
    }

    /// <summary>Writes all of <paramref name="data"/>.</summary>
    public void Write(int index, ulong offset, ReadOnlySpan<byte> data)
    {
        if (index == PciRegion.Config && offset <= ConfigOffset.Command && offset + (uint)data.Length > ConfigOffset.Command)
            WriteCommand(offset, data);
        else if (!_mappings.TryWrite(index, offset, data))
            WriteByCall(index, offset, data);
    }

    private void WriteCommand(ulong offset, ReadOnlySpan<byte> data)
    {
        lock (_memory)
        {
            bool enables = (data[(int)(ConfigOffset.Command - offset)] & ConfigBits.CommandMemorySpace) != 0;
            if (!enables)
                _mappings.Close();
            WriteByCall(PciRegion.Config, offset, data);
            if (enables)
                _mappings.Open();
        }
    }

    private void WriteByCall(int index, ulong offset, ReadOnlySpan<byte> data)
    {
        ulong at = Place(index, offset, data.Length);
        while (data.Length > 0)
        {
            Errno errno;
            int count;
            try
            {
                errno = device.Kernel.WriteAt(device.File, at, data, out count);
            }
            catch (ObjectDisposedException e)
            {
                throw DeviceCalls.Closed(e);
            }

            device.Throw("a write of a region", errno == Errno.None && count == 0 ? Errno.EIO : errno);
            at += (ulong)count;
            data = data[count..];
        }
    }

    private ulong Place(int index, ulong offset, int length)
    {
        RegionInfo info = Known(index);
        return offset <= info.Size && (ulong)length <= info.Size - offset
            ? info.FileOffset + offset
            : throw new DeviceRefusedException($"{length} bytes at 0x{offset:x} of region {index}, which has {info.Size}", Errno.EINVAL);
    }

    private RegionInfo Known(int index) => (uint)index < (uint)_infos.Length
        ? _infos[index] ?? GetInfo(index)
        : throw new DeviceRefusedException($"region {index}", Errno.EINVAL);

    /// <summary>The whole region, unless a sparse area list says which parts.</summary>
    private static ImmutableArray<SparseArea> Mappable(vfio_region_info info, ReadOnlySpan<byte> bytes)
    {
        if ((info.flags & vfio.VFIO_REGION_INFO_FLAG_CAPS) != 0)
        {
            foreach (InfoCapability capability in new InfoCapabilities(bytes, info.cap_offset))
            {
                if (capability.Id == vfio.VFIO_REGION_INFO_CAP_SPARSE_MMAP && capability.TryRead(out vfio_region_info_cap_sparse_mmap sparse))
                    return Areas(capability.Body<vfio_region_info_cap_sparse_mmap>(), sparse.nr_areas, info.size);
            }
        }

        return info.size == 0 ? [] : [new SparseArea(0, info.size)];
    }

    private static ImmutableArray<SparseArea> Areas(ReadOnlySpan<byte> bytes, uint count, ulong size)
    {
        ReadOnlySpan<vfio_region_sparse_mmap_area> areas = MemoryMarshal.Cast<byte, vfio_region_sparse_mmap_area>(bytes);
        var result = ImmutableArray.CreateBuilder<SparseArea>();
        foreach (vfio_region_sparse_mmap_area area in areas[..(int)Math.Min(count, (uint)areas.Length)])
        {
            if (area.size > 0 && area.offset <= size && area.size <= size - area.offset)
                result.Add(new SparseArea(area.offset, area.size));
        }

        return result.ToImmutable();
    }
}
