namespace Godwit.Iommu.Intel.Spec;

/// <summary>
/// One half of a scalable-mode root entry, 8 of its 16 bytes: the lower half serves devfn 0 to 127, the upper 128 to 255 (VT-d 9.2).
/// </summary>
internal readonly record struct ScalableRootHalf(ulong Value)
{
    internal bool IsPresent => (Value & 1) != 0;

    internal ulong ContextTable => Value & ~0xFFFUL;

    internal bool HasReservedBits(ulong hostWidthMask) => (Value & 0xFFE) != 0 || (ContextTable & ~hostWidthMask) != 0;
}

/// <summary>Scalable-mode context entry, 32 bytes, 128 by the lower bits of devfn (VT-d 9.4). <paramref name="Rest"/> is the OR of its upper half.</summary>
internal readonly record struct ScalableContextEntry(ulong Low, ulong High, ulong Rest)
{
    internal const int Size = 32;

    private const ulong DeviceTlbBit = 1UL << 2;      // DTE
    private const ulong PasidBits = 0b11UL << 3;      // PASIDE and PRE: no requests with PASID, no page requests (ECAP.PASID and PRS are 0)
    private const ulong ReservedLow = 0b1111UL << 5;

    internal bool IsPresent => (Low & 1) != 0;

    internal bool FaultDisabled => (Low & 2) != 0;

    /// <summary>PDTS: the directory has 2^(PDTS + 7) entries.</summary>
    internal int DirectoryEntries => 1 << ((int)((Low >> 9) & 7) + 7);

    internal ulong Directory => Low & ~0xFFFUL;

    /// <summary>RID_PASID: the PASID of requests that carry none.</summary>
    internal uint RidPasid => (uint)High & 0xF_FFFF;

    /// <summary>Also what the capabilities deny: RID_PRIV (RPRIVS is 0), and DTE unless device TLBs are offered.</summary>
    internal bool HasReservedBits(ulong hostWidthMask, bool deviceTlb) =>
        (Low & (ReservedLow | PasidBits | (deviceTlb ? 0 : DeviceTlbBit))) != 0
        || (High & ~0xF_FFFFUL) != 0
        || Rest != 0
        || (Directory & ~hostWidthMask) != 0;
}

/// <summary>PASID directory entry, 8 bytes, by PASID bits 19:6 (VT-d 9.5).</summary>
internal readonly record struct PasidDirectoryEntry(ulong Value)
{
    internal bool IsPresent => (Value & 1) != 0;

    internal bool FaultDisabled => (Value & 2) != 0;

    internal ulong Table => Value & ~0xFFFUL;

    internal bool HasReservedBits(ulong hostWidthMask) => (Value & 0xFFC) != 0 || (Table & ~hostWidthMask) != 0;
}

/// <summary>PGTT of a PASID entry (VT-d 9.6). 0 and 5 to 7 are reserved.</summary>
internal enum PasidTranslation
{
    FirstStage = 1,
    SecondStage = 2,
    Nested = 3,
    PassThrough = 4,
}

/// <summary>
/// PASID table entry, 64 bytes, by PASID bits 5:0 (VT-d 9.6): three words that matter and the OR of the five that must be zero.
/// </summary>
internal readonly record struct PasidEntry(ulong Word0, ulong Word1, ulong Word2, ulong Rest)
{
    internal const int Words = 8;

    private const ulong SecondStageReserved = 0xE20;          // SSEE (5), SSADE (9) and 11:10: no execute requests, no second-stage A/D
    private const ulong DomainWordReserved = 0xFFFF_FFFF_FE7F_0000; // 86:80, and what belongs to memory types (MTS is 0)
    private const ulong PageSnoopBit = 1UL << 24;             // PGSNP (88); PWSNP (87) is legal because walks are coherent (SMPWCS)
    private const ulong FirstStageBits = ~0xFFFUL | 0x1C;       // FSPTPTR, WPE (132) and FSPM (131:130): reserved when ECAP.FSTS is 0
    private const ulong FirstStageReservedBits = 0xF82;       // ERE (129), EAFE (135) and 139:136

    internal bool IsPresent => (Word0 & 1) != 0;

    internal bool FaultDisabled => (Word0 & 2) != 0;

    /// <summary>AW: 1, 2, 3 for 3, 4, 5 levels of the second stage.</summary>
    internal int AddressWidthCode => (int)(Word0 >> 2) & 7;

    internal PasidTranslation Translation => (PasidTranslation)((Word0 >> 6) & 7);

    internal ulong SecondStageTable => Word0 & ~0xFFFUL;

    internal ushort Domain => (ushort)Word1;

    /// <summary>FSPM: 0 four levels, 1 five levels.</summary>
    internal int FirstStageMode => (int)(Word2 >> 2) & 3;

    internal ulong FirstStageTable => Word2 & ~0xFFFUL;

    internal static PasidEntry From(ReadOnlySpan<ulong> words) =>
        new(words[0], words[1], words[2], words[3] | words[4] | words[5] | words[6] | words[7]);

    internal bool HasReservedBits(ulong hostWidthMask, bool snoopControl, bool firstStage) =>
        (Word0 & SecondStageReserved) != 0
        || (Word1 & (DomainWordReserved | (snoopControl ? 0 : PageSnoopBit))) != 0
        || (Word2 & (FirstStageReservedBits | (firstStage ? 0 : FirstStageBits))) != 0
        || Rest != 0
        || ((SecondStageTable | FirstStageTable) & ~hostWidthMask) != 0;
}
