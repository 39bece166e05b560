using System.Buffers.Binary;
using System.Collections.Immutable;
using System.Numerics;
using Godwit.Pci;
using Godwit.Pci.Spec;
using Godwit.Vfio.Spec;
using Godwit.VfioUser;

namespace Godwit.Vfio;

/// <summary>A BAR of the device.</summary>
/// <param name="Index">0-5.</param>
/// <param name="Kind">32 or 64 bits.</param>
/// <param name="Prefetchable">As the device says.</param>
/// <param name="RegionBytes">Bytes that the device serves.</param>
/// <param name="BarBytes">Bytes that the guest sees: the next power of two.</param>
/// <param name="Mappable">Whether the device offers parts of it for mapping.</param>
internal sealed record DeviceBar(int Index, BarKind Kind, bool Prefetchable, ulong RegionBytes, ulong BarBytes, bool Mappable);

/// <summary>Where the device has its MSI-X.</summary>
/// <param name="Capability">Offset of the capability.</param>
/// <param name="Vectors">1-2048.</param>
/// <param name="TableBar">BAR of the table.</param>
/// <param name="TableOffset">Offset of the table in it.</param>
/// <param name="PendingBar">BAR of the pending bits.</param>
/// <param name="PendingOffset">Offset of the pending bits in it.</param>
internal sealed record MsixLayout(int Capability, int Vectors, int TableBar, uint TableOffset, int PendingBar, uint PendingOffset)
{
    /// <summary>Bytes of the table.</summary>
    public ulong TableBytes => (ulong)Vectors * MsixRegisters.EntryBytes;

    /// <summary>Bytes of the pending bits.</summary>
    public ulong PendingBytes => (ulong)(Vectors + 63) / 64 * 8;
}

/// <summary>Where the device has its MSI.</summary>
/// <param name="Capability">Offset of the capability.</param>
/// <param name="Vectors">Power of two, 1-32.</param>
/// <param name="Wide">64-bit addresses.</param>
internal sealed record MsiLayout(int Capability, int Vectors, bool Wide);

/// <summary>What a device is, read once from its configuration space and region infos and checked: the device is another process.</summary>
internal sealed record DeviceLayout
{
    /// <summary>Vendor, device and subsystem ids.</summary>
    public required ushort Vendor { get; init; }

    /// <inheritdoc cref="Vendor"/>
    public required ushort Device { get; init; }

    /// <inheritdoc cref="Vendor"/>
    public required ushort SubsystemVendor { get; init; }

    /// <inheritdoc cref="Vendor"/>
    public required ushort Subsystem { get; init; }

    /// <summary>Base class, sub-class, interface from the high byte down.</summary>
    public required uint ClassCode { get; init; }

    /// <summary>Revision.</summary>
    public required byte Revision { get; init; }

    /// <summary>BARs there are.</summary>
    public required ImmutableArray<DeviceBar> Bars { get; init; }

    /// <summary>MSI-X, or null.</summary>
    public required MsixLayout? Msix { get; init; }

    /// <summary>MSI, or null.</summary>
    public required MsiLayout? Msi { get; init; }

    /// <summary>Interrupt pin, 1 (INTA#) to 4 (INTD#), or 0.</summary>
    public required int Pin { get; init; }

    /// <summary>Offset and port type of the PCI Express capability, or null.</summary>
    public required (int Offset, int PortType)? Express { get; init; }

    /// <summary>Sizes of all regions, by index.</summary>
    public required ImmutableArray<ulong> RegionBytes { get; init; }

    /// <summary>Vectors of all interrupt indices.</summary>
    public required ImmutableArray<int> IrqCounts { get; init; }

    /// <summary>Whether it can be reset.</summary>
    public required bool CanReset { get; init; }

    /// <summary>Things left out, for notices.</summary>
    public required ImmutableArray<string> Omitted { get; init; }

    /// <summary>Reads and checks a device.</summary>
    /// <exception cref="VfioAttachException">It is no PCI device, or what it says of itself cannot be.</exception>
    public static DeviceLayout Read(IVfioBackend device)
    {
        DeviceInfo info = device.GetInfo();
        if (!info.IsPci || info.RegionCount <= PciRegion.Config)
            throw new VfioAttachException(device.Address, $"no PCI device: {info.RegionCount} regions, PCI flag {info.IsPci}");
        var regions = new RegionInfo[Math.Min(info.RegionCount, PciRegion.Count)];
        for (int i = 0; i < regions.Length; i++)
        {
            regions[i] = device.GetRegionInfo(i);
            regions[i].File?.Dispose(); // accesses are trapped here
        }

        int[] irqs = new int[Math.Min(info.IrqCount, PciIrq.Count)];
        for (int i = 0; i < irqs.Length; i++)
            irqs[i] = device.GetIrqInfo(i).Count;

        ulong configBytes = regions[PciRegion.Config].Size;
        if (configBytes < ConfigOffset.ConventionalSize)
            throw new VfioAttachException(device.Address, $"{configBytes} bytes of configuration space; {ConfigOffset.ConventionalSize} are the least");
        byte[] config = new byte[Math.Min(configBytes, ConfigOffset.Size)];
        device.ReadRegion(PciRegion.Config, 0, config);
        return Parse(device.Address, config, regions, irqs, info.CanReset);
    }

    /// <summary>Checks what has been read.</summary>
    /// <exception cref="VfioAttachException">It cannot be.</exception>
    internal static DeviceLayout Parse(string address, ReadOnlySpan<byte> config, IReadOnlyList<RegionInfo> regions, IReadOnlyList<int> irqs, bool canReset)
    {
        ushort vendor = Word(config, ConfigOffset.VendorId);
        int headerType = config[ConfigOffset.HeaderType] & 0x7F;
        if (vendor is 0xFFFF or 0)
            throw new VfioAttachException(address, $"vendor id 0x{vendor:x4}: no function answers");
        if (headerType != 0)
            throw new VfioAttachException(address, $"header type {headerType}; only endpoints (type 0) can be passed through");
        List<string> omitted = [];
        ImmutableArray<DeviceBar> bars = ParseBars(address, config, regions, omitted);
        Dictionary<byte, int> capabilities = ParseCapabilities(config);
        int pin = config[ConfigOffset.InterruptPin];
        bool served = pin is >= 1 and <= 4 && irqs.Count > PciIrq.Intx && irqs[PciIrq.Intx] > 0;
        if (pin != 0 && !served && !capabilities.ContainsKey(MsiRegisters.Id) && !capabilities.ContainsKey(MsixRegisters.Id))
            omitted.Add("it has neither MSI nor MSI-X, and offers no interrupt for its pin (INTx): none of its interrupts will arrive");
        return new DeviceLayout
        {
            Vendor = vendor,
            Device = Word(config, ConfigOffset.DeviceId),
            SubsystemVendor = Word(config, ConfigOffset.SubsystemVendorId),
            Subsystem = Word(config, ConfigOffset.SubsystemId),
            ClassCode = (uint)(config[ConfigOffset.ClassCode] | config[ConfigOffset.ClassCode + 1] << 8 | config[ConfigOffset.ClassCode + 2] << 16),
            Revision = config[ConfigOffset.RevisionId],
            Bars = bars,
            Msix = capabilities.TryGetValue(MsixRegisters.Id, out int msix) ? ParseMsix(address, config, msix, bars) : null,
            Msi = capabilities.TryGetValue(MsiRegisters.Id, out int msi) ? ParseMsi(address, config, msi, capabilities) : null,
            Pin = served ? pin : 0,
            Express = capabilities.TryGetValue(ExpressRegisters.Id, out int express)
                ? (express, (int)(Word(config, express + ExpressRegisters.Capabilities) & ExpressRegisters.PortTypeMask) >> ExpressRegisters.PortTypeShift)
                : null,
            RegionBytes = [.. regions.Select(r => r.Size)],
            IrqCounts = [.. irqs],
            CanReset = canReset,
            Omitted = [.. omitted],
        };
    }

    private static ImmutableArray<DeviceBar> ParseBars(string address, ReadOnlySpan<byte> config, IReadOnlyList<RegionInfo> regions, List<string> omitted)
    {
        var bars = ImmutableArray.CreateBuilder<DeviceBar>();
        for (int i = 0; i < ConfigOffset.BarCount; i++)
        {
            RegionInfo region = regions[i];
            if (region.Size == 0)
                continue;
            uint register = BinaryPrimitives.ReadUInt32LittleEndian(config[(ConfigOffset.Bar0 + i * 4)..]);
            if ((register & ConfigBits.BarIsIo) != 0)
            {
                omitted.Add($"BAR {i} is in I/O space, which this machine does not have");
                continue;
            }

            uint type = register & ConfigBits.BarTypeMask;
            if (type is not (0 or ConfigBits.Bar64))
                throw new VfioAttachException(address, $"BAR {i} is of unknown type {type >> 1}");
            bool wide = type == ConfigBits.Bar64;
            if (wide && (i + 1 == ConfigOffset.BarCount || regions[i + 1].Size != 0))
                throw new VfioAttachException(address, $"BAR {i} has 64 bits, and the next one is not free");
            ulong limit = wide ? 1UL << 62 : 1UL << 31;
            if (region.Size > limit)
                throw new VfioAttachException(address, $"BAR {i} has {region.Size} bytes; the limit is {limit}");
            ulong size = BitOperations.RoundUpToPowerOf2(Math.Max(region.Size, ConfigBits.BarFlags + 1UL));
            bars.Add(new DeviceBar(
                i, wide ? BarKind.Memory64 : BarKind.Memory32, (register & ConfigBits.BarPrefetchable) != 0, region.Size, size, region.Mappable.Count > 0));
            if (wide)
                i++;
        }

        return bars.ToImmutable();
    }

    /// <summary>First offset of each capability. 48 capabilities fit; a longer list is a loop, of which the rest is ignored.</summary>
    private static Dictionary<byte, int> ParseCapabilities(ReadOnlySpan<byte> config)
    {
        const int Most = (ConfigOffset.ConventionalSize - ConfigOffset.FirstCapability) / 4;
        var result = new Dictionary<byte, int>();
        if ((Word(config, ConfigOffset.Status) & ConfigBits.StatusCapabilitiesList) == 0)
            return result;
        int offset = config[ConfigOffset.CapabilitiesPointer] & ~3;
        for (int i = 0; i < Most && offset >= ConfigOffset.FirstCapability; i++)
        {
            result.TryAdd(config[offset], offset);
            offset = config[offset + 1] & ~3;
        }

        return result;
    }

    private static MsiLayout ParseMsi(string address, ReadOnlySpan<byte> config, int at, Dictionary<byte, int> capabilities)
    {
        if (at > ConfigOffset.ConventionalSize - MsiRegisters.Length)
            throw new VfioAttachException(address, $"the MSI capability at 0x{at:x} reaches out of its space");
        if (capabilities.TryGetValue(MsixRegisters.Id, out int msix) && at < msix + MsixRegisters.Length && msix < at + MsiRegisters.Length)
            throw new VfioAttachException(address, $"the capabilities of MSI at 0x{at:x} and of MSI-X at 0x{msix:x} overlap");
        uint control = Word(config, at + MsiRegisters.MessageControl);
        int capable = Math.Min((int)(control >> MsiRegisters.CapableShift & MsiRegisters.CapableMask), MsiRegisters.MostCapable);
        return new MsiLayout(at, 1 << capable, (control & MsiRegisters.Wide) != 0);
    }

    private static MsixLayout ParseMsix(string address, ReadOnlySpan<byte> config, int at, ImmutableArray<DeviceBar> bars)
    {
        if (at > ConfigOffset.ConventionalSize - MsixRegisters.Length)
            throw new VfioAttachException(address, $"the MSI-X capability at 0x{at:x} reaches out of its space");
        uint table = BinaryPrimitives.ReadUInt32LittleEndian(config[(at + MsixRegisters.Table)..]);
        uint pending = BinaryPrimitives.ReadUInt32LittleEndian(config[(at + MsixRegisters.Pending)..]);
        var msix = new MsixLayout(
            at,
            (int)(Word(config, at + MsixRegisters.MessageControl) & MsixRegisters.TableSizeMask) + 1,
            (int)(table & MsixRegisters.BarMask),
            table & ~MsixRegisters.BarMask,
            (int)(pending & MsixRegisters.BarMask),
            pending & ~MsixRegisters.BarMask);
        CheckInside(address, bars, "table", msix.TableBar, msix.TableOffset, msix.TableBytes);
        CheckInside(address, bars, "pending bits", msix.PendingBar, msix.PendingOffset, msix.PendingBytes);
        if (msix.TableBar == msix.PendingBar && msix.TableOffset < msix.PendingOffset + msix.PendingBytes && msix.PendingOffset < msix.TableOffset + msix.TableBytes)
            throw new VfioAttachException(address, $"MSI-X table and pending bits overlap in BAR {msix.TableBar}");
        return msix;
    }

    private static void CheckInside(string address, ImmutableArray<DeviceBar> bars, string what, int bar, uint offset, ulong bytes)
    {
        if (bars.FirstOrDefault(b => b.Index == bar) is not { } place)
            throw new VfioAttachException(address, $"the MSI-X {what} lie in BAR {bar}, which does not exist");
        if (offset + bytes > place.BarBytes)
            throw new VfioAttachException(address, $"the MSI-X {what} of {bytes} bytes at 0x{offset:x} reach out of BAR {bar} of {place.BarBytes} bytes");
    }

    private static ushort Word(ReadOnlySpan<byte> config, int offset) => BinaryPrimitives.ReadUInt16LittleEndian(config[offset..]);
}
