using System.Runtime.InteropServices;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Stress;

/// <summary>What a command does.</summary>
internal enum CommandKind : byte
{
    Read,
    Write,
    Flush,
    WriteZeroes,
    Deallocate,
}

/// <summary>Where a slot is in its life.</summary>
internal enum SlotState : byte
{
    Free,
    InFlight,
    Done,
}

/// <summary>One command, in guest RAM; its number is the command id.</summary>
[StructLayout(LayoutKind.Sequential, Size = 128)]
internal struct CommandSlot
{
    public const int Size = 128;
    public const uint NoChurnBuffer = uint.MaxValue;

    public SlotState State;
    public CommandKind Kind;
    public byte Order;

    /// <summary>It holds an IOVA that is to be unmapped and given back.</summary>
    public bool Mapped;
    public ushort Status;
    public ushort PageCount;

    /// <summary>First byte of the data in the first page.</summary>
    public uint Offset;
    public uint BlockCount;
    public ulong Block;
    public ulong Generation;
    public Iova Iova;
    public ulong StartedAt;

    /// <summary>The churn buffer it uses instead of pages of its own, or <see cref="NoChurnBuffer"/>.</summary>
    public uint ChurnBuffer;

    public uint Reserved;

    /// <summary>Its page for a PRP list and that page's address for the device, mapped for good.</summary>
    public Gpa PrpList;
    public ulong PrpListDma;
}

/// <summary>What the guest knows of a block, packed into one word: generation 47:0, content 49:48, written now 50, readers 63:56.</summary>
internal static class BlockState
{
    public const ulong GenerationMask = (1UL << 48) - 1;
    public const ulong Unknown = 0;
    public const ulong Pattern = 1UL << 48;
    public const ulong Zero = 2UL << 48;
    public const ulong ContentMask = 3UL << 48;
    public const ulong Writing = 1UL << 50;
    public const ulong OneReader = 1UL << 56;
    public const ulong ReadersMask = 0xFFUL << 56;
}

/// <summary>A buffer that stays mapped for both directions and is moved to other pages while no command uses it.</summary>
[StructLayout(LayoutKind.Sequential, Size = 64)]
internal struct ChurnBuffer
{
    public const int Size = 64;
    public const int Pages = 4;
    public const int Order = 2;

    public Iova Iova;
    public bool Busy;
    public ulong Page0;
    public ulong Page1;
    public ulong Page2;
    public ulong Page3;

    public ulong this[int index]
    {
        readonly get => index switch { 0 => Page0, 1 => Page1, 2 => Page2, _ => Page3 };
        set
        {
            switch (index)
            {
                case 0: Page0 = value; break;
                case 1: Page1 = value; break;
                case 2: Page2 = value; break;
                default: Page3 = value; break;
            }
        }
    }
}
