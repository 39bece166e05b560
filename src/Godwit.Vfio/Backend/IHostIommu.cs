namespace Godwit.Vfio;

/// <summary>
/// The dirty bits of the host's IOMMU for one device's mappings: type1's (linux/vfio.h, VFIO_IOMMU_DIRTY_PAGES) or iommufd's
/// (linux/iommufd.h, IOMMU_HWPT_SET_DIRTY_TRACKING and IOMMU_HWPT_GET_DIRTY_BITMAP). All members are called under one gate, together with
/// those of the <see cref="IDmaMapper"/> of the same device, and take effect in order with what has been queued there.
/// </summary>
internal interface IHostIommu
{
    /// <summary>What it is like; never changes.</summary>
    HostIommuTraits Traits { get; }

    /// <summary>Sets dirty bits from now on; all are clear. Throws <see cref="DeviceRefusedException"/> when the kernel refuses.</summary>
    void StartDirtyTracking();

    /// <summary>Sets none any more, and forgets those that are set.</summary>
    void StopDirtyTracking();

    /// <summary>
    /// ORs the dirty bits of <paramref name="range"/> into <paramref name="bitmap"/>, bit 0 being its first page of
    /// <see cref="HostIommuTraits.PageBytes"/>, and clears them.
    /// </summary>
    /// <param name="range">
    /// Begins and ends with a mapping. For <see cref="HostIommuShape.UnmapForgets"/> there is no hole in it.
    /// </param>
    /// <param name="bitmap">Clear, and long enough.</param>
    /// <exception cref="DeviceRefusedException">The kernel refuses; nothing is known of the range.</exception>
    void QueryDirty(IovaPages range, Span<ulong> bitmap);

    /// <summary>
    /// <see cref="IDmaMapper.QueueUnmap"/> that ORs the dirty bits of the mapping into <paramref name="bitmap"/>: for
    /// <see cref="HostIommuShape.UnmapWithBitmap"/> only. It is one of the queued operations, and its refusal is told by
    /// <see cref="IDmaMapper.Flush"/>, but it has taken effect and the bitmap is whole when this returns.
    /// </summary>
    void UnmapWithDirty(IovaPages mapping, Span<ulong> bitmap);
}

/// <summary>How the bits of a mapping are had when it goes, for they go with it.</summary>
internal enum HostIommuShape
{
    /// <summary>The unmap returns them (VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP). A query must not cut a mapping, and may span holes.</summary>
    UnmapWithBitmap,

    /// <summary>
    /// No unmap returns them (iommufd), and what is read before it is not all: a device may write until the unmap is over. A query must not span a hole.
    /// </summary>
    UnmapForgets,
}

/// <summary>What a host IOMMU's dirty bits are like.</summary>
internal sealed record HostIommuTraits
{
    /// <summary>How bits are had at an unmap.</summary>
    public required HostIommuShape Shape { get; init; }

    /// <summary>Bytes of a bit; a power of two. type1 answers by its smallest page only (linux/vfio.h, vfio_iommu_type1_dirty_bitmap_get).</summary>
    public ulong PageBytes { get; init; } = 4096;

    /// <summary>
    /// Bits of one query or unmap at most. type1: 2^31 - 1, which is 8 TiB by 4 KiB (Linux drivers/vfio/vfio_iommu_type1.c,
    /// DIRTY_BITMAP_PAGES_MAX); iommufd has no such limit.
    /// </summary>
    public ulong MaxBitmapBits { get; init; } = ulong.MaxValue;

    /// <summary>
    /// Whether the hardware sets bits. type1 without such hardware says of every pinned page that it is dirty: right, and of no use to a
    /// migration that shall converge by it.
    /// </summary>
    public bool TracksWrites { get; init; } = true;
}
