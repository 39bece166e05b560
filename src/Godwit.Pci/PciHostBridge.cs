using Godwit.Memory;

namespace Godwit.Pci;

/// <summary>
/// The root complex: root buses, the ECAM window (PCI Express 5.0, 7.2.2) and the space where BARs appear. BARs lie below everything else
/// in system memory, so a guest cannot lay one over its RAM or the board's registers. Function 00:00.0 is the host bridge itself.
/// </summary>
public sealed partial class PciHostBridge
{
    /// <summary>log2 of the ECAM bytes of one bus (PCI Express 5.0, 7.2.2).</summary>
    private const int BusShift = 20;

    private readonly List<PciBus> _roots = [];

    /// <summary>Creates the root complex with <paramref name="ecamBuses"/> x 1 MiB of ECAM at <paramref name="ecamBase"/>.</summary>
    /// <param name="topology">Where the windows appear.</param>
    /// <param name="ecamBase">A multiple of the window rounded up to a power of two.</param>
    /// <param name="ecamBuses">1 to 256.</param>
    /// <param name="bypassIommu">Whether the devices below the first root bus skip the vIOMMU.</param>
    /// <exception cref="ArgumentOutOfRangeException">A number outside its range.</exception>
    public PciHostBridge(MemoryTopology topology, Gpa ecamBase, int ecamBuses, bool bypassIommu = false)
    {
        ArgumentNullException.ThrowIfNull(topology);
        if (ecamBuses is < 1 or > 256)
            throw new ArgumentOutOfRangeException(nameof(ecamBuses), ecamBuses, "ECAM has 1 to 256 buses");
        ulong aligned = System.Numerics.BitOperations.RoundUpToPowerOf2((ulong)ecamBuses << BusShift);
        if (ecamBase.Value % aligned != 0)
            throw new ArgumentOutOfRangeException(nameof(ecamBase), ecamBase, $"ECAM of {ecamBuses} buses lies at a multiple of 0x{aligned:x}");
        Topology = topology;
        EcamBase = ecamBase;
        Memory = new ContainerRegion("pci memory", MemoryRegion.MaxSize);
        var ecam = new MmioRegion("pci ecam", (ulong)ecamBuses << BusShift, new EcamWindow(this), new MmioAccessRules(1, 4, false));
        using TopologyTransaction transaction = topology.Begin();
        topology.Add(topology.SystemRoot, default, Memory, BarPriority);
        topology.Add(topology.SystemRoot, BusAddress.FromGpa(ecamBase), ecam);
        RootBus = AddRootBus(0, bypassIommu);
        RootBus.Attach(new HostBridgeFunction(), default);
    }

    /// <summary>Bus 0.</summary>
    public PciBus RootBus { get; }

    /// <summary>All root buses.</summary>
    public IReadOnlyList<PciBus> RootBuses => _roots;

    /// <summary>First byte of ECAM.</summary>
    public Gpa EcamBase { get; }

    /// <summary>BARs are hidden by whatever else the board places, which has priority 0 or more.</summary>
    private const int BarPriority = -1;

    internal MemoryTopology Topology { get; }

    /// <summary>Where BARs are placed by address.</summary>
    internal ContainerRegion Memory { get; }

    /// <summary>Adds a further root bus with a fixed number, for devices that are to differ in <see cref="PciBus.BypassIommu"/>.</summary>
    /// <exception cref="ArgumentException">Another root bus has that number.</exception>
    public PciBus AddRootBus(byte number, bool bypassIommu)
    {
        if (_roots.Exists(bus => bus.Number == number))
            throw new ArgumentException($"There is a root bus {number} already", nameof(number));
        var result = new PciBus(this, number) { BypassIommu = bypassIommu };
        _roots.Add(result);
        return result;
    }

    /// <summary>Every function below, depth first, a bridge before what is behind it.</summary>
    public IEnumerable<PciFunction> AllFunctions() => _roots.SelectMany(Below);

    /// <summary>The buses and functions as they are now, for <c>query-pci</c> and the migration description.</summary>
    public IReadOnlyList<PciBusInfo> Describe() => [.. _roots.Select(root => PciBusInfo.Of(root, $"{root.Number:x2}"))];

    /// <summary>The function that answers a configuration request for that id now, or null.</summary>
    public PciFunction? Find(RequesterId id)
    {
        foreach (PciBus root in _roots)
        {
            if (root.Route(id.Bus) is { } bus)
                return bus.At(id.DevFn);
        }

        return null;
    }

    /// <summary>
    /// Whether requests with that id come from below a root bus that bypasses the vIOMMU: bus numbers belong to the root bus with the
    /// nearest number that is not above. Any thread; allocates nothing.
    /// </summary>
    public bool BypassesIommu(RequesterId id)
    {
        PciBus? nearest = null;
        foreach (PciBus root in _roots)
        {
            if (root.Number <= id.Bus && (nearest is null || root.Number > nearest.Number))
                nearest = root;
        }

        return nearest is { BypassIommu: true };
    }

    private static IEnumerable<PciFunction> Below(PciBus bus)
    {
        foreach (PciFunction function in bus.Functions)
        {
            yield return function;
            if (function is not PciBridge bridge)
                continue;
            foreach (PciFunction below in Below(bridge.Secondary))
                yield return below;
        }
    }

    /// <summary>Configuration space as memory: bus 27:20, devfn 19:12, register 11:0 (PCI Express 5.0, 7.2.2, table 7-1).</summary>
    private sealed class EcamWindow(PciHostBridge host) : IMmioHandler
    {
        public ulong Read(ulong offset, int size, in TransactionAttributes attributes) =>
            Target(offset, attributes)?.ReadConfig((int)(offset & 0xFFF), size) ?? ulong.MaxValue;

        public void Write(ulong offset, ulong value, int size, in TransactionAttributes attributes) =>
            Target(offset, attributes)?.WriteConfig((int)(offset & 0xFFF), (uint)value, size);

        // Configuration requests come from the processor side only; a root complex does not turn a device's DMA into them (1.3.1).
        private PciFunction? Target(ulong offset, in TransactionAttributes attributes) =>
            attributes.RequesterId is null ? host.Find(new RequesterId((ushort)(offset >> 12))) : null;
    }

    /// <summary>Function 00:00.0, as Intel's Q35 chipset shows itself.</summary>
    private sealed class HostBridgeFunction : PciFunction
    {
        internal HostBridgeFunction() : base("host-bridge") => SetIdentity(0x8086, 0x29C0, 0x06_00_00);
    }
}
