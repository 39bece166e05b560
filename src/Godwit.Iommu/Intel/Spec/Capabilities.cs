namespace Godwit.Iommu.Intel.Spec;

/// <summary>
/// The capability words, computed here from the options and nothing else (VT-d 11.4.2, 11.4.3). Interrupt remapping (ECAP.IR, EIM) and
/// scalable mode (ECAP.SMTS and with it bits 63:24) have their place here and read 0.
/// </summary>
internal static class Capabilities
{
    /// <summary>MAMV: a page-selective invalidation covers at most 2^18 pages, 1 GiB.</summary>
    internal const int MaxAddressMask = 18;

    private const ulong DomainIds16Bit = 6;                  // ND 2:0
    private const ulong CachingMode = 1UL << 7;              // CM
    private const int SagawShift = 8;                        // SAGAW 12:8
    private const int MgawShift = 16;                        // MGAW 21:16
    private const int FaultOffsetShift = 24;                 // FRO 33:24
    private const ulong SecondStageLargePages = 3UL << 34;   // SLLPS 2 MiB, 1 GiB
    private const ulong PageSelective = 1UL << 39;           // PSI
    private const int FaultCountShift = 40;                  // NFR 47:40
    private const int MaxAddressMaskShift = 48;              // MAMV 53:48
    private const ulong DrainWritesAndReads = 3UL << 54;     // DWD, DRD
    private const ulong EnhancedSetRootTable = 1UL << 63;    // ESRTPS

    private const ulong Coherent = 1UL << 0;                 // C
    private const ulong QueuedInvalidation = 1UL << 1;       // QI
    private const ulong PassThrough = 1UL << 6;              // PT
    private const int IotlbOffsetShift = 8;                  // IRO 17:8

    /// <summary>SAGAW: bit 1 three levels (39 bits), bit 2 four levels (48 bits).</summary>
    internal static ulong SupportedWidths(int addressWidth) => addressWidth == 48 ? 0b110UL : 0b010UL;

    /// <summary>CAP_REG.</summary>
    internal static ulong Capability(IntelIommuOptions options) =>
        DomainIds16Bit
        | (options.CachingMode ? CachingMode : 0)
        | (SupportedWidths(options.AddressWidth) << SagawShift)
        | ((ulong)(options.AddressWidth - 1) << MgawShift)
        | ((ulong)(RegisterOffsets.FaultRecords / 16) << FaultOffsetShift)
        | SecondStageLargePages
        | PageSelective
        | ((ulong)(RegisterOffsets.FaultRecordCount - 1) << FaultCountShift)
        | ((ulong)MaxAddressMask << MaxAddressMaskShift)
        | DrainWritesAndReads
        | EnhancedSetRootTable;

    /// <summary>ECAP_REG.</summary>
    internal static ulong ExtendedCapability(IntelIommuOptions options) =>
        Coherent
        | QueuedInvalidation
        | (options.PassThrough ? PassThrough : 0)
        | ((ulong)(RegisterOffsets.InvalidateAddress / 16) << IotlbOffsetShift);
}
