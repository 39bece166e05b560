using Godwit.Memory;

namespace Godwit.Machine;

/// <summary>
/// Where everything lies in guest physical memory. RAM is split below and above 4 GiB in every machine, however small, so that a GPA is
/// never an offset into the RAM block.
/// </summary>
internal readonly record struct BoardLayout(ulong LowRamSize, ulong HighRamSize)
{
    public const ulong MaxLowRam = 2UL << 30;

    public static Gpa HighRamBase => new(1UL << 32);

    /// <summary>ECAM of all 256 buses, 1 MiB each (PCI Express 5.0, 7.2.2).</summary>
    public static Gpa EcamBase => new(0xB000_0000);

    public const int EcamBuses = 256;

    /// <summary>Where the guest may put BARs.</summary>
    public static Gpa MmioBase => new(0xC000_0000);

    public const ulong MmioSize = 0x3C00_0000;

    /// <summary>Interrupt messages (Intel SDM vol. 3, 11.11.1; VT-d 3.15).</summary>
    public static Gpa InterruptBase => new(0xFEE0_0000);

    public const ulong InterruptSize = 0x10_0000;

    /// <summary>The I/O APIC, where PCs have it.</summary>
    public static Gpa IoApicBase => new(0xFEC0_0000);

    public const ulong IoApicSize = 0x1000;

    /// <summary>
    /// The I/O APIC's pin for the first of the four that PCI functions interrupt by. With no AML to say so, the firmware leaves each function's pin in its
    /// Interrupt Line register (PCI Local Bus 3.0, 6.2.4).
    /// </summary>
    public const int FirstPciPin = 16;

    /// <summary>Power management.</summary>
    public static Gpa PowerBase => new(0xFED8_0000);

    /// <summary>The page in which the firmware tells the guest about the board.</summary>
    public static Gpa BootInfo => new(0x7000);

    /// <summary>ACPI tables, where a guest looks for their root pointer (ACPI 6.5, 5.2.5.1).</summary>
    public static Gpa AcpiBase => new(0xE_0000);

    public const ulong AcpiSize = 0x2_0000;

    /// <summary>Memory below this belongs to the firmware; guests start above.</summary>
    public static Gpa FirmwareEnd => new(0x10_0000);

    public ulong TotalRam => LowRamSize + HighRamSize;

    /// <summary>First GPA above all RAM.</summary>
    public Gpa RamEnd => HighRamBase + HighRamSize;

    public static BoardLayout For(ulong memoryBytes)
    {
        // Half, rounded down to whole huge pages so that both windows are aligned to them.
        ulong low = Math.Min(memoryBytes / 2 / MachineConfig.MemoryGranularity * MachineConfig.MemoryGranularity, MaxLowRam);
        return new BoardLayout(low, memoryBytes - low);
    }

    /// <summary>The offset in the block <c>main</c> of <paramref name="length"/> bytes of RAM at <paramref name="address"/>, all in one window.</summary>
    public bool TryGetRamOffset(Gpa address, ulong length, out ulong offset)
    {
        ulong value = address.Value;
        if (value < LowRamSize)
        {
            offset = value;
            return length <= LowRamSize - value;
        }

        ulong high = value - HighRamBase.Value; // wraps for addresses in the hole, which the next line refuses
        if (value >= HighRamBase.Value && high < HighRamSize)
        {
            offset = LowRamSize + high;
            return length <= HighRamSize - high;
        }

        offset = 0;
        return false;
    }
}
