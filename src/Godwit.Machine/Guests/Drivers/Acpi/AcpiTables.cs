using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Drivers;

/// <summary>What the guest learns from the firmware's ACPI tables.</summary>
/// <param name="Ecam">First byte of ECAM (MCFG).</param>
/// <param name="Cpus">CPUs that are enabled (MADT).</param>
/// <param name="RemappingUnit">Registers of the remapping unit that PCI segment 0 is under (DMAR), if there is one.</param>
internal readonly record struct AcpiTables(Gpa Ecam, int Cpus, Gpa? RemappingUnit)
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

    /// <summary>Finds and reads them.</summary>
    /// <exception cref="GuestPanicException">There are none, or one is damaged or says what cannot be.</exception>
    public static AcpiTables Read(GuestBus bus)
    {
        Gpa list = FindList(bus);
        uint length = Check(bus, list, ListMark);
        Gpa ecam = default;
        Gpa? unit = null;
        int cpus = 0;
        for (uint at = HeaderSize; at + sizeof(ulong) <= length; at += sizeof(ulong))
        {
            var table = new Gpa(bus.Load<ulong>(list + at));
            uint mark = bus.Load<uint>(table);
            uint size = Check(bus, table, mark);
            switch (mark)
            {
                case McfgMark when size >= 60:
                    ecam = new Gpa(bus.Load<ulong>(table + 44));
                    break;
                case MadtMark:
                    cpus = CountCpus(bus, table, size);
                    break;
                case DmarMark:
                    unit = FindUnit(bus, table, size);
                    break;
            }
        }

        return ecam.Value != 0 && cpus > 0
            ? new AcpiTables(ecam, cpus, unit)
            : throw new GuestPanicException($"the ACPI tables have ECAM at {ecam} and {cpus} CPUs");
    }

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

    /// <summary>Local APIC and local x2APIC structures with the enabled flag (ACPI 6.5, 5.2.12.2 and 5.2.12.12).</summary>
    private static int CountCpus(GuestBus bus, Gpa table, uint size)
    {
        int cpus = 0;
        for (uint at = 44; at + 2 <= size;)
        {
            int type = bus.Load<byte>(table + at);
            uint length = bus.Load<byte>(table + (at + 1));
            if (length < 2 || at + length > size)
                throw new GuestPanicException($"the MADT has a structure of {length} bytes at {at} of {size}");
            uint flags = type switch { 0 when length >= 8 => bus.Load<uint>(table + (at + 4)), 9 when length >= 16 => bus.Load<uint>(table + (at + 8)), _ => 0 };
            cpus += (int)(flags & 1);
            at += length;
        }

        return cpus;
    }

    /// <summary>The first remapping unit of segment 0 (VT-d 8.3): this board has one at most.</summary>
    private static Gpa? FindUnit(GuestBus bus, Gpa table, uint size)
    {
        for (uint at = 48; at + 16 <= size;)
        {
            int type = bus.Load<ushort>(table + at);
            uint length = bus.Load<ushort>(table + (at + 2));
            if (length < 4 || at + length > size)
                throw new GuestPanicException($"the DMAR table has a structure of {length} bytes at {at} of {size}");
            if (type == 0 && length >= 16 && bus.Load<ushort>(table + (at + 6)) == 0)
                return new Gpa(bus.Load<ulong>(table + (at + 8)));
            at += length;
        }

        return null;
    }

    private static byte Sum(GuestBus bus, Gpa address, uint length)
    {
        byte sum = 0;
        for (uint i = 0; i < length; i++)
            sum += bus.Load<byte>(address + i);
        return sum;
    }
}
