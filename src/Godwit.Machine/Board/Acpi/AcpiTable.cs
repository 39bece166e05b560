using System.Buffers.Binary;
using System.Text;
using Godwit.Memory;

namespace Godwit.Machine.Acpi;

/// <summary>
/// A system description table while it is written: the common header (ACPI 6.5, 5.2.6), then fields in order, little endian. Length and
/// checksum are put in by <see cref="ToBytes"/>.
/// </summary>
internal sealed class AcpiTable
{
    public const int HeaderSize = 36;
    public const int SignatureSize = 4;
    public const int LengthOffset = 4;
    public const int ChecksumOffset = 9;

    /// <summary>OEM id, six characters, in every table and in the root pointer.</summary>
    public const string Oem = "GODWIT";

    private const string OemTable = "GODWIT-1";
    private const string Creator = "GDWT";

    private readonly List<byte> _bytes = [];

    /// <summary>Begins a table.</summary>
    /// <param name="signature">Four characters.</param>
    /// <param name="revision">Of the table's format.</param>
    public AcpiTable(string signature, byte revision)
    {
        Signature = signature;
        Text(signature).Number(0, 4).Number(revision, 1).Number(0, 1).Text(Oem).Text(OemTable).Number(1, 4).Text(Creator).Number(1, 4);
    }

    public string Signature { get; }

    /// <summary>Appends ASCII characters as they are.</summary>
    public AcpiTable Text(string text)
    {
        _bytes.AddRange(Encoding.ASCII.GetBytes(text));
        return this;
    }

    /// <summary>Appends the low <paramref name="size"/> bytes of a number.</summary>
    public AcpiTable Number(ulong value, int size)
    {
        Span<byte> word = stackalloc byte[sizeof(ulong)];
        BinaryPrimitives.WriteUInt64LittleEndian(word, value);
        _bytes.AddRange(word[..size]);
        return this;
    }

    /// <summary>Appends bytes that are reserved.</summary>
    public AcpiTable Reserved(int size)
    {
        _bytes.AddRange(new byte[size]);
        return this;
    }

    /// <summary>Appends an address.</summary>
    public AcpiTable Address(Gpa address) => Number(address.Value, sizeof(ulong));

    /// <summary>The table, whole: its bytes sum up to 0.</summary>
    public byte[] ToBytes()
    {
        byte[] table = [.. _bytes];
        BinaryPrimitives.WriteInt32LittleEndian(table.AsSpan(LengthOffset), table.Length);
        table[ChecksumOffset] = Checksum(table);
        return table;
    }

    /// <summary>What makes the sum of all bytes 0 when put in the place of one that is 0.</summary>
    public static byte Checksum(ReadOnlySpan<byte> bytes)
    {
        byte sum = 0;
        foreach (byte value in bytes)
            sum += value;
        return (byte)-sum;
    }
}
