using Godwit.Pci.Spec;

namespace Godwit.Pci;

/// <summary>
/// A PCI bus: root bus, or secondary bus of a bridge. Plugging and <see cref="SetIommu"/> belong to the thread that builds the machine;
/// everything else may be called from any thread.
/// </summary>
public sealed class PciBus
{
    private readonly PciHostBridge? _host;
    private readonly byte _rootNumber;
    private readonly PciFunction?[] _functions = new PciFunction?[256];
    private PciFunction[] _list = [];
    private IPciIommu? _iommu;
    private volatile bool _iommuAsked;

    /// <summary>A root bus.</summary>
    internal PciBus(PciHostBridge host, byte number)
    {
        _host = host;
        _rootNumber = number;
        IsExpress = true;
    }

    /// <summary>The secondary bus of <paramref name="bridge"/>.</summary>
    internal PciBus(PciBridge bridge, bool express)
    {
        ParentBridge = bridge;
        IsExpress = express;
    }

    /// <summary>The bridge above, or null for a root bus.</summary>
    public PciBridge? ParentBridge { get; }

    /// <summary>
    /// The number now: fixed for a root bus (0 for the first), else the bridge's secondary bus number as the guest has programmed it, 0
    /// until it has. Not an identity: two buses may have the same number at a time.
    /// </summary>
    public byte Number => ParentBridge?.SecondaryNumber ?? _rootNumber;

    /// <summary>PCI Express (false: conventional, whose devices alias to the bridge's requester id).</summary>
    public bool IsExpress { get; }

    /// <summary>Functions on this bus by slot.</summary>
    public IReadOnlyCollection<PciFunction> Functions => Volatile.Read(ref _list);

    /// <summary>Marks a root bus whose devices skip the vIOMMU.</summary>
    public bool BypassIommu { get; init; }

    /// <summary>The root complex it belongs to. Throws <see cref="InvalidOperationException"/> while the bridge above is not plugged.</summary>
    internal PciHostBridge Host => _host ?? ParentBridge!.Bus.Host;

    /// <summary>Sets the IOMMU of this bus and everything below that has none of its own.</summary>
    /// <exception cref="InvalidOperationException">It has one, or a function asked for its address space before.</exception>
    public void SetIommu(IPciIommu iommu)
    {
        ArgumentNullException.ThrowIfNull(iommu);
        if (_iommu is not null)
            throw new InvalidOperationException($"{this} has an IOMMU already");
        if (_iommuAsked)
            throw new InvalidOperationException($"A function below {this} was given its address space before the IOMMU was set");
        _iommu = iommu;
    }

    /// <summary>Plugs <paramref name="function"/> into a slot.</summary>
    /// <exception cref="ArgumentException">The slot is taken, or such a function cannot be on such a bus.</exception>
    /// <exception cref="InvalidOperationException">The function is plugged already, or the bridge above is not yet.</exception>
    public void Attach(PciFunction function, DevFn devFn)
    {
        ArgumentNullException.ThrowIfNull(function);
        if (_functions[devFn.Value] is { } other)
            throw new ArgumentException($"Slot {devFn} of {this} is taken by {other.Name}", nameof(devFn));
        // A link has one device at its other end, number 0 (PCI Express 5.0, 7.3.1).
        if (ParentBridge is not null && IsExpress && devFn.Device != 0)
            throw new ArgumentException($"{function.Name}: a root port has only device 0 below it, not {devFn.Device}", nameof(devFn));
        function.CheckBus(this);
        function.Plug(this, devFn);
        _functions[devFn.Value] = function;
        Volatile.Write(ref _list, [.. _functions.OfType<PciFunction>()]);
        function.Plugged();
        MarkMultiFunction(devFn.Device);
    }

    /// <inheritdoc/>
    public override string ToString() => ParentBridge is null ? $"root bus {_rootNumber}" : $"the bus below {ParentBridge.Name}";

    /// <summary>Guests look for functions 1 to 7 only where function 0 says that there may be some (PCI Express 5.0, 7.5.1.1.9).</summary>
    private void MarkMultiFunction(int device)
    {
        if (_functions[new DevFn(device, 0).Value] is not { } first || !Enumerable.Range(1, 7).Any(number => _functions[new DevFn(device, number).Value] is not null))
            return;
        first.Config.Define(ConfigOffset.HeaderType, 1, first.Config.Read(ConfigOffset.HeaderType, 1) | ConfigBits.HeaderMultiFunction);
    }

    /// <summary>
    /// The input of the root complex for pin 0 (INTA#) to 3 of a device here: each bus, the root too, turns it by the device number (PCI-PCI Bridge 1.2,
    /// table 9-1; PCI Express 5.0, table 2-20).
    /// </summary>
    internal int RoutePin(DevFn devFn, int pin)
    {
        PciBus bus = this;
        while (true)
        {
            pin = (pin + devFn.Device) % PciHostBridge.InterruptInputs;
            if (bus.ParentBridge is not { } bridge)
                return pin;
            devFn = bridge.DevFn;
            bus = bridge.Bus;
        }
    }

    /// <summary>The function in a slot, or null.</summary>
    internal PciFunction? At(DevFn devFn) => Volatile.Read(ref _functions[devFn.Value]);

    /// <summary>The bus that a configuration request for <paramref name="number"/> reaches from here (PCI-PCI Bridge 1.2, 3.2.5).</summary>
    internal PciBus? Route(byte number)
    {
        if (Number == number)
            return this;
        foreach (PciFunction function in Functions)
        {
            if (function is PciBridge bridge && bridge.SecondaryNumber != 0 && number >= bridge.SecondaryNumber && number <= bridge.SubordinateNumber
                && bridge.Secondary.Route(number) is { } found)
                return found;
        }

        return null;
    }

    /// <summary>
    /// The IOMMU for a function at <paramref name="devFn"/> of this bus, and the pair it is known to it by: walking up, a conventional
    /// bus hides its devices behind the bridge (PCI Express to PCI/PCI-X Bridge 1.0, 2.3).
    /// </summary>
    internal (IPciIommu? Iommu, PciBus Bus, DevFn DevFn) FindIommu(DevFn devFn)
    {
        PciBus aliasBus = this;
        DevFn alias = devFn;
        IPciIommu? found = null;
        PciBus bus = this;
        while (true)
        {
            bus._iommuAsked = true;
            found ??= bus._iommu;
            if (bus.ParentBridge is not { } bridge)
                return (bus.BypassIommu ? null : found, aliasBus, alias);
            if (found is null)
                bridge.Alias(ref aliasBus, ref alias);
            bus = bridge.Bus;
        }
    }

    /// <summary>Tells the vIOMMU that knows pairs on this bus, the nearest one up from here, that they have other requester ids now.</summary>
    internal void NumberChanged()
    {
        IPciIommu? nearest = null;
        PciBus bus = this;
        while (true)
        {
            nearest ??= bus._iommu;
            if (bus.ParentBridge is not { } bridge)
                break;
            if (!bridge.IsPlugged)
                return; // nobody knows it yet
            bus = bridge.Bus;
        }

        if (!bus.BypassIommu)
            nearest?.BusNumberChanged(this);
    }

    /// <summary>The pair whose numbers are the requester id at the root.</summary>
    internal (PciBus Bus, DevFn DevFn) FindAlias(DevFn devFn)
    {
        PciBus aliasBus = this;
        DevFn alias = devFn;
        for (PciBus bus = this; bus.ParentBridge is { } bridge; bus = bridge.Bus)
            bridge.Alias(ref aliasBus, ref alias);
        return (aliasBus, alias);
    }
}
