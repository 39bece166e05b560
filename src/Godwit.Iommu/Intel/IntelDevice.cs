using Godwit.Iommu.Intel.Spec;
using Godwit.Memory;

namespace Godwit.Iommu.Intel;

/// <summary>What the space of a function shows.</summary>
internal enum DmaView
{
    /// <summary>System memory itself.</summary>
    Bypass,

    /// <summary>The IOMMU region, with the interrupt window in it.</summary>
    Translated,

    /// <summary>Likewise a region through which nothing passes.</summary>
    Blocked,
}

/// <summary>
/// The address space of one function: its root shows one of three views. System memory is shared by all devices that see it. That blocked
/// devices have a view of their own makes blocking one memory transaction, like any other switch, whatever was mapped. Lives as long as the
/// machine.
/// </summary>
internal sealed class IntelDevice
{
    private readonly MemoryTopology _topology;
    private readonly MemoryRegion[] _views;

    internal IntelDevice(MemoryTopology topology, IntelDmaRegion region)
    {
        _topology = topology;
        Region = region;
        var root = new ContainerRegion($"{region.Name}/root", MemoryRegion.MaxSize);
        using TopologyTransaction transaction = topology.Begin();
        _views =
        [
            new AliasRegion($"{region.Name}/bypass", topology.SystemRoot, 0, MemoryRegion.MaxSize),
            WithInterrupts($"{region.Name}/translated", region),
            WithInterrupts($"{region.Name}/blocked", new IntelBlockedRegion(region)),
        ];
        foreach (MemoryRegion view in _views)
        {
            topology.Add(root, default, view);
            topology.SetEnabled(view, enabled: view == _views[(int)DmaView.Bypass]);
        }

        Space = topology.CreateAddressSpace(region.Name, root);
    }

    internal IntelDmaRegion Region { get; }

    internal AddressSpace Space { get; }

    internal DmaView View { get; private set; }

    /// <summary>Its context is that of another requester id than its announcements are. Under the command lock.</summary>
    internal bool IsRenumbered { get; set; }

    /// <summary>Shows <paramref name="view"/>, inside the caller's transaction.</summary>
    internal void Switch(DmaView view)
    {
        if (view == View)
            return;
        _topology.SetEnabled(_views[(int)View], enabled: false);
        _topology.SetEnabled(_views[(int)view], enabled: true);
        View = view;
    }

    // Requests to the interrupt range are messages, never translated (VT-d 3.15).
    private ContainerRegion WithInterrupts(string name, IommuRegion region)
    {
        var view = new ContainerRegion(name, MemoryRegion.MaxSize);
        var interrupts = new AliasRegion($"{name}/interrupts", _topology.SystemRoot, InterruptRange.First, InterruptRange.Size);
        _topology.Add(view, default, region);
        _topology.Add(view, new BusAddress(InterruptRange.First), interrupts, priority: 1);
        return view;
    }
}
