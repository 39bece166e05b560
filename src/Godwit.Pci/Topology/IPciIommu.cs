using Godwit.Memory;

namespace Godwit.Pci;

/// <summary>
/// What a vIOMMU does for the buses below a root (the per-bus IOMMU operations). Keyed by bus object and devfn, because bus numbers are
/// the guest's to change. A function behind a conventional bridge is asked for under its alias, so all that share a requester id share
/// one space.
/// </summary>
public interface IPciIommu
{
    /// <summary>The address space that (bus, devfn) does DMA in. Same object for the life of the machine; its content changes. Any thread.</summary>
    AddressSpace GetAddressSpace(PciBus bus, DevFn devFn);

    /// <summary>Properties of the vIOMMU for that function, right before the guest has mapped anything. Any thread.</summary>
    IommuAttributes GetAttributes(PciBus bus, DevFn devFn);

    /// <summary>
    /// The number of <paramref name="bus"/> may be another one now, and with it the requester ids of the pairs on it: what was found out for the old
    /// ones no longer counts. After the change, and without locks, on the thread that made it; not for buses that bypass the vIOMMU. One that
    /// keeps nothing by requester id has nothing to do.
    /// </summary>
    void BusNumberChanged(PciBus bus)
    {
    }
}
