using System.Runtime.InteropServices;

namespace Godwit.Devices;

/// <summary>A submission queue entry, copied once out of guest memory (NVM Express Base 1.4, 4.2).</summary>
[StructLayout(LayoutKind.Explicit, Size = Size)]
internal readonly struct NvmeCommand
{
    /// <summary>Bytes of an entry.</summary>
    public const int Size = 64;

    /// <summary>log2 of <see cref="Size"/>; what CC.IOSQES must say.</summary>
    public const int SizeShift = 6;

    /// <summary>NSID that means every namespace.</summary>
    public const uint AllNamespaces = 0xFFFF_FFFF;

    [FieldOffset(0)] public readonly byte Opcode;
    [FieldOffset(1)] private readonly byte _flags;
    [FieldOffset(2)] public readonly ushort Id;
    [FieldOffset(4)] public readonly uint Namespace;
    [FieldOffset(24)] public readonly ulong Prp1;
    [FieldOffset(32)] public readonly ulong Prp2;
    [FieldOffset(40)] public readonly uint Dword10;
    [FieldOffset(44)] public readonly uint Dword11;
    [FieldOffset(48)] public readonly uint Dword12;
    [FieldOffset(52)] public readonly uint Dword13;
    [FieldOffset(56)] public readonly uint Dword14;
    [FieldOffset(60)] public readonly uint Dword15;

    /// <summary>FUSE: not 0 marks half of a fused operation.</summary>
    public int Fused => _flags & 3;

    /// <summary>PSDT: 0 means PRPs, else SGLs.</summary>
    public int DataTransferKind => _flags >> 6;

    /// <summary>SLBA of the commands that have one (6.9 and others).</summary>
    public ulong StartBlock => Dword10 | ((ulong)Dword11 << 32);

    /// <summary>NLB as a count; the field is 0's based.</summary>
    public uint BlockCount => (Dword12 & 0xFFFF) + 1;

    /// <summary>FUA: the data must be on non-volatile media when the command completes.</summary>
    public bool ForceUnitAccess => (Dword12 & (1u << 30)) != 0;

    /// <summary>DEAC of Write Zeroes (6.17): the blocks may be deallocated.</summary>
    public bool Deallocate => (Dword12 & (1u << 25)) != 0;

    /// <summary>DTYPE of Write (6.15); 0 is no directive.</summary>
    public uint DirectiveType => (Dword12 >> 20) & 0xF;

    /// <summary>Copies an entry out of <paramref name="bytes"/>, which holds at least <see cref="Size"/> bytes.</summary>
    public static NvmeCommand Parse(ReadOnlySpan<byte> bytes) => MemoryMarshal.Read<NvmeCommand>(bytes);
}

/// <summary>A range of Dataset Management (NVM Express Base 1.4, 6.7.1).</summary>
[StructLayout(LayoutKind.Explicit, Size = Size)]
internal readonly struct DatasetRange
{
    /// <summary>Bytes of a range.</summary>
    public const int Size = 16;

    [FieldOffset(4)] public readonly uint BlockCount;
    [FieldOffset(8)] public readonly ulong StartBlock;
}
