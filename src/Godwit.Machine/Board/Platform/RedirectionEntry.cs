namespace Godwit.Machine;

/// <summary>
/// A redirection entry of an I/O APIC (Intel 82093AA datasheet, 3.2.4; remappable format: VT-d 5.1.5.1): a 64-bit register, and the message
/// that it makes.
/// </summary>
internal readonly record struct RedirectionEntry(ulong Value)
{
    /// <summary>Masked, as after reset.</summary>
    public static RedirectionEntry Reset => new(MaskBit);

    private const ulong RemoteIrrBit = 1UL << 14;
    private const ulong ReadOnlyBits = RemoteIrrBit | (1UL << 12); // and the delivery status, which is always idle here
    private const ulong LogicalBit = 1UL << 11;
    private const ulong LevelBit = 1UL << 15;
    private const ulong MaskBit = 1UL << 16;
    private const ulong RemappableBit = 1UL << 48;
    private const ulong Implemented = 0xFFFF_0000_0001_FFFF;
    private const ulong Assert = 1UL << 14;

    public byte Vector => (byte)Value;

    public bool IsMasked => (Value & MaskBit) != 0;

    public bool IsLevel => (Value & LevelBit) != 0;

    /// <summary>A level interrupt has been sent and its end has not been told yet.</summary>
    public bool AwaitsEnd => (Value & RemoteIrrBit) != 0;

    /// <summary>The same with <see cref="AwaitsEnd"/> changed.</summary>
    public RedirectionEntry WithAwaitsEnd(bool awaits) => new(awaits ? Value | RemoteIrrBit : Value & ~RemoteIrrBit);

    /// <summary>What is left of a value that a guest writes. An entry that becomes edge-triggered waits for no end.</summary>
    public RedirectionEntry Write(ulong value)
    {
        var next = new RedirectionEntry((value & Implemented & ~ReadOnlyBits) | (Value & ReadOnlyBits));
        return next.IsLevel ? next : next.WithAwaitsEnd(false);
    }

    /// <summary>Whether a value is one that such a register can have.</summary>
    public static bool IsPossible(ulong value) => (value & ~Implemented) == 0 && new RedirectionEntry(value) is { IsLevel: true } or { AwaitsEnd: false };

    /// <summary>
    /// Address of the message: bits 63:48 go to 19:4, which is the destination, or format and index; bit 11 to 2. A logical destination counts
    /// only with the redirection hint (Intel SDM vol. 3, 11.11.1), bit 3, which in remappable format would mean a sub-handle.
    /// </summary>
    public ulong Address
    {
        get
        {
            ulong address = BoardLayout.InterruptBase.Value | ((Value >> 48) << 4);
            if ((Value & LogicalBit) == 0)
                return address;
            return address | 4 | ((Value & RemappableBit) == 0 ? 8u : 0);
        }
    }

    /// <summary>Data of the message: vector, delivery mode, trigger mode; the level is asserted.</summary>
    public uint Data => (uint)((Value & (0x7FF | LevelBit)) | Assert);
}
