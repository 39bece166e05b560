using Godwit.Memory;

namespace Godwit.Iommu.Intel.Spec;

/// <summary>Root entry, 16 bytes, 256 by bus number (VT-d 9.1).</summary>
internal readonly record struct RootEntry(ulong Low, ulong High)
{
    internal bool IsPresent => (Low & 1) != 0;

    internal ulong ContextTable => Low & ~0xFFFUL;

    internal bool HasReservedBits(ulong hostWidthMask) => (Low & 0xFFE) != 0 || High != 0 || (ContextTable & ~hostWidthMask) != 0;
}

/// <summary>Context entry of legacy mode, 16 bytes, 256 by devfn (VT-d 9.3).</summary>
internal readonly record struct ContextEntry(ulong Low, ulong High)
{
    /// <summary>TT 00b: untranslated requests go through the second stage.</summary>
    internal const int SecondStage = 0;

    /// <summary>TT 01b: as 00b, and device TLBs may ask for translations. Legal when those are offered.</summary>
    internal const int SecondStageAndDeviceTlb = 1;

    /// <summary>TT 10b: untranslated requests pass through.</summary>
    internal const int PassThrough = 2;

    internal bool IsPresent => (Low & 1) != 0;

    internal bool FaultDisabled => (Low & 2) != 0;

    internal int TranslationType => (int)((Low >> 2) & 3);

    internal ulong Table => Low & ~0xFFFUL;

    /// <summary>AW: 1 is 39 bits in three levels, 2 is 48 bits in four, 3 is 57 bits in five.</summary>
    internal int AddressWidthCode => (int)(High & 7);

    internal ushort Domain => (ushort)(High >> 8);

    internal bool HasReservedBits(ulong hostWidthMask) => (Low & 0xFF0) != 0 || (High & ~0xFF_FF7FUL) != 0 || (Table & ~hostWidthMask) != 0;
}

/// <summary>Second-stage paging entry (VT-d 9.8).</summary>
internal readonly record struct SecondStageEntry(ulong Value)
{
    private const ulong PageSizeBit = 1UL << 7;
    private const ulong AddressBits = 0x000F_FFFF_FFFF_F000;

    /// <summary>R and W stand where the flags have theirs.</summary>
    internal AccessRights Rights => (AccessRights)(Value & 3);

    /// <summary>Neither readable nor writable is what "not present" means here (9.8).</summary>
    internal bool IsPresent => (Value & 3) != 0;

    /// <summary>Level 1 entries are leaves; PS makes one at levels 2 (2 MiB) and 3 (1 GiB).</summary>
    internal bool IsLeaf(int level) => level == 1 || (Value & PageSizeBit) != 0;

    internal ulong Table => Value & AddressBits;

    /// <summary>First byte of the page at a leaf of <paramref name="level"/>.</summary>
    internal ulong Page(int level) => Value & AddressBits & ~(PageBytes(level) - 1);

    internal static int PageShift(int level) => 12 + (9 * (level - 1));

    internal static ulong PageBytes(int level) => 1UL << PageShift(level);

    /// <summary>
    /// Reserved: bit 11 but in a leaf with <paramref name="snoopBit"/>, bit 7 above level 3, address bits above the width, address bits below
    /// the page in a leaf, and bit 62 (9.8; bits 61:52 and 63 are ignored).
    /// </summary>
    internal bool HasReservedBits(int level, ulong hostWidthMask, bool snoopBit)
    {
        ulong reserved = (1UL << 62) | (snoopBit && IsLeaf(level) ? 0 : 1UL << 11) | (AddressBits & ~hostWidthMask);
        if (level > 3)
            reserved |= PageSizeBit;
        else if (level > 1 && IsLeaf(level))
            reserved |= (PageBytes(level) - 1) & AddressBits;
        return (Value & reserved) != 0;
    }
}
