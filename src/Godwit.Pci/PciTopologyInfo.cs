using Godwit.Memory;
using Godwit.Pci.Spec;

namespace Godwit.Pci;

/// <summary>A bus as the guest has set it up, for <c>query-pci</c>.</summary>
/// <param name="Number">Bus number now.</param>
/// <param name="Functions">Functions by slot.</param>
public sealed record PciBusInfo(byte Number, IReadOnlyList<PciFunctionInfo> Functions)
{
    internal static PciBusInfo Of(PciBus bus, string path) => new(bus.Number, [.. bus.Functions.Select(function => PciFunctionInfo.Of(function, path))]);
}

/// <summary>A function as the guest has set it up.</summary>
/// <param name="Path">Where it is plugged, whatever the bus numbers: root bus number, then the slot at each level, for example <c>00/03.0/00.0</c>.</param>
/// <param name="Name">Id in the machine.</param>
/// <param name="Bus">Bus number now.</param>
/// <param name="Slot">Device and function number.</param>
/// <param name="VendorId">Vendor.</param>
/// <param name="DeviceId">Device.</param>
/// <param name="SubsystemVendorId">Subsystem vendor; 0 for a bridge.</param>
/// <param name="SubsystemId">Subsystem; 0 for a bridge.</param>
/// <param name="ClassCode">Base class, sub-class and interface from the high byte down.</param>
/// <param name="InterruptPin">1 to 4 for INTA to INTD, or 0.</param>
/// <param name="MsixVectors">MSI-X vectors, or 0.</param>
/// <param name="Bars">Base address registers.</param>
/// <param name="Bridge">What is below, or null for an endpoint.</param>
public sealed record PciFunctionInfo(
    string Path, string Name, byte Bus, DevFn Slot, ushort VendorId, ushort DeviceId, ushort SubsystemVendorId, ushort SubsystemId,
    uint ClassCode, byte InterruptPin, int MsixVectors, IReadOnlyList<PciBarInfo> Bars, PciBridgeInfo? Bridge)
{
    internal static PciFunctionInfo Of(PciFunction function, string busPath)
    {
        ConfigSpace config = function.Config;
        string path = $"{busPath}/{function.DevFn}";
        var bridge = function as PciBridge;
        return new PciFunctionInfo(
            path,
            function.Name,
            function.Bus.Number,
            function.DevFn,
            (ushort)config.Read(ConfigOffset.VendorId, 2),
            (ushort)config.Read(ConfigOffset.DeviceId, 2),
            bridge is null ? (ushort)config.Read(ConfigOffset.SubsystemVendorId, 2) : (ushort)0,
            bridge is null ? (ushort)config.Read(ConfigOffset.SubsystemId, 2) : (ushort)0,
            config.Read(ConfigOffset.RevisionId, 4) >> 8,
            (byte)config.Read(ConfigOffset.InterruptPin, 1),
            function.Msix?.Vectors ?? 0,
            [.. function.DescribeBars()],
            bridge is null ? null : PciBridgeInfo.Of(bridge, path));
    }
}

/// <summary>A base address register.</summary>
/// <param name="Index">0 to 5.</param>
/// <param name="Kind">Width.</param>
/// <param name="Prefetchable">Prefetchable bit.</param>
/// <param name="Size">Bytes.</param>
/// <param name="Address">Where it decodes now, or null.</param>
public sealed record PciBarInfo(int Index, BarKind Kind, bool Prefetchable, ulong Size, Gpa? Address);

/// <summary>The bridge part of a function: windows as programmed (null while base is above limit) and the bus below.</summary>
/// <param name="Primary">Bus number above.</param>
/// <param name="Secondary">Bus number below.</param>
/// <param name="Subordinate">Highest bus number below.</param>
/// <param name="Memory">Memory window.</param>
/// <param name="Prefetchable">Prefetchable memory window.</param>
/// <param name="Below">The secondary bus.</param>
public sealed record PciBridgeInfo(byte Primary, byte Secondary, byte Subordinate, BusRange? Memory, BusRange? Prefetchable, PciBusInfo Below)
{
    internal static PciBridgeInfo Of(PciBridge bridge, string path)
    {
        ConfigSpace config = bridge.Config;
        return new PciBridgeInfo(
            (byte)config.Read(ConfigOffset.PrimaryBus, 1),
            bridge.SecondaryNumber,
            bridge.SubordinateNumber,
            Window(config, ConfigOffset.MemoryBase, ConfigOffset.MemoryLimit, 0, 0),
            Window(config, ConfigOffset.PrefetchableBase, ConfigOffset.PrefetchableLimit,
                config.Read(ConfigOffset.PrefetchableBaseUpper, 4), config.Read(ConfigOffset.PrefetchableLimitUpper, 4)),
            PciBusInfo.Of(bridge.Secondary, path));
    }

    // Address bits 31:20 are in bits 15:4; a window is whole MiB (PCI Express 5.0, 7.5.1.3.8).
    private static BusRange? Window(ConfigSpace config, int baseRegister, int limitRegister, uint baseUpper, uint limitUpper)
    {
        ulong first = ((ulong)baseUpper << 32) | ((config.Read(baseRegister, 2) & 0xFFF0) << 16);
        ulong last = ((ulong)limitUpper << 32) | ((config.Read(limitRegister, 2) & 0xFFF0) << 16) | 0xF_FFFF;
        return first <= last ? new BusRange(new BusAddress(first), new BusAddress(last)) : null;
    }
}
