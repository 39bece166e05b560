using System.Buffers.Binary;
using System.Text;
using Godwit.Memory;

namespace Godwit.Machine;

/// <summary>
/// What a boot loader tells the guest at <see cref="BoardLayout.BootInfo"/>: the memory map and the command line, in one page. CPUs, PCI and
/// the vIOMMU stand in the ACPI tables (<see cref="Acpi.AcpiImage"/>). Little endian; the 32-bit words of the page's used part sum up to 0.
/// </summary>
internal readonly record struct BootInfo(
    Gpa LowRamBase, ulong LowRamSize, Gpa HighRamBase, ulong HighRamSize,
    Gpa MmioBase, ulong MmioSize, string CommandLine)
{
    public const int PageSize = 4096;
    public const int MaxCommandLine = 2048;

    private const ulong Magic = 0x3154_4F4F_4257_4447; // "GDWBOOT1"
    private const int HeaderSize = 128;

    public static BootInfo For(in BoardLayout layout, string commandLine) => new(
        default, layout.LowRamSize, BoardLayout.HighRamBase, layout.HighRamSize, BoardLayout.MmioBase, BoardLayout.MmioSize, commandLine);

    /// <summary>The page as the firmware writes it.</summary>
    /// <exception cref="ArgumentException">The command line is too long.</exception>
    public byte[] ToPage()
    {
        int textLength = Encoding.UTF8.GetByteCount(CommandLine);
        if (textLength > MaxCommandLine)
            throw new ArgumentException($"The guest's options take {textLength} bytes on its command line; the limit is {MaxCommandLine}.");

        byte[] page = new byte[PageSize];
        BinaryPrimitives.WriteUInt64LittleEndian(page, Magic);
        int used = (HeaderSize + textLength + 3) & ~3;
        BinaryPrimitives.WriteInt32LittleEndian(page.AsSpan(8), used);
        ReadOnlySpan<ulong> words =
        [
            LowRamBase.Value, LowRamSize, HighRamBase.Value, HighRamSize, MmioBase.Value, MmioSize, (ulong)textLength,
        ];
        for (int i = 0; i < words.Length; i++)
            BinaryPrimitives.WriteUInt64LittleEndian(page.AsSpan(16 + (i * 8)), words[i]);
        Encoding.UTF8.GetBytes(CommandLine, page.AsSpan(HeaderSize));
        BinaryPrimitives.WriteUInt32LittleEndian(page.AsSpan(12), 0u - Sum(page.AsSpan(0, used)));
        return page;
    }

    /// <summary>The guest's side. False: no such page, or it is damaged.</summary>
    public static bool TryParse(ReadOnlySpan<byte> page, out BootInfo info)
    {
        info = default;
        if (page.Length < PageSize || BinaryPrimitives.ReadUInt64LittleEndian(page) != Magic)
            return false;
        int used = BinaryPrimitives.ReadInt32LittleEndian(page[8..]);
        if (used is < HeaderSize or > HeaderSize + MaxCommandLine || used % 4 != 0 || Sum(page[..used]) != 0)
            return false;

        Span<ulong> words = stackalloc ulong[7];
        for (int i = 0; i < words.Length; i++)
            words[i] = BinaryPrimitives.ReadUInt64LittleEndian(page[(16 + (i * 8))..]);
        if (words[6] > (ulong)(used - HeaderSize))
            return false;
        info = new BootInfo(
            new Gpa(words[0]), words[1], new Gpa(words[2]), words[3], new Gpa(words[4]), words[5],
            Encoding.UTF8.GetString(page.Slice(HeaderSize, (int)words[6])));
        return true;
    }

    private static uint Sum(ReadOnlySpan<byte> bytes)
    {
        uint sum = 0;
        for (; bytes.Length >= 4; bytes = bytes[4..])
            sum += BinaryPrimitives.ReadUInt32LittleEndian(bytes);
        return sum;
    }
}
