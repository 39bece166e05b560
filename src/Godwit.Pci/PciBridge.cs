using Godwit.Pci.Spec;

namespace Godwit.Pci;

/// <summary>Kinds of PCI-PCI bridge, which differ in the bus below and in whose requester id its traffic bears.</summary>
public enum PciBridgeKind
{
    /// <summary>PCI Express on both sides; requester ids pass.</summary>
    RootPort,

    /// <summary>Conventional below; requests bear the secondary bus number with devfn 0.</summary>
    ExpressToPci,

    /// <summary>Conventional on both sides; requests bear the bridge's own id.</summary>
    Conventional,
}

/// <summary>
/// A PCI-PCI bridge: type 1 header, bus numbers, a secondary bus. Its memory windows are registers only: BARs below decode wherever they
/// are programmed.
/// </summary>
public class PciBridge : PciFunction
{
    // Ids that Red Hat registered for virtual machines: a generic root port and a generic PCI Express to PCI bridge, and a PCI bridge.
    private const ushort Vendor = 0x1B36;
    private const uint BridgeClass = 0x06_04_00; // PCI Code and ID Assignment 1.11, 1.7

    /// <summary>Creates a root port (PCI Express) or a PCIe-to-PCI bridge (conventional below).</summary>
    public PciBridge(string name, bool conventionalSecondary)
        : this(name, conventionalSecondary ? PciBridgeKind.ExpressToPci : PciBridgeKind.RootPort)
    {
    }

    /// <summary>Creates a bridge of that kind.</summary>
    public PciBridge(string name, PciBridgeKind kind) : base(name)
    {
        Kind = kind;
        Config.Define(ConfigOffset.HeaderType, 1, ConfigBits.HeaderTypeBridge);
        SetIdentity(Vendor, kind switch { PciBridgeKind.RootPort => 0x000C, PciBridgeKind.ExpressToPci => 0x000E, _ => 0x0001 }, BridgeClass);
        Config.Define(ConfigOffset.PrimaryBus, 1, 0, 0xFF);
        Config.Define(ConfigOffset.SecondaryBus, 1, 0, 0xFF);
        Config.Define(ConfigOffset.SubordinateBus, 1, 0, 0xFF);
        if (kind != PciBridgeKind.RootPort)
            Config.Define(ConfigOffset.SecondaryLatency, 1, 0, 0xF8);
        Config.Define(ConfigOffset.SecondaryStatus, 2, 0, 0, ConfigBits.StatusErrors);
        // No I/O window: base and limit read 0 (PCI Express 5.0, 7.5.1.3.6). Prefetchable bits 3:0 = 1: 64-bit (7.5.1.3.9).
        Config.Define(ConfigOffset.MemoryBase, 2, 0, 0xFFF0);
        Config.Define(ConfigOffset.MemoryLimit, 2, 0, 0xFFF0);
        Config.Define(ConfigOffset.PrefetchableBase, 2, 1, 0xFFF0);
        Config.Define(ConfigOffset.PrefetchableLimit, 2, 1, 0xFFF0);
        Config.Define(ConfigOffset.PrefetchableBaseUpper, 4, 0, uint.MaxValue);
        Config.Define(ConfigOffset.PrefetchableLimitUpper, 4, 0, uint.MaxValue);
        Config.Define(ConfigOffset.BridgeControl, 2, 0, ConfigBits.BridgeControlWritable);
        if (kind != PciBridgeKind.Conventional)
            AddExpressCapability(kind == PciBridgeKind.RootPort ? ExpressPortType.RootPort : ExpressPortType.ExpressToPciBridge);
        Secondary = new PciBus(this, express: kind == PciBridgeKind.RootPort);
    }

    /// <summary>Which kind it is.</summary>
    public PciBridgeKind Kind { get; }

    /// <summary>The bus below.</summary>
    public PciBus Secondary { get; }

    /// <summary>Secondary Bus Number as the guest has programmed it; 0 before.</summary>
    public byte SecondaryNumber => (byte)Config.Read(ConfigOffset.SecondaryBus, 1);

    /// <summary>Subordinate Bus Number as the guest has programmed it; 0 before.</summary>
    public byte SubordinateNumber => (byte)Config.Read(ConfigOffset.SubordinateBus, 1);

    private protected override int BarCount => 2;

    /// <inheritdoc/>
    public override void WriteConfig(int offset, uint value, int size)
    {
        bool before = InSecondaryReset;
        base.WriteConfig(offset, value, size);
        // Everything below is held in reset while the bit is set; the edge is enough (PCI Express 5.0, 7.5.1.3.13).
        if (!before && InSecondaryReset)
            ResetBelow();
        // Written, changed or not: of two writers at once either may be the last.
        if (offset <= ConfigOffset.SecondaryBus && offset + size > ConfigOffset.SecondaryBus)
            Secondary.NumberChanged();
    }

    /// <summary>Resets the bridge and everything below.</summary>
    public override void Reset()
    {
        base.Reset();
        ResetBelow();
        Secondary.NumberChanged();
    }

    /// <inheritdoc/>
    public override void LoadState(ReadOnlySpan<byte> state)
    {
        base.LoadState(state);
        Secondary.NumberChanged();
    }

    /// <inheritdoc/>
    internal override void CheckBus(PciBus bus)
    {
        base.CheckBus(bus);
        if (Kind == PciBridgeKind.Conventional == bus.IsExpress)
        {
            throw new ArgumentException(
                $"{Name} is a {Kind} bridge and cannot be on {bus}, which is {(bus.IsExpress ? "PCI Express" : "conventional")}", nameof(bus));
        }

        if (Kind == PciBridgeKind.RootPort && bus.ParentBridge is not null)
            throw new ArgumentException($"{Name} is a root port and belongs on a root bus, not on {bus}", nameof(bus));
    }

    /// <summary>What becomes of the requester id of a request that comes up through this bridge.</summary>
    internal void Alias(ref PciBus bus, ref DevFn devFn)
    {
        switch (Kind)
        {
            case PciBridgeKind.ExpressToPci:
                bus = Secondary;
                devFn = default;
                break;
            case PciBridgeKind.Conventional:
                bus = Bus;
                devFn = DevFn;
                break;
            default:
                break;
        }
    }

    private bool InSecondaryReset => (Config.Read(ConfigOffset.BridgeControl, 2) & ConfigBits.BridgeControlSecondaryReset) != 0;

    private void ResetBelow()
    {
        foreach (PciFunction function in Secondary.Functions)
            function.Reset();
    }
}
