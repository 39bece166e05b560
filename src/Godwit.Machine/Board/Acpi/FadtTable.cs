using Godwit.Memory;

namespace Godwit.Machine.Acpi;

/// <summary>
/// The fixed ACPI description table, signature "FACP" (ACPI 6.5, 5.2.9): where the power-management registers are, and which pin their
/// interrupt is. There is no DSDT, because nothing here needs AML.
/// </summary>
internal static class FadtTable
{
    private const byte Revision = 6;
    private const byte MinorRevision = 5;
    private const byte EventLength = 4;
    private const byte ControlLength = 2;

    /// <summary>The table.</summary>
    public static byte[] Build(Gpa power) => new AcpiTable("FACP", Revision)
        .Reserved(10)                                                                   // 36: FACS, DSDT, profile
        .Number(PowerManagement.SciPin, 2).Reserved(40)                                 // 46: SCI_INT; no SMI, no I/O ports
        .Number(EventLength, 1).Number(ControlLength, 1).Reserved(41)                   // 88: PM1_EVT_LEN, PM1_CNT_LEN
        .Number(MinorRevision, 1).Reserved(16)                                          // 131; 132: X_FACS, X_DSDT
        .Register(power + PowerManagement.StatusOffset, EventLength).Reserved(12)       // 148: X_PM1a_EVT, X_PM1b_EVT
        .Register(power + PowerManagement.ControlOffset, ControlLength).Reserved(12)    // 172: X_PM1a_CNT, X_PM1b_CNT
        .Reserved(80)                                                                   // 196: PM2, timer, GPEs, sleep registers, hypervisor
        .ToBytes();

    /// <summary>A generic address structure in system memory, accessed by words (5.2.3.2).</summary>
    private static AcpiTable Register(this AcpiTable table, Gpa address, byte bytes) =>
        table.Number(0, 1).Number((ulong)bytes * 8, 1).Number(0, 1).Number(2, 1).Address(address);
}
