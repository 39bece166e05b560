using System.Collections.Immutable;
using System.Runtime.InteropServices;
using Godwit.Interop.Linux;
using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>VFIO_IOMMU_GET_INFO of a type1 container, with its capabilities (vfio.h, vfio_iommu_type1_info).</summary>
/// <param name="PageSizes">Bit n: pages of 2^n bytes can be mapped.</param>
/// <param name="Usable">What can be mapped; empty when the kernel does not tell.</param>
/// <param name="MappingsAvailable">Mappings that can still be made; null when the kernel does not tell (before Linux 5.10).</param>
/// <param name="DirtyPageSizes">Bit n: the dirty bitmap can have pages of 2^n bytes; 0 without one (before Linux 5.8).</param>
/// <param name="MaxDirtyBitmapBytes">Longest dirty bitmap of one call.</param>
internal sealed record Type1Info(ulong PageSizes, ImmutableArray<UsableIovas> Usable, int? MappingsAvailable, ulong DirtyPageSizes, ulong MaxDirtyBitmapBytes)
{
    /// <summary>The kernel's info is some hundred bytes; one that wants more than this is not believed.</summary>
    private const int MaxBytes = 1 << 16;

    /// <summary>Asks for it.</summary>
    public static Errno Read(IKernelCalls calls, FileDescriptor container, out Type1Info? info)
    {
        info = null;
        byte[] buffer = new byte[Marshal.SizeOf<vfio_iommu_type1_info>()];
        while (true)
        {
            var head = new vfio_iommu_type1_info { argsz = (uint)buffer.Length };
            MemoryMarshal.Write(buffer, head);
            Errno errno = calls.Ioctl(container, vfio.VFIO_IOMMU_GET_INFO, buffer, out _);
            if (errno != Errno.None)
                return errno;
            head = MemoryMarshal.Read<vfio_iommu_type1_info>(buffer);
            if (head.argsz > buffer.Length && head.argsz <= MaxBytes)
            {
                buffer = new byte[head.argsz];
                continue;
            }

            info = Parse(head, buffer);
            return Errno.None;
        }
    }

    private static Type1Info Parse(vfio_iommu_type1_info head, ReadOnlySpan<byte> bytes)
    {
        ulong pages = (head.flags & vfio.VFIO_IOMMU_INFO_PGSIZES) != 0 ? head.iova_pgsizes : 4096;
        ImmutableArray<UsableIovas> usable = [];
        int? available = null;
        ulong dirtyPages = 0, dirtyBytes = 0;
        if ((head.flags & vfio.VFIO_IOMMU_INFO_CAPS) != 0)
        {
            foreach (InfoCapability capability in new InfoCapabilities(bytes, head.cap_offset))
            {
                switch (capability.Id)
                {
                    case vfio.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE when capability.TryRead(out vfio_iommu_type1_info_cap_iova_range ranges):
                        usable = Ranges(capability.Body<vfio_iommu_type1_info_cap_iova_range>(), ranges.nr_iovas);
                        break;
                    case vfio.VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION when capability.TryRead(out vfio_iommu_type1_info_cap_migration migration):
                        (dirtyPages, dirtyBytes) = (migration.pgsize_bitmap, migration.max_dirty_bitmap_size);
                        break;
                    case vfio.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL when capability.TryRead(out vfio_iommu_type1_info_dma_avail avail):
                        available = (int)Math.Min(avail.avail, int.MaxValue);
                        break;
                    default:
                        break;
                }
            }
        }

        return new Type1Info(pages, usable, available, dirtyPages, dirtyBytes);
    }

    private static ImmutableArray<UsableIovas> Ranges(ReadOnlySpan<byte> bytes, uint count)
    {
        ReadOnlySpan<vfio_iova_range> ranges = MemoryMarshal.Cast<byte, vfio_iova_range>(bytes);
        var result = ImmutableArray.CreateBuilder<UsableIovas>();
        foreach (vfio_iova_range range in ranges[..(int)Math.Min(count, (uint)ranges.Length)])
            result.Add(new UsableIovas(new Iova(range.start), new Iova(range.end)));
        return result.ToImmutable();
    }
}
