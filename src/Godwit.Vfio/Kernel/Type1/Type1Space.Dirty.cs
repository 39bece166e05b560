using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.Vfio;

/// <content>
/// The dirty bitmap of a container (vfio.h, VFIO_IOMMU_DIRTY_PAGES and VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP). type1 asks no hardware: every page
/// that is pinned for a device behind an IOMMU is dirty at every query (drivers/vfio/vfio_iommu_type1.c, update_user_bitmap).
/// </content>
internal sealed unsafe partial class Type1Space
{
    /// <inheritdoc/>
    public HostIommuTraits? DirtyTraits => (Info.DirtyPageSizes & RamPageBytes) == 0 ? null : new HostIommuTraits
    {
        Shape = HostIommuShape.UnmapWithBitmap,
        PageBytes = RamPageBytes,
        MaxBitmapBits = Info.MaxDirtyBitmapBytes * 8,
        TracksWrites = false,
    };

    private const ulong RamPageBytes = Memory.RamPage.Size;

    /// <inheritdoc/>
    public Errno SetDirtyTracking(bool on)
    {
        var request = new vfio_iommu_type1_dirty_bitmap
        {
            argsz = (uint)Marshal.SizeOf<vfio_iommu_type1_dirty_bitmap>(),
            flags = on ? vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_START : vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP,
        };
        return _calls.Ioctl(Container, vfio.VFIO_IOMMU_DIRTY_PAGES, ref request);
    }

    /// <inheritdoc/>
    public Errno QueryDirty(IovaPages range, Span<ulong> bitmap)
    {
        int head = Marshal.SizeOf<vfio_iommu_type1_dirty_bitmap>();
        Span<byte> request = stackalloc byte[head + Marshal.SizeOf<vfio_iommu_type1_dirty_bitmap_get>()];
        MemoryMarshal.Write(request, new vfio_iommu_type1_dirty_bitmap { argsz = (uint)request.Length, flags = vfio.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP });
        // SAFETY: pinned for the call; Bitmap has checked that it is as long as what the kernel writes.
        fixed (ulong* pointer = bitmap)
        {
            MemoryMarshal.Write(
                request[head..], new vfio_iommu_type1_dirty_bitmap_get { iova = range.Iova.Value, size = range.Bytes, bitmap = Bitmap(range, bitmap.Length, pointer) });
            return _calls.Ioctl(Container, vfio.VFIO_IOMMU_DIRTY_PAGES, request, out _);
        }
    }

    /// <inheritdoc/>
    public Errno UnmapWithDirty(IovaPages mapping, Span<ulong> bitmap)
    {
        int head = Marshal.SizeOf<vfio_iommu_type1_dma_unmap>();
        Span<byte> request = stackalloc byte[head + Marshal.SizeOf<vfio_bitmap>()];
        MemoryMarshal.Write(request, new vfio_iommu_type1_dma_unmap
        {
            argsz = (uint)request.Length,
            flags = vfio.VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
            iova = mapping.Iova.Value,
            size = mapping.Bytes,
        });
        // SAFETY: as above.
        fixed (ulong* pointer = bitmap)
        {
            MemoryMarshal.Write(request[head..], Bitmap(mapping, bitmap.Length, pointer));
            Errno errno = _calls.Ioctl(Container, vfio.VFIO_IOMMU_UNMAP_DMA, request, out _);
            return errno == Errno.None && MemoryMarshal.Read<vfio_iommu_type1_dma_unmap>(request).size == 0 ? Errno.ENOENT : errno;
        }
    }

    private static vfio_bitmap Bitmap(IovaPages range, int words, ulong* pointer) => (range.Count + 63) / 64 <= (ulong)words
        ? new vfio_bitmap { pgsize = RamPageBytes, size = (range.Count + 63) / 64 * sizeof(ulong), data = (ulong)pointer }
        : throw new ArgumentException($"{range} has {range.Count} bits; the bitmap has room for {(long)words * 64}", nameof(words));
}
