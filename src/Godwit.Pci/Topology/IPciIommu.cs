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
}
