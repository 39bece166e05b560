using System.Buffers.Binary;
using System.Numerics;
using Godwit.Interop.Linux;
using Godwit.Memory;

namespace Godwit.Migration;

/// <summary>
/// Where things are in the file of a saved machine, version 1. Little endian.
/// </summary>
/// <remarks>
/// <code>
///  0        8         12       16          24           32          40     64
///  │ magic  │ version │ blocks │ RAM offset│ tail offset│ tail bytes│ zero │ bytes of each block … │ zero … │ CRC32C of 0..4091 │ 4096
///
///  RAM offset (2 MiB)      the blocks one after another, page by page as the guest sees them; what holds zeros is a hole of the file
///  tail offset             a migration stream (<see cref="StreamFormat"/>) without its rounds: Description, states, Prepare, Commit
/// </code>
/// RAM is aligned so that it can be mapped, with huge pages where the file system has them. The first page is written last: a file that has
/// one is complete.
/// </remarks>
internal sealed class SavedMachineLayout
{
    /// <summary>First eight bytes: <c>GODWITSM</c>.</summary>
    internal const ulong Magic = 0x4D53_5449_5744_4F47;

    /// <summary>Version of the layout.</summary>
    internal const uint Version = 1;

    /// <summary>Bytes of the first page.</summary>
    internal const int HeaderSize = 4096;

    /// <summary>Where RAM begins: the largest page a file mapping commonly has.</summary>
    internal const ulong RamOffset = 2 << 20;

    /// <summary>Most blocks of RAM. What fits the first page is more; machines have a handful.</summary>
    internal const int MaxBlocks = 256;

    private const int FixedSize = 64;
    private const int CrcOffset = HeaderSize - sizeof(uint);

    private readonly ulong[] _offsets;

    private SavedMachineLayout(ulong[] sizes)
    {
        Sizes = sizes;
        _offsets = new ulong[sizes.Length];
        ulong at = RamOffset;
        for (int i = 0; i < sizes.Length; i++)
        {
            _offsets[i] = at;
            at += sizes[i];
        }

        TailOffset = at;
    }

    /// <summary>Bytes of each block.</summary>
    internal IReadOnlyList<ulong> Sizes { get; }

    /// <summary>Where the tail begins: behind RAM.</summary>
    internal ulong TailOffset { get; }

    /// <summary>Pages of all blocks.</summary>
    internal ulong PageCount => (TailOffset - RamOffset) >> RamPage.Shift;

    /// <summary>The layout of a machine with these blocks.</summary>
    internal static SavedMachineLayout Of(IReadOnlyList<RamBlock> blocks) => blocks.Count <= MaxBlocks
        ? new SavedMachineLayout([.. blocks.Select(block => block.Size)])
        : throw new IOException($"A machine with {blocks.Count} blocks of RAM cannot be saved; the limit is {MaxBlocks}");

    /// <summary>Where a block begins.</summary>
    internal ulong OffsetOf(int block) => _offsets[block];

    /// <summary>Where a run begins; it must lie within its block.</summary>
    /// <exception cref="MigrationStreamException">It does not.</exception>
    internal ulong OffsetOf(in FrameHeader header, in PageRun run)
    {
        if ((uint)run.Block >= (uint)Sizes.Count)
            MigrationStreamException.Throw(header, "block", (ulong)run.Block, $"the machine has {Sizes.Count}");
        ulong pages = Sizes[run.Block] >> RamPage.Shift;
        if (run.FirstPage >= pages || run.Count > pages - run.FirstPage)
            MigrationStreamException.Throw(header, "first page", run.FirstPage, $"{run.Count} pages from there are not in a block of {pages}");
        return _offsets[run.Block] + (run.FirstPage << RamPage.Shift);
    }

    /// <summary>The first page of a complete file.</summary>
    internal byte[] Header(ulong tailBytes)
    {
        byte[] header = new byte[HeaderSize];
        BinaryPrimitives.WriteUInt64LittleEndian(header, Magic);
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(8), Version);
        BinaryPrimitives.WriteInt32LittleEndian(header.AsSpan(12), Sizes.Count);
        BinaryPrimitives.WriteUInt64LittleEndian(header.AsSpan(16), RamOffset);
        BinaryPrimitives.WriteUInt64LittleEndian(header.AsSpan(24), TailOffset);
        BinaryPrimitives.WriteUInt64LittleEndian(header.AsSpan(32), tailBytes);
        for (int i = 0; i < Sizes.Count; i++)
            BinaryPrimitives.WriteUInt64LittleEndian(header.AsSpan(FixedSize + (i * sizeof(ulong))), Sizes[i]);
        BinaryPrimitives.WriteUInt32LittleEndian(header.AsSpan(CrcOffset), Crc(header));
        return header;
    }

    /// <summary>Reads the first page of <paramref name="file"/>, which somebody else may have made.</summary>
    /// <exception cref="IOException">It is no complete saved machine; the text says why.</exception>
    internal static SavedMachineLayout Read(string path, SavedMachineFile file, out ulong tailBytes)
    {
        byte[] header = new byte[HeaderSize];
        ulong size = stat.Of(file.Descriptor).Size;
        if (size < HeaderSize)
            throw Bad($"it has {size} bytes; the first page alone has {HeaderSize}");
        file.Read(0, header);
        ulong magic = BinaryPrimitives.ReadUInt64LittleEndian(header);
        if (magic != Magic)
            throw Bad(magic == 0 ? "its first page was never written: the save did not come to its end" : $"it begins with 0x{magic:x16}, not with 0x{Magic:x16}");
        uint crc = BinaryPrimitives.ReadUInt32LittleEndian(header.AsSpan(CrcOffset));
        if (crc != Crc(header))
            throw Bad($"the CRC of its first page is {FrameHeader.Hex(crc)}; its bytes give {FrameHeader.Hex(Crc(header))}");
        uint version = BinaryPrimitives.ReadUInt32LittleEndian(header.AsSpan(8));
        if (version != Version)
            throw Bad($"its version is {version}; this program reads {Version}");
        uint count = BinaryPrimitives.ReadUInt32LittleEndian(header.AsSpan(12));
        if (count is 0 or > MaxBlocks)
            throw Bad($"it has {count} blocks of RAM; 1 to {MaxBlocks} are possible");
        ulong[] sizes = new ulong[count];
        ulong total = 0;
        for (int i = 0; i < sizes.Length; i++)
        {
            sizes[i] = BinaryPrimitives.ReadUInt64LittleEndian(header.AsSpan(FixedSize + (i * sizeof(ulong))));
            if (sizes[i] == 0 || sizes[i] % RamBlock.SizeUnit != 0 || sizes[i] > GuestRam.MaxTotalSize - total)
                throw Bad($"its block {i} has {sizes[i]} bytes; a positive multiple of {RamBlock.SizeUnit} is possible, and {GuestRam.MaxTotalSize} for all");
            total += sizes[i];
        }

        var layout = new SavedMachineLayout(sizes);
        ulong ram = BinaryPrimitives.ReadUInt64LittleEndian(header.AsSpan(16));
        ulong tail = BinaryPrimitives.ReadUInt64LittleEndian(header.AsSpan(24));
        tailBytes = BinaryPrimitives.ReadUInt64LittleEndian(header.AsSpan(32));
        if (ram != RamOffset || tail != layout.TailOffset)
            throw Bad($"RAM is at {ram} and the tail at {tail}; they belong at {RamOffset} and {layout.TailOffset}");
        if (size < tail || tailBytes > size - tail)
            throw Bad($"its tail has {tailBytes} bytes from {tail}, but the file ends at {size}");
        return layout;

        IOException Bad(string why) => new($"{path} is no saved machine that can be used: {why}");
    }

    private static uint Crc(ReadOnlySpan<byte> header)
    {
        uint crc = uint.MaxValue;
        foreach (byte value in header[..CrcOffset])
            crc = BitOperations.Crc32C(crc, value);
        return ~crc;
    }
}
