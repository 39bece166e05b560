using Godwit.Memory;

namespace Godwit.Pci;

/// <summary>A device number and function number: devfn = device &lt;&lt; 3 | function (PCI Express 5.0, 2.2.6.2).</summary>
public readonly record struct DevFn(byte Value)
{
    /// <summary>From device 0-31 and function 0-7.</summary>
    public DevFn(int device, int function) : this((byte)((device << 3) | function)) { }

    /// <summary>0-31.</summary>
    public int Device => Value >> 3;

    /// <summary>0-7.</summary>
    public int Function => Value & 7;

    /// <inheritdoc/>
    public override string ToString() => $"{Device:x2}.{Function}";
}

/// <summary>Bus, device and function as seen by an IOMMU: bus &lt;&lt; 8 | devfn (VT-d 3.4.1 source-id).</summary>
public readonly record struct RequesterId(ushort Value)
{
    /// <summary>Composed from a bus number that is right now.</summary>
    public RequesterId(byte bus, DevFn devFn) : this((ushort)((bus << 8) | devFn.Value)) { }

    /// <summary>Bus number.</summary>
    public byte Bus => (byte)(Value >> 8);

    /// <summary>Device and function.</summary>
    public DevFn DevFn => new((byte)Value);

    /// <inheritdoc/>
    public override string ToString() => $"{Bus:x2}:{DevFn}";
}

/// <summary>
/// What a vIOMMU does for the buses below a root (the per-bus IOMMU operations). Keyed by bus object and devfn, because bus numbers are
/// the guest's to change.
/// </summary>
public interface IPciIommu
{
    /// <summary>The address space that (bus, devfn) does DMA in. Same object for the life of the machine; its content changes.</summary>
    AddressSpace GetAddressSpace(PciBus bus, DevFn devFn);

    /// <summary>Properties of the vIOMMU for that function, right before the guest has mapped anything.</summary>
    IommuAttributes GetAttributes(PciBus bus, DevFn devFn);
}

/// <summary>A PCI bus: root bus, or secondary bus of a bridge.</summary>
public sealed class PciBus
{
    internal PciBus() { }

    /// <summary>The bridge above, or null for a root bus.</summary>
    public PciBridge? ParentBridge => throw new NotImplementedException();

    /// <summary>The number now: 0 for the first root bus, else the bridge's secondary bus number as the guest has programmed it.</summary>
    public byte Number => throw new NotImplementedException();

    /// <summary>PCI Express (false: conventional, whose devices alias to the bridge's requester id).</summary>
    public bool IsExpress => throw new NotImplementedException();

    /// <summary>Functions on this bus.</summary>
    public IReadOnlyCollection<PciFunction> Functions => throw new NotImplementedException();

    /// <summary>Sets the IOMMU of this bus and everything below that has none of its own. Before any device asks.</summary>
    public void SetIommu(IPciIommu iommu) => throw new NotImplementedException();

    /// <summary>Marks a root bus whose devices skip the vIOMMU.</summary>
    public bool BypassIommu { get; init; }

    /// <summary>Plugs <paramref name="function"/>; throws <see cref="ArgumentException"/> when the slot is taken.</summary>
    public void Attach(PciFunction function, DevFn devFn) => throw new NotImplementedException();
}
