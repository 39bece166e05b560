using Godwit.Iommu.Intel.Spec;

namespace Godwit.Iommu.Intel.Interrupts;

/// <summary>An entry of the interrupt-remapping table in remapped format, 16 bytes (VT-d 9.9).</summary>
internal readonly record struct InterruptTableEntry(ulong Low, ulong High)
{
    internal const int Size = 16;

    private const ulong PresentBit = 1;
    private const ulong FaultDisableBit = 1 << 1;
    private const ulong LogicalBit = 1 << 2;
    private const ulong RedirectionHintBit = 1 << 3;
    private const ulong LevelBit = 1 << 4;
    private const ulong PostedBit = 1 << 15;               // IM: posted format, which CAP.PI denies (VT-d 9.10)
    private const ulong ReservedLow = 0xFF00_7000;         // 31:24 and 14:12
    private const ulong ReservedDestination = 0xFFFF_00FF_0000_0000; // xAPIC ids stand in 47:40
    private const ulong ReservedHigh = ~0xF_FFFFUL;        // above SVT
    private const int ReservedValidation = 3;              // SVT 11b

    internal bool IsPresent => (Low & PresentBit) != 0;

    internal bool FaultDisabled => (Low & FaultDisableBit) != 0;

    private int DeliveryMode => (int)(Low >> 5) & 7;

    private ushort SourceId => (ushort)High;

    private int SourceQualifier => (int)(High >> 16) & 3;

    private int SourceValidation => (int)(High >> 18) & 3;

    /// <summary>The reason not to use the entry for a request of <paramref name="requester"/>, in the order of VT-d 5.1.4; None to use it.</summary>
    internal FaultReason Check(ushort requester, bool extended)
    {
        if (!IsPresent)
            return FaultReason.InterruptEntryNotPresent;
        if (SourceValidation != ReservedValidation && !Accepts(requester))
            return FaultReason.InterruptSourceInvalid;
        return HasReservedBits(extended) ? FaultReason.InterruptEntryReserved : FaultReason.None;
    }

    internal InterruptMessage ToMessage(bool extended) => new(
        extended ? (uint)(Low >> 32) : (byte)(Low >> 40),
        extended,
        (Low & LogicalBit) != 0,
        (Low & RedirectionHintBit) != 0,
        DeliveryMode,
        (byte)(Low >> 16),
        (Low & LevelBit) != 0);

    /// <summary>Posted format, delivery modes 3 and 6 and source validation 3 are encodings that this unit reserves.</summary>
    private bool HasReservedBits(bool extended) =>
        (Low & (ReservedLow | PostedBit)) != 0
        || (!extended && (Low & ReservedDestination) != 0)
        || (High & ReservedHigh) != 0
        || DeliveryMode is 3 or 6
        || SourceValidation == ReservedValidation;

    /// <summary>SVT and SQ.</summary>
    private bool Accepts(ushort requester)
    {
        switch (SourceValidation)
        {
            case 0:
                return true;
            case 1:
                // SQ 1, 2, 3 ignore bit 2, bits 2:1, bits 2:0 of the function number.
                int ignored = SourceQualifier switch { 0 => 0, 1 => 4, 2 => 6, _ => 7 };
                return ((requester ^ SourceId) & ~ignored) == 0;
            default:
                int bus = requester >> 8;
                return bus >= SourceId >> 8 && bus <= (SourceId & 0xFF);
        }
    }
}
