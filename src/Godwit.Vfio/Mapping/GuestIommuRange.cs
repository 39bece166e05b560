using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>
/// The shadow user of one range of an IOMMU region. One object per range, because the interrupt window splits a region and each part
/// comes and goes by itself (flat views are compared range by range).
/// </summary>
internal sealed class GuestIommuRange(DmaShadow shadow, IommuRegion region, BusRange inSpace, ulong offsetInRegion) : IIommuListener
{
    /// <summary>Where it appears in the device's space.</summary>
    public BusRange InSpace { get; } = inSpace;

    /// <summary>The same range within the region.</summary>
    public BusRange InRegion { get; } = BusRange.Of(new BusAddress(offsetInRegion), inSpace.Length);

    /// <summary>Registers and takes the replay.</summary>
    public void Register() => region.AddListener(this, InRegion);

    /// <summary>Unregisters; no event comes afterwards.</summary>
    public void Unregister() => region.RemoveListener(this);

    /// <inheritdoc/>
    public void Mapped(Iova iova, ulong length, Gpa target, AccessRights rights) => shadow.GuestMapped(ToSpace(iova), length, target, rights);

    /// <inheritdoc/>
    public void Unmapped(Iova iova, ulong length) => shadow.GuestUnmapped(ToSpace(iova), length);

    /// <inheritdoc/>
    public void BatchEnd() => shadow.Commit();

    private Iova ToSpace(Iova iova) => new(unchecked(iova.Value - InRegion.First.Value + InSpace.First.Value));
}
