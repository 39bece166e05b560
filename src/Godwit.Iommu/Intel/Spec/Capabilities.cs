namespace Godwit.Iommu.Intel.Spec;

/// <summary>
/// The capability words, computed here from the options and nothing else (VT-d 11.4.2, 11.4.3). What has no name here reads 0: AFL,
/// RWBF, PLMR, PHMR, ZLR, PI, ECMDS; MTS, NEST, PRS, ERS, NWFS, EAFS, PSS, PASID, DIT, PDS, VCS, SSADS, RPRIVS, PMS.
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
    private const ulong SecondStageLargePages = 3UL << 34;   // SSLPS 2 MiB, 1 GiB
    private const ulong PageSelective = 1UL << 39;           // PSI
    private const int FaultCountShift = 40;                  // NFR 47:40
    private const int MaxAddressMaskShift = 48;              // MAMV 53:48
    private const ulong DrainWritesAndReads = 3UL << 54;     // DWD, DRD
    private const ulong FirstStage1GiB = 1UL << 56;          // FS1GP
    private const ulong FirstStage5Levels = 1UL << 60;       // FS5LP
    private const ulong EnhancedSetInterruptTable = 1UL << 62; // ESIRTPS
    private const ulong EnhancedSetRootTable = 1UL << 63;    // ESRTPS

    private const ulong Coherent = 1UL << 0;                 // C
    private const ulong QueuedInvalidation = 1UL << 1;       // QI
    private const ulong DeviceTlb = 1UL << 2;                // DT
    private const ulong InterruptRemapping = 1UL << 3;       // IR
    private const ulong ExtendedInterrupts = 1UL << 4;       // EIM
    private const ulong PassThrough = 1UL << 6;              // PT
    private const ulong SnoopControl = 1UL << 7;             // SC
    private const int IotlbOffsetShift = 8;                  // IRO 17:8
    private const ulong MaxHandleMask = 15UL << 20;          // MHMV 23:20
    private const ulong SupervisorRequests = 1UL << 31;      // SRS
    private const ulong ScalableMode = 1UL << 43;            // SMTS
    private const ulong SecondStage = 1UL << 46;             // SSTS
    private const ulong FirstStage = 1UL << 47;              // FSTS
    private const ulong ScalableCoherent = 1UL << 48;        // SMPWCS
    private const ulong RidPasid = 1UL << 49;                // RPS
    private const ulong AbortDma = 1UL << 52;                // ADMS

    /// <summary>SAGAW: bit 1 three levels (39 bits), bit 2 four (48 bits), bit 3 five (57 bits). Narrower tables stay legal.</summary>
    internal static ulong SupportedWidths(IntelIommuOptions options) => options switch
    {
        { DmaTranslation: false } => 0,
        { AddressWidth: 57 } => 0b1110,
        { AddressWidth: 48 } => 0b0110,
        _ => 0b0010,
    };

    /// <summary>CAP_REG.</summary>
    internal static ulong Capability(IntelIommuOptions options) =>
        DomainIds16Bit
        | If(options.CachingMode, CachingMode)
        | (SupportedWidths(options) << SagawShift)
        | ((ulong)(options.AddressWidth - 1) << MgawShift)
        | ((ulong)(RegisterOffsets.FaultRecords / 16) << FaultOffsetShift)
        | SecondStageLargePages
        | PageSelective
        | ((ulong)(RegisterOffsets.FaultRecordCount - 1) << FaultCountShift)
        | ((ulong)MaxAddressMask << MaxAddressMaskShift)
        | DrainWritesAndReads
        | If(options.HasFirstStage, FirstStage1GiB)
        | If(options.HasFirstStage && options.AddressWidth == 57, FirstStage5Levels)
        | If(options.InterruptRemapping, EnhancedSetInterruptTable)
        | EnhancedSetRootTable;

    /// <summary>ECAP_REG.</summary>
    internal static ulong ExtendedCapability(IntelIommuOptions options) =>
        Coherent
        | QueuedInvalidation
        | If(options.DeviceIotlb, DeviceTlb)
        | If(options.InterruptRemapping, InterruptRemapping | MaxHandleMask)
        | If(options.ExtendedInterruptMode, ExtendedInterrupts)
        | If(options.PassThrough && options.DmaTranslation, PassThrough)
        | If(options.SnoopControl, SnoopControl)
        | ((ulong)(RegisterOffsets.InvalidateAddress / 16) << IotlbOffsetShift)
        // SRS: a driver may set SRE in a PASID entry; requests without PASID have user privilege whatever it says (VT-d 9.6, RPRIVS is 0).
        | If(options.ScalableMode, SupervisorRequests | ScalableMode | SecondStage | ScalableCoherent | RidPasid)
        | If(options.HasFirstStage, FirstStage)
        | If(options.DmaTranslation, AbortDma);

    private static ulong If(bool condition, ulong bits) => condition ? bits : 0;
}
