using Godwit.Memory;
using Godwit.Pci;

namespace Godwit.Vfio.Tests;

/// <summary>The vIOMMU of a <see cref="ModelBoard"/> in front of a PCI bus.</summary>
internal sealed class BoardIommu(ModelBoard board) : IPciIommu
{
    public AddressSpace GetAddressSpace(PciBus bus, DevFn devFn) => board.DeviceSpace;

    public IommuAttributes GetAttributes(PciBus bus, DevFn devFn) => board.Iommu.Attributes;
}
