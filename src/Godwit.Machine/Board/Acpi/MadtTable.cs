namespace Godwit.Machine.Acpi;

/// <summary>The multiple APIC description table, signature "APIC" (ACPI 6.5, 5.2.12): every CPU by the id of its local APIC, and
/// the I/O APIC, whose pins are the global interrupts from 0 on.</summary>
internal static class MadtTable
{
    public const string Signature = "APIC";
    public const byte LocalApic = 0;             // 5.2.12.2
    public const byte LocalX2Apic = 9;           // 5.2.12.12

    public const byte IoApicType = 1;            // 5.2.12.3

    private const byte Revision = 5;
    private const ulong LocalApicAddress = 0xFEE0_0000; // Intel SDM vol. 3, 11.4.1
    private const uint Enabled = 1;

    /// <summary>The table. Ids from 255 on do not fit a local APIC structure and stand in x2APIC ones (5.2.12.12).</summary>
    public static byte[] Build(int cpus)
    {
        var table = new AcpiTable(Signature, Revision);
        table.Number(LocalApicAddress, 4).Number(0, 4);
        for (uint id = 0; id < cpus; id++)
        {
            if (id < byte.MaxValue)
                table.Number(LocalApic, 1).Number(8, 1).Number(id, 1).Number(id, 1).Number(Enabled, 4);
            else
                table.Number(LocalX2Apic, 1).Number(16, 1).Reserved(2).Number(id, 4).Number(Enabled, 4).Number(id, 4);
        }

        table.Number(IoApicType, 1).Number(12, 1).Number(IoApic.Id, 1).Reserved(1).Number(BoardLayout.IoApicBase.Value, 4).Number(0, 4);
        return table.ToBytes();
    }
}
