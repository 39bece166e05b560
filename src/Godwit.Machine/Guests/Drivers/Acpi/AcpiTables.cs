using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Drivers;

/// <summary>What the guest learns from the firmware's ACPI tables.</summary>
/// <param name="Ecam">First byte of ECAM (MCFG).</param>
/// <param name="Cpus">CPUs that are enabled (MADT).</param>
/// <param name="RemappingUnit">Registers of the remapping unit that PCI segment 0 is under (DMAR), if there is one.</param>
/// <param name="IoApic">Registers of the I/O APIC (MADT).</param>
/// <param name="IoApicSource">The id that its messages bear (DMAR).</param>
/// <param name="PowerInterrupt">Its pin that the power-management interrupt is (FADT, SCI_INT).</param>
/// <param name="PowerEvents">PM1 event registers (FADT).</param>
/// <param name="PowerControl">PM1 control register (FADT).</param>
internal readonly record struct AcpiTables(
    Gpa Ecam, int Cpus, Gpa? RemappingUnit, Gpa IoApic, ushort IoApicSource, uint PowerInterrupt, Gpa PowerEvents, Gpa PowerControl)
{
    private const ulong SearchFirst = 0xE_0000;  // ACPI 6.5, 5.2.5.1: on a 16-byte boundary of this area
    private const ulong SearchEnd = 0x10_0000;
    private const ulong RootPointerMark = 0x2052_5450_2044_5352; // "RSD PTR "
    private const int RootPointerSize = 36;
    private const int RootPointerList = 24;
    private const int HeaderSize = 36;
    private const uint LargestTable = 1 << 16;

    private const uint ListMark = 0x5444_5358;   // "XSDT"
    private const uint McfgMark = 0x4746_434D;
    private const uint MadtMark = 0x4349_5041;   // "APIC"
    private const uint DmarMark = 0x5241_4D44;
    private const uint FadtMark = 0x5043_4146;   // "FACP"

    /// <summary>Finds and reads them.</summary>
    /// <exception cref="GuestPanicException">There are none, or one is damaged or says what cannot be.</exception>
    public static AcpiTables Read(GuestBus bus)
    {
        Gpa list = FindList(bus);
        uint length = Check(bus, list, ListMark);
        AcpiTables found = default;
        for (uint at = HeaderSize; at + sizeof(ulong) <= length; at += sizeof(ulong))
        {
            var table = new Gpa(bus.Load<ulong>(list + at));
            uint mark = bus.Load<uint>(table);
            uint size = Check(bus, table, mark);
            switch (mark)
            {
                case McfgMark when size >= 60:
                    found = found with { Ecam = new Gpa(bus.Load<ulong>(table + 44)) };
                    break;
                case MadtMark:
                    ReadMadt(bus, table, size, ref found);
                    break;
                case DmarMark:
                    ReadDmar(bus, table, size, ref found);
                    break;
                case FadtMark when size >= 196:
                    found = found with
                    {
                        PowerInterrupt = bus.Load<ushort>(table + 46),
                        PowerEvents = new Gpa(bus.Load<ulong>(table + 152)),
                        PowerControl = new Gpa(bus.Load<ulong>(table + 176)),
                    };
                    break;
            }
        }

        return found is { Ecam.Value: not 0, Cpus: > 0, IoApic.Value: not 0, PowerEvents.Value: not 0, PowerControl.Value: not 0 }
            ? found
            : throw new GuestPanicException($"the ACPI tables lack something: {found}");
    }

    /// <summary>A pin of the I/O APIC.</summary>
    public IoApicInput Input(uint pin, byte vector) => new() { IoApic = IoApic, Pin = pin, Vector = vector };

    /// <summary>The power button that they describe.</summary>
    public PowerButton PowerButton() => new() { Input = Input(PowerInterrupt, Drivers.PowerButton.Vector), Events = PowerEvents, Control = PowerControl };

    private static Gpa FindList(GuestBus bus)
    {
        for (ulong at = SearchFirst; at < SearchEnd; at += 16)
        {
            var pointer = new Gpa(at);
            if (bus.Load<ulong>(pointer) == RootPointerMark && Sum(bus, pointer, RootPointerSize) == 0)
                return new Gpa(bus.Load<ulong>(pointer + RootPointerList));
        }

        throw new GuestPanicException("the firmware has left no ACPI tables");
    }

    private static uint Check(GuestBus bus, Gpa table, uint mark)
    {
        uint length = bus.Load<uint>(table + 4);
        if (bus.Load<uint>(table) != mark || length is < HeaderSize or > LargestTable || Sum(bus, table, length) != 0)
            throw new GuestPanicException($"the ACPI table at {table} is damaged");
        return length;
    }

    /// <summary>Local APIC, I/O APIC and local x2APIC structures (ACPI 6.5, 5.2.12.2, 5.2.12.3 and 5.2.12.12). CPUs count with the enabled flag.</summary>
    private static void ReadMadt(GuestBus bus, Gpa table, uint size, ref AcpiTables found)
    {
        for (uint at = 44; at + 2 <= size;)
        {
            Gpa structure = table + at;
            int type = bus.Load<byte>(structure);
            uint length = bus.Load<byte>(structure + 1);
            if (length < 2 || at + length > size)
                throw new GuestPanicException($"the MADT has a structure of {length} bytes at {at} of {size}");
            if (type == 1 && length >= 12 && bus.Load<uint>(structure + 8) == 0)
                found = found with { IoApic = new Gpa(bus.Load<uint>(structure + 4)) };
            uint flags = type switch { 0 when length >= 8 => bus.Load<uint>(structure + 4), 9 when length >= 16 => bus.Load<uint>(structure + 8), _ => 0 };
            found = found with { Cpus = found.Cpus + (int)(flags & 1) };
            at += length;
        }
    }

    /// <summary>The first remapping unit of segment 0 (VT-d 8.3), which is the only one here, and the I/O APIC among its scopes (8.3.1).</summary>
    private static void ReadDmar(GuestBus bus, Gpa table, uint size, ref AcpiTables found)
    {
        for (uint at = 48; at + 16 <= size;)
        {
            Gpa structure = table + at;
            int type = bus.Load<ushort>(structure);
            uint length = bus.Load<ushort>(structure + 2);
            if (length < 4 || at + length > size)
                throw new GuestPanicException($"the DMAR table has a structure of {length} bytes at {at} of {size}");
            if (type == 0 && length >= 16 && bus.Load<ushort>(structure + 6) == 0 && found.RemappingUnit is null)
            {
                found = found with { RemappingUnit = new Gpa(bus.Load<ulong>(structure + 8)) };
                ReadScopes(bus, structure, length, ref found);
            }

            at += length;
        }
    }

    private static void ReadScopes(GuestBus bus, Gpa unit, uint size, ref AcpiTables found)
    {
        for (uint at = 16; at + 8 <= size;)
        {
            Gpa scope = unit + at;
            uint length = bus.Load<byte>(scope + 1);
            if (length < 8 || at + length > size)
                throw new GuestPanicException($"the DMAR table has a scope of {length} bytes at {at} of {size}");
            if (bus.Load<byte>(scope) == 3)
            {
                int source = (bus.Load<byte>(scope + 5) << 8) | (bus.Load<byte>(scope + 6) << 3) | (bus.Load<byte>(scope + 7) & 7);
                found = found with { IoApicSource = (ushort)source };
            }

            at += length;
        }
    }

    private static byte Sum(GuestBus bus, Gpa address, uint length)
    {
        byte sum = 0;
        for (uint i = 0; i < length; i++)
            sum += bus.Load<byte>(address + i);
        return sum;
    }
}
