using System.Runtime.InteropServices;
using Godwit.Interop.Linux;
using Godwit.Memory;

namespace Godwit.Vfio;

/// <content>
/// Dirty bits in the hardware's page table (iommufd.h, IOMMU_HWPT_SET_DIRTY_TRACKING and IOMMU_HWPT_GET_DIRTY_BITMAP): a query must be mapped
/// from end to end, and no unmap returns them.
/// </content>
internal sealed unsafe partial class IommufdSpace
{
    /// <inheritdoc/>
    public HostIommuTraits? DirtyTraits => _pageTable == 0 ? null : new HostIommuTraits { Shape = HostIommuShape.UnmapForgets, PageBytes = RamPage.Size };

    /// <inheritdoc/>
    public Errno SetDirtyTracking(bool on)
    {
        var request = new iommu_hwpt_set_dirty_tracking
        {
            size = (uint)Marshal.SizeOf<iommu_hwpt_set_dirty_tracking>(),
            flags = on ? iommufd.IOMMU_HWPT_DIRTY_TRACKING_ENABLE : 0,
            hwpt_id = _pageTable,
        };
        return _calls.Ioctl(File, iommufd.IOMMU_HWPT_SET_DIRTY_TRACKING, ref request);
    }

    /// <inheritdoc/>
    public Errno QueryDirty(IovaPages range, Span<ulong> bitmap)
    {
        if ((range.Count + 63) / 64 > (ulong)bitmap.Length)
            throw new ArgumentException($"{range} has {range.Count} bits; the bitmap has room for {(long)bitmap.Length * 64}", nameof(bitmap));
        // SAFETY: pinned for the call; checked to be as long as the kernel writes: one bit for each page of the range.
        fixed (ulong* pointer = bitmap)
        {
            var request = new iommu_hwpt_get_dirty_bitmap
            {
                size = (uint)Marshal.SizeOf<iommu_hwpt_get_dirty_bitmap>(),
                hwpt_id = _pageTable,
                iova = range.Iova.Value,
                length = range.Bytes,
                page_size = RamPage.Size,
                data = (ulong)pointer,
            };
            return _calls.Ioctl(File, iommufd.IOMMU_HWPT_GET_DIRTY_BITMAP, ref request);
        }
    }

    /// <inheritdoc/>
    public Errno UnmapWithDirty(IovaPages mapping, Span<ulong> bitmap) => Errno.ENOTSUP;
}
