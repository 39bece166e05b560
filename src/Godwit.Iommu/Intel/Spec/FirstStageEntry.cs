namespace Godwit.Iommu.Intel.Spec;

/// <summary>
/// First-stage paging entry (VT-d 9.7), the format of x86 page tables. XD (63), PAT, PWT, PCD, G and EA mean nothing here: no execute
/// requests, no memory types, no extended accessed flag.
/// </summary>
internal readonly record struct FirstStageEntry(ulong Value)
{
    internal const ulong AccessedBit = 1UL << 5;
    internal const ulong DirtyBit = 1UL << 6;
    private const ulong PageSizeBit = 1UL << 7;
    private const ulong AddressBits = 0x000F_FFFF_FFFF_F000;
    private const ulong LargePatBit = 1UL << 12;

    internal bool IsPresent => (Value & 1) != 0;

    internal bool CanWrite => (Value & 2) != 0;

    /// <summary>U/S. Requests without PASID have user privilege (RPRIVS is 0).</summary>
    internal bool AllowsUser => (Value & 4) != 0;

    internal bool IsDirty => (Value & DirtyBit) != 0;

    internal ulong Table => Value & AddressBits;

    /// <summary>Level 1 entries are leaves; PS makes one at levels 2 (2 MiB) and 3 (1 GiB).</summary>
    internal bool IsLeaf(int level) => level == 1 || (Value & PageSizeBit) != 0;

    /// <summary>First byte of the page at a leaf of <paramref name="level"/>.</summary>
    internal ulong Page(int level) => Value & AddressBits & ~(SecondStageEntry.PageBytes(level) - 1);

    /// <summary>PS above level 3, and address bits below the page in a large leaf. Addresses have the 52 bits that the format has.</summary>
    internal bool HasReservedBits(int level)
    {
        if (level > 3)
            return (Value & PageSizeBit) != 0;
        return level > 1 && IsLeaf(level) && (Value & (SecondStageEntry.PageBytes(level) - 1) & AddressBits & ~LargePatBit) != 0;
    }
}
