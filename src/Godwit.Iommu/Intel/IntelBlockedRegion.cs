using Godwit.Memory;

namespace Godwit.Iommu.Intel;

/// <summary>
/// What a function sees that the unit lets nothing do: accesses are asked of its other region, which records their faults and, without
/// caching mode, finds out that they are not blocked any more. Nothing is ever mapped here, so there is nothing to announce.
/// </summary>
internal sealed class IntelBlockedRegion(IntelDmaRegion translated) : IommuRegion($"{translated.Name}/nothing", MaxSize)
{
    /// <inheritdoc/>
    public override IommuAttributes Attributes => translated.Attributes;

    /// <inheritdoc/>
    public override IommuTranslation Translate(Iova iova, AccessRights wanted, in TransactionAttributes attributes) =>
        translated.Translate(iova, wanted, attributes);

    /// <inheritdoc/>
    public override void AddListener(IIommuListener listener, BusRange range) => translated.RequireCachingMode();

    /// <inheritdoc/>
    public override void RemoveListener(IIommuListener listener)
    {
        // None was kept.
    }
}
