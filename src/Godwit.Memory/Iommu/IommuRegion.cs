namespace Godwit.Memory;

/// <summary>A region whose accesses are translated. One per device and vIOMMU unit. An offset in the region is an IOVA.</summary>
public abstract class IommuRegion : MemoryRegion
{
    /// <inheritdoc cref="MemoryRegion(string, UInt128)"/>
    protected IommuRegion(string name, UInt128 size) : base(name, size)
    {
    }

    internal override string Kind => "iommu";

    /// <summary>The unit's properties, constant from creation.</summary>
    public abstract IommuAttributes Attributes { get; }

    /// <summary>Translates for an access that wants <paramref name="wanted"/>. Lock-free, allocation-free on a hit. Records the guest-visible fault itself.</summary>
    /// <remarks>
    /// Called inside the access guard: what it returns is used before <see cref="MemoryTopology.WaitForAccesses"/> returns elsewhere.
    /// Accesses that it makes itself (table walks, a fault interrupt) are part of the same guard unless they reach registers; then the
    /// whole access is translated again afterwards, so a success must not depend on being asked once.
    /// </remarks>
    public abstract IommuTranslation Translate(Iova iova, AccessRights wanted, in TransactionAttributes attributes);

    /// <summary>
    /// Registers a shadow user for <paramref name="range"/> and replays to it what is mapped now. Throws
    /// <see cref="NotSupportedException"/> when the model cannot announce mappings (VT-d without caching mode). Called by memory
    /// listeners with the topology's writer lock held, which comes before the unit's lock.
    /// </summary>
    public abstract void AddListener(IIommuListener listener, BusRange range);

    /// <summary>Removes it; no Unmapped events are sent.</summary>
    public abstract void RemoveListener(IIommuListener listener);
}
