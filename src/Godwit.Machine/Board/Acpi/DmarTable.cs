using Godwit.Iommu.Intel;
using Godwit.Memory;
using Godwit.Pci;

namespace Godwit.Machine.Acpi;

/// <summary>Flags of the DMAR table (VT-d 8.1).</summary>
[Flags]
internal enum DmarFlags : byte
{
    None = 0,

    /// <summary>INTR_REMAP: the platform remaps interrupts.</summary>
    InterruptRemapping = 1 << 0,

    /// <summary>X2APIC_OPT_OUT: do not use x2APIC mode; the remapping has no destinations of 32 bits.</summary>
    X2ApicOptOut = 1 << 1,

    /// <summary>DMA_CTRL_PLATFORM_OPT_IN: devices can be trusted to be under the unit from the start; switch translation on.</summary>
    DmaOptIn = 1 << 2,
}

/// <summary>Kinds of device scope (VT-d 8.3.1).</summary>
internal enum ScopeType : byte
{
    Endpoint = 1,

    /// <summary>A bridge with all that is below.</summary>
    SubHierarchy = 2,
    IoApic = 3,
}

/// <summary>A device scope: a device by the way to it from a root bus (VT-d 8.3.1), because numbers of buses below are the guest's to change.</summary>
/// <param name="Type">What is there.</param>
/// <param name="EnumerationId">Id of an I/O APIC in the MADT; else 0.</param>
/// <param name="StartBus">Number of the root bus.</param>
/// <param name="Path">Device and function of each bridge on the way and of the device itself.</param>
internal sealed record DeviceScope(ScopeType Type, byte EnumerationId, byte StartBus, IReadOnlyList<DevFn> Path)
{
    private const int HeaderSize = 6;

    /// <summary>The I/O APIC, by the id that its messages bear.</summary>
    public static DeviceScope OfIoApic { get; } = new(
        ScopeType.IoApic, IoApic.Id, new RequesterId(IoApic.RequesterId).Bus, [new RequesterId(IoApic.RequesterId).DevFn]);

    public int Size => HeaderSize + (2 * Path.Count);

    /// <summary>
    /// The scopes of everything that has <paramref name="host"/>'s vIOMMU in front of it: functions, and bridges for all below them. Bridges
    /// without one are looked below.
    /// </summary>
    public static IReadOnlyList<DeviceScope> Under(PciHostBridge host) => [.. host.RootBuses.SelectMany(bus => Under(bus, bus.Number, []))];

    public void AppendTo(AcpiTable table)
    {
        table.Number((byte)Type, 1).Number((ulong)Size, 1).Reserved(2).Number(EnumerationId, 1).Number(StartBus, 1);
        foreach (DevFn step in Path)
            table.Number((ulong)step.Device, 1).Number((ulong)step.Function, 1);
    }

    private static IEnumerable<DeviceScope> Under(PciBus bus, byte root, DevFn[] above)
    {
        foreach (PciFunction function in bus.Functions)
        {
            DevFn[] path = [.. above, function.DevFn];
            if (function.IommuAttributes is not null)
                yield return new DeviceScope(function is PciBridge ? ScopeType.SubHierarchy : ScopeType.Endpoint, 0, root, path);
            else if (function is PciBridge bridge)
            {
                foreach (DeviceScope below in Under(bridge.Secondary, root, path))
                    yield return below;
            }
        }
    }
}

/// <summary>The DMA remapping table (VT-d chapter 8): one unit, its registers and what is under it.</summary>
internal static class DmarTable
{
    private const byte Revision = 1;
    private const int RemappingUnit = 0;         // DRHD, 8.3
    private const int RootPortTranslation = 2;   // ATSR, 8.5
    private const byte AllFunctions = 1;         // INCLUDE_PCI_ALL of a DRHD, ALL_PORTS of an ATSR
    private const int UnitHeaderSize = 16;
    private const int TranslationHeaderSize = 8;

    /// <summary>
    /// The flags that fit <paramref name="options"/>. Without 32-bit destinations the guest must not use x2APIC mode; with translation it is
    /// told that it may rely on it.
    /// </summary>
    public static DmarFlags FlagsFor(IntelIommuOptions options) =>
        (options.InterruptRemapping ? DmarFlags.InterruptRemapping : 0)
        | (options is { InterruptRemapping: true, ExtendedInterruptMode: false } ? DmarFlags.X2ApicOptOut : 0)
        | (options.DmaTranslation ? DmarFlags.DmaOptIn : 0);

    /// <summary>The table.</summary>
    /// <param name="options">The unit's properties.</param>
    /// <param name="registers">Where its registers are.</param>
    /// <param name="scopes">What is under it.</param>
    /// <param name="all">Every PCI function of the segment is: then <paramref name="scopes"/> has only what is no PCI function.</param>
    public static byte[] Build(IntelIommuOptions options, Gpa registers, IReadOnlyList<DeviceScope> scopes, bool all)
    {
        var table = new AcpiTable("DMAR", Revision);
        table.Number((ulong)options.AddressWidth - 1, 1).Number((byte)FlagsFor(options), 1).Reserved(10);
        int size = UnitHeaderSize + scopes.Sum(scope => scope.Size);
        table.Number(RemappingUnit, 2).Number((ulong)size, 2).Number(all ? AllFunctions : 0u, 1).Reserved(1).Number(0, 2).Address(registers);
        foreach (DeviceScope scope in scopes)
            scope.AppendTo(table);
        if (options.DeviceIotlb)
            table.Number(RootPortTranslation, 2).Number(TranslationHeaderSize, 2).Number(AllFunctions, 1).Reserved(1).Number(0, 2);
        return table.ToBytes();
    }
}
