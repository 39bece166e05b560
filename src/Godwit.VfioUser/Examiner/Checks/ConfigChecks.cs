namespace Godwit.VfioUser;

/// <summary>Configuration space (PCI Local Bus 3.0, chapter 6).</summary>
internal static class ConfigChecks
{
    private const int StatusCapabilities = 0x10;
    private const int MsiId = 0x05;
    private const int MsixId = 0x11;

    public static IReadOnlyList<Check> All { get; } =
    [
        new("config.identity", "a vendor other than 0 and FFFF, and a header of type 0", static e =>
        {
            uint vendor = e.Config(0, 2);
            Examination.Require(vendor is not (0 or 0xFFFF), $"the vendor is {vendor:X4}");
            uint header = e.Config(0x0E, 1) & 0x7F;
            Examination.Require(header == 0, $"the header has type {header}");
        }),
        new("config.read-only", "identity and class cannot be written", static e =>
        {
            byte[] before = e.Read(PciRegion.Config, 0, 16);
            e.Write(PciRegion.Config, 0, [0x55, 0xAA, 0x55, 0xAA]);
            e.Write(PciRegion.Config, 8, [0x55, 0xAA, 0x55, 0xAA]);
            byte[] after = e.Read(PciRegion.Config, 0, 16);
            Examination.Require(before.AsSpan(0, 4).SequenceEqual(after.AsSpan(0, 4)) && before.AsSpan(8, 4).SequenceEqual(after.AsSpan(8, 4)), "they changed");
        }),
        new("config.bars", "a BAR written with ones reads back its size, the one of its region", Bars),
        new("config.capabilities", "the capability list ends, stays between 0x40 and 0xFC and is announced in Status", static e => Capabilities(e)),
        new("config.pin", "Interrupt Pin is set exactly when interrupt index 0 has a vector", static e =>
        {
            uint pin = e.Config(0x3D, 1);
            uint vectors = e.Irq(PciIrq.Intx).Count;
            Examination.Require(pin <= 4 && vectors <= 1 && (pin != 0) == (vectors != 0), $"the pin is {pin}, index 0 has {vectors} vectors");
        }),
        new("config.msi", "the MSI capability has as many vectors as interrupt index 1", static e =>
        {
            uint vectors = e.Irq(PciIrq.Msi).Count;
            if (!Capabilities(e).TryGetValue(MsiId, out int at))
            {
                Examination.Require(vectors == 0, $"there is none, and index 1 has {vectors} vectors");
                throw Examination.Absent("no MSI capability");
            }
            uint said = 1u << (int)((e.Config(at + 2, 2) >> 1) & 7);
            Examination.Require(said == vectors, $"it has {said}, index 1 has {vectors}");
        }),
        new("config.msix", "the MSI-X capability has as many vectors as interrupt index 2; table and pending bits lie in a BAR, apart", Msix),
    ];

    /// <summary>Capabilities by id.</summary>
    private static Dictionary<int, int> Capabilities(Examination e)
    {
        var found = new Dictionary<int, int>();
        bool announced = (e.Config(6, 2) & StatusCapabilities) != 0;
        uint pointer = e.Config(0x34, 1) & 0xFC;
        Examination.Require(announced == (pointer != 0), announced ? "Status says there is a list, its pointer is 0" : $"Status says there is no list, its pointer is 0x{pointer:x}");
        for (int n = 0; pointer != 0; n++)
        {
            Examination.Require(n < 48, "it does not end");
            Examination.Require(pointer >= 0x40, $"it goes to 0x{pointer:x}");
            found.TryAdd((int)e.Config((int)pointer, 1), (int)pointer);
            pointer = e.Config((int)pointer + 1, 1) & 0xFC;
        }
        return found;
    }

    private static void Bars(Examination e)
    {
        for (int i = 0; i <= PciRegion.Bar5; i++)
        {
            int at = 0x10 + 4 * i;
            byte[] old = e.Read(PciRegion.Config, (ulong)at, 4);
            uint type = BitConverter.ToUInt32(old);
            bool isIo = (type & 1) != 0;
            bool is64 = !isIo && (type & 6) == 4;
            Examination.Require(isIo || (type & 6) is 0 or 4, $"BAR {i} says type {(type >> 1) & 3}");
            e.Write(PciRegion.Config, (ulong)at, [0xFF, 0xFF, 0xFF, 0xFF]);
            ulong mask = e.Config(at, 4) & (isIo ? ~3u : ~15u);
            e.Write(PciRegion.Config, (ulong)at, old);
            if (is64)
            {
                Examination.Require(i < PciRegion.Bar5, "BAR 5 says 64-bit");
                byte[] oldHigh = e.Read(PciRegion.Config, (ulong)at + 4, 4);
                e.Write(PciRegion.Config, (ulong)at + 4, [0xFF, 0xFF, 0xFF, 0xFF]);
                mask |= (ulong)e.Config(at + 4, 4) << 32;
                e.Write(PciRegion.Config, (ulong)at + 4, oldHigh);
            }
            else if (mask != 0)
            {
                mask |= 0xFFFF_FFFF_0000_0000;
            }
            ulong size = mask == 0 ? 0 : ~mask + 1;
            ulong region = e.Region(i).Size;
            Examination.Require(size == region, $"BAR {i} sizes to 0x{size:x}, its region has 0x{region:x}");
            if (is64)
                i++;
        }
    }

    private static void Msix(Examination e)
    {
        uint vectors = e.Irq(PciIrq.Msix).Count;
        if (!Capabilities(e).TryGetValue(MsixId, out int at))
        {
            Examination.Require(vectors == 0, $"there is none, and index 2 has {vectors} vectors");
            throw Examination.Absent("no MSI-X capability");
        }
        uint said = (e.Config(at + 2, 2) & 0x7FF) + 1;
        Examination.Require(said == vectors, $"it has {said}, index 2 has {vectors}");
        (int Bar, ulong Start, ulong Length) table = Place(e, at + 4, said * 16);
        (int Bar, ulong Start, ulong Length) pending = Place(e, at + 8, (said + 63) / 64 * 8);
        Examination.Require(
            table.Bar != pending.Bar || table.Start + table.Length <= pending.Start || pending.Start + pending.Length <= table.Start,
            "table and pending bits overlap");
    }

    private static (int Bar, ulong Start, ulong Length) Place(Examination e, int at, ulong length)
    {
        uint value = e.Config(at, 4);
        int bar = (int)(value & 7);
        ulong start = value & ~7u;
        Examination.Require(bar <= PciRegion.Bar5, $"BAR {bar}");
        ulong size = e.Region(bar).Size;
        Examination.Require(start <= size && length <= size - start, $"0x{length:x} bytes at 0x{start:x} of BAR {bar}, which has 0x{size:x}");
        return (bar, start, length);
    }
}
