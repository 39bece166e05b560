namespace Godwit.Iommu.Intel.Spec;

/// <summary>Fault reasons of legacy mode (VT-d 7.1.3, table of non-recoverable fault conditions).</summary>
internal enum FaultReason : byte
{
    None = 0,
    RootNotPresent = 0x1,
    ContextNotPresent = 0x2,
    ContextInvalid = 0x3,
    AddressBeyondWidth = 0x4,
    WriteDenied = 0x5,
    ReadDenied = 0x6,
    TableAccess = 0x7,
    RootAccess = 0x8,
    ContextAccess = 0x9,
    RootReserved = 0xA,
    ContextReserved = 0xB,
    TableReserved = 0xC,
    OutputInInterruptRange = 0xE,
}

/// <summary>What of the table matters to recording.</summary>
internal static class FaultReasons
{
    /// <summary>Qualified faults are not recorded when the context entry has FPD set (VT-d 7.1.3, column "qualified").</summary>
    internal static bool IsQualified(this FaultReason reason) => reason is not (
        FaultReason.RootNotPresent or FaultReason.RootAccess or FaultReason.ContextAccess or FaultReason.RootReserved);
}
