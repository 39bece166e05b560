using System.Collections.Immutable;
using System.Runtime.InteropServices;
using Godwit.Interop.Linux;
using Godwit.VfioUser;

namespace Godwit.Vfio;

/// <summary>
/// Regions of a kernel device. All accesses go through pread(2) and pwrite(2), also where the device offers mmap: the kernel answers EIO
/// there while the device's memory is disabled, in reset or unplugged, and a store through a mapping would end this process with SIGBUS.
/// </summary>
internal sealed class KernelRegions(DeviceCalls device)
{
    /// <summary>A region's info with 64 sparse areas has 1 KiB; what wants more than this is not believed.</summary>
    private const int MaxInfoBytes = 1 << 16;

    private readonly (ulong Offset, ulong Size)?[] _places = new (ulong, ulong)?[PciRegion.Count];

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

        if ((uint)index < (uint)_places.Length)
            _places[index] = (info.offset, info.size);
        return new RegionInfo(
            index,
            info.size,
            (info.flags & vfio.VFIO_REGION_INFO_FLAG_READ) != 0,
            (info.flags & vfio.VFIO_REGION_INFO_FLAG_WRITE) != 0,
            info.offset,
            (info.flags & vfio.VFIO_REGION_INFO_FLAG_MMAP) != 0 ? Mappable(info, buffer) : [],
            null);
    }

    /// <summary>Reads all of <paramref name="destination"/>.</summary>
    public void Read(int index, ulong offset, Span<byte> destination)
    {
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
        if ((uint)index >= (uint)_places.Length)
            throw new DeviceRefusedException($"region {index}", Errno.EINVAL);
        if (_places[index] is not { } place)
        {
            GetInfo(index);
            place = _places[index]!.Value;
        }

        return offset <= place.Size && (ulong)length <= place.Size - offset
            ? place.Offset + offset
            : throw new DeviceRefusedException($"{length} bytes at 0x{offset:x} of region {index}, which has {place.Size}", Errno.EINVAL);
    }

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
