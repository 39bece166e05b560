using Godwit.Memory;

namespace Godwit.Vfio.Tests;

/// <summary>
/// A place for a device: an address space that shows either an IOMMU region (split by an interrupt window) or system memory, as the guest
/// chooses for this device alone.
/// </summary>
internal sealed class ModelSlot
{
    private readonly MemoryTopology _topology;
    private readonly AliasRegion _passThrough;
    private readonly ContainerRegion _translated;

    public ModelSlot(MemoryTopology topology, ModelIommu iommu, IMmioHandler interrupts)
    {
        _topology = topology;
        Iommu = iommu;
        using TopologyTransaction transaction = topology.Begin();
        var root = new ContainerRegion("device", (UInt128)1 << 64);
        _translated = new ContainerRegion("translated", (UInt128)1 << 64);
        _passThrough = new AliasRegion("pass-through", topology.SystemRoot, 0, (UInt128)1 << 64);
        topology.Add(root, default, _translated);
        topology.Add(_translated, default, iommu);
        topology.Add(_translated, ModelBoard.At(ModelBoard.InterruptWindow), new MmioRegion("interrupts", 0x1000, interrupts), 1);
        topology.Add(root, default, _passThrough);
        topology.SetEnabled(_passThrough, false);
        Space = topology.CreateAddressSpace("device", root);
    }

    public ModelIommu Iommu { get; }

    public AddressSpace Space { get; }

    public bool IsPassThrough { get; private set; }

    /// <summary>The guest moves the device between a translated and a pass-through domain.</summary>
    public void SetPassThrough(bool passThrough)
    {
        if (IsPassThrough == passThrough)
            return;
        using TopologyTransaction transaction = _topology.Begin();
        _topology.SetEnabled(_translated, !passThrough);
        _topology.SetEnabled(_passThrough, passThrough);
        IsPassThrough = passThrough;
    }
}
