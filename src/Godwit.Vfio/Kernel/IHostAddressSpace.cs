using System.Collections.Immutable;
using Godwit.Interop.Linux;
using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>Addresses that the host's IOMMU can translate, both ends included.</summary>
/// <param name="First">First byte.</param>
/// <param name="Last">Last byte.</param>
internal readonly record struct UsableIovas(Iova First, Iova Last);

/// <summary>
/// The address space of one device in the host, by type1 or iommufd. Closing it takes all mappings away; the device must have been closed
/// before, so that it no longer does DMA. Maps and unmaps by one caller at a time, the rest by any thread.
/// </summary>
internal interface IHostAddressSpace : IDisposable
{
    /// <summary>What it is, for messages.</summary>
    HostIommuKind Kind { get; }

    /// <summary>Most mappings that can exist at once.</summary>
    int MaxMappings { get; }

    /// <summary>What can be mapped, ascending; empty when the kernel does not tell (before Linux 5.4).</summary>
    ImmutableArray<UsableIovas> Usable { get; }

    /// <summary>Maps memory of this process.</summary>
    /// <param name="iova">Where.</param>
    /// <param name="address">First byte in this process, page aligned.</param>
    /// <param name="writable">Whether the device may write.</param>
    Errno Map(IovaPages iova, nuint address, bool writable);

    /// <summary>Takes away exactly one mapping; ENOENT when there was none. On success no DMA through it is in flight.</summary>
    Errno Unmap(IovaPages iova);

    /// <summary>Takes away all mappings.</summary>
    Errno UnmapAll();

    /// <summary>What its dirty bits are like; null without any.</summary>
    HostIommuTraits? DirtyTraits { get; }

    /// <summary>Sets dirty bits from now on, or no more.</summary>
    Errno SetDirtyTracking(bool on);

    /// <inheritdoc cref="IHostIommu.QueryDirty"/>
    Errno QueryDirty(IovaPages range, Span<ulong> bitmap);

    /// <inheritdoc cref="IHostIommu.UnmapWithDirty"/>
    Errno UnmapWithDirty(IovaPages mapping, Span<ulong> bitmap);
}
