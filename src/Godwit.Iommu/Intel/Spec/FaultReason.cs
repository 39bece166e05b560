namespace Godwit.Iommu.Intel.Spec;

/// <summary>
/// Reasons of non-recoverable faults (VT-d 7.1.3, table of fault conditions). Behind each: its name in the specification. Absent are
/// those that need what the capabilities deny: requests with PASID, page requests, nested translation, execute requests, ATS,
/// second-stage A/D bits, and page walks that do not snoop (0x90).
/// </summary>
internal enum FaultReason : byte
{
    None = 0,

    // Legacy mode.
    RootNotPresent = 0x01,              // LRT.2
    ContextNotPresent = 0x02,           // LCT.2
    ContextInvalid = 0x03,              // LCT.4: width, type, or a root of the page table that cannot be read
    AddressBeyondWidth = 0x04,          // LGN.1
    WriteDenied = 0x05,                 // LGN.2
    ReadDenied = 0x06,                  // LGN.3
    TableAccess = 0x07,                 // LSS.1
    RootAccess = 0x08,                  // LRT.1
    ContextAccess = 0x09,               // LCT.1
    RootReserved = 0x0A,                // LRT.3
    ContextReserved = 0x0B,             // LCT.3
    TableReserved = 0x0C,               // LSS.2
    OutputInInterruptRange = 0x0E,      // LGN.4

    // Interrupt remapping.
    InterruptRequestReserved = 0x20,    // reserved bits in the request
    InterruptIndexBeyondTable = 0x21,   // index at or above the table's size
    InterruptEntryNotPresent = 0x22,    // P of the entry is 0
    InterruptTableAccess = 0x23,        // the entry cannot be read
    InterruptEntryReserved = 0x24,      // reserved bits in a present entry
    CompatibilityBlocked = 0x25,        // compatibility format while it is not let through
    InterruptSourceInvalid = 0x26,      // the requester is not the one that the entry names
    PostedDescriptorAccess = 0x27,      // a posted-interrupt descriptor cannot be read
    InterruptRangeMisused = 0x29,       // a request to 0xFEEx_xxxx that is no interrupt: a read, or a write of another size

    // Scalable mode.
    TableModeInvalid = 0x30,            // RTA.1
    AbortDma = 0x33,                    // RTA.4
    ScalableRootAccess = 0x38,          // SRT.1
    ScalableRootNotPresent = 0x39,      // SRT.2
    ScalableRootReserved = 0x3A,        // SRT.3
    ScalableContextAccess = 0x40,       // SCT.1
    ScalableContextNotPresent = 0x41,   // SCT.2
    ScalableContextReserved = 0x42,     // SCT.3
    ScalableContextInvalid = 0x43,      // SCT.4: RID_PASID lies beyond the directory
    PasidDirectoryAccess = 0x50,        // SPD.1
    PasidDirectoryNotPresent = 0x51,    // SPD.2
    PasidDirectoryReserved = 0x52,      // SPD.3
    PasidTableAccess = 0x58,            // SPT.1
    PasidEntryNotPresent = 0x59,        // SPT.2
    PasidEntryReserved = 0x5A,          // SPT.3
    PasidEntryInvalid = 0x5B,           // SPT.4
    FirstStageAccess = 0x70,            // SFS.1
    FirstStageNotPresent = 0x71,        // SFS.2
    FirstStageReserved = 0x72,          // SFS.3
    FirstStageRootAccess = 0x73,        // SFS.4
    SecondStageAccess = 0x78,           // SSS.1
    SecondStageDenied = 0x79,           // SSS.2: neither readable nor writable
    SecondStageReserved = 0x7A,         // SSS.3
    SecondStageRootAccess = 0x7B,       // SSS.4
    NotCanonical = 0x80,                // SGN.1
    PrivilegeDenied = 0x81,             // SGN.2
    ScalableBeyondWidth = 0x83,         // SGN.4
    SecondStageBeyondWidth = 0x84,      // SGN.5
    ScalableWriteDenied = 0x85,         // SGN.6
    ScalableReadDenied = 0x86,          // SGN.7
    ScalableOutputInInterruptRange = 0x87, // SGN.8
    FirstStageUpdateFailed = 0x91,      // SFS.10
}

/// <summary>What of the table matters to recording.</summary>
internal static class FaultReasons
{
    /// <summary>
    /// Qualified faults are not recorded when an entry met before has FPD set (VT-d 7.1.3, column "qualified"). The others happen where
    /// no FPD has been read yet.
    /// </summary>
    internal static bool IsQualified(this FaultReason reason) => reason is not (
        FaultReason.RootNotPresent or FaultReason.RootAccess or FaultReason.ContextAccess or FaultReason.RootReserved
        or FaultReason.InterruptRequestReserved or FaultReason.InterruptIndexBeyondTable or FaultReason.InterruptTableAccess
        or FaultReason.CompatibilityBlocked or FaultReason.InterruptRangeMisused or FaultReason.TableModeInvalid or FaultReason.AbortDma
        or FaultReason.ScalableRootAccess or FaultReason.ScalableRootNotPresent or FaultReason.ScalableRootReserved
        or FaultReason.ScalableContextAccess or FaultReason.PasidDirectoryAccess or FaultReason.PasidTableAccess);
}
