using Godwit.Iommu.Intel.Spec;
using Godwit.Memory;

namespace Godwit.Iommu.Intel;

/// <summary>
/// The address space of one function: its root shows either the translated view (IOMMU region with the interrupt window in it) or system
/// memory itself, which all such devices share. Lives as long as the machine.
/// </summary>
internal sealed class IntelDevice
{
    private readonly MemoryTopology _topology;
    private readonly ContainerRegion _translated;
    private readonly AliasRegion _bypass;

    internal IntelDevice(MemoryTopology topology, IntelDmaRegion region)
    {
        _topology = topology;
        Region = region;
        var root = new ContainerRegion($"{region.Name}/root", MemoryRegion.MaxSize);
        _translated = new ContainerRegion($"{region.Name}/translated", MemoryRegion.MaxSize);
        _bypass = new AliasRegion($"{region.Name}/bypass", topology.SystemRoot, 0, MemoryRegion.MaxSize);
        var interrupts = new AliasRegion(
            $"{region.Name}/interrupts", topology.SystemRoot, InterruptRange.First, InterruptRange.Size);
        using TopologyTransaction transaction = topology.Begin();
        topology.Add(_translated, default, region);
        // Requests to the interrupt range are messages, never translated (VT-d 3.15).
        topology.Add(_translated, new BusAddress(InterruptRange.First), interrupts, priority: 1);
        topology.Add(root, default, _translated);
        topology.Add(root, default, _bypass);
        topology.SetEnabled(_translated, enabled: false);
        Space = topology.CreateAddressSpace(region.Name, root);
    }

    internal IntelDmaRegion Region { get; }

    internal AddressSpace Space { get; }

    internal bool IsTranslated => _translated.Enabled;

    /// <summary>Shows one side or the other, inside the caller's transaction. True when that changed.</summary>
    internal bool Switch(bool translated)
    {
        if (translated == IsTranslated)
            return false;
        _topology.SetEnabled(_bypass, !translated);
        _topology.SetEnabled(_translated, translated);
        return true;
    }
}
