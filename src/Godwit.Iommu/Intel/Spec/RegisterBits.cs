namespace Godwit.Iommu.Intel.Spec;

/// <summary>GCMD and GSTS (VT-d 11.4.4.1, 11.4.4.2): command and status share positions.</summary>
internal static class GlobalCommandBits
{
    internal const uint TranslationEnable = 1u << 31;
    internal const uint SetRootTablePointer = 1u << 30;
    internal const uint WriteBufferFlush = 1u << 27;
    internal const uint QueuedInvalidationEnable = 1u << 26;

    /// <summary>What GSTS shows of the commands that this unit has.</summary>
    internal const uint Kept = TranslationEnable | SetRootTablePointer | QueuedInvalidationEnable;
}

/// <summary>FSTS (VT-d 11.4.9.1).</summary>
internal static class FaultStatusBits
{
    internal const uint Overflow = 1u << 0;
    internal const uint Pending = 1u << 1;
    internal const uint QueueError = 1u << 4;
    internal const int FirstRecordShift = 8;
    internal const uint FirstRecordMask = 0xFF00;
}

/// <summary>Upper half of a fault record (VT-d 11.4.14).</summary>
internal static class FaultRecordBits
{
    /// <summary>F.</summary>
    internal const ulong Fault = 1UL << 63;

    /// <summary>T: the request was a read.</summary>
    internal const ulong Read = 1UL << 62;
}

/// <summary>FECTL and IECTL (VT-d 11.4.9.2, 11.4.10.6).</summary>
internal static class EventControlBits
{
    internal const uint Mask = 1u << 31;
    internal const uint Pending = 1u << 30;
}

/// <summary>ICS (VT-d 11.4.10.5).</summary>
internal static class CompletionStatusBits
{
    internal const uint WaitCompleted = 1u << 0;
}

/// <summary>CCMD (VT-d 11.4.5.1).</summary>
internal static class ContextCommandBits
{
    internal const ulong Invalidate = 1UL << 63;
    internal const int RequestShift = 61;
    internal const int ActualShift = 59;
    internal const ulong Global = 1;
    internal const ulong Domain = 2;
    internal const ulong Device = 3;
}

/// <summary>IOTLB_REG and IVA_REG (VT-d 11.4.8).</summary>
internal static class IotlbCommandBits
{
    internal const ulong Invalidate = 1UL << 63;
    internal const int RequestShift = 60;
    internal const int ActualShift = 57;
    internal const int DomainShift = 32;
    internal const ulong Global = 1;
    internal const ulong Domain = 2;
    internal const ulong Page = 3;
    internal const ulong AddressMaskMask = 0x3F;
}

/// <summary>IQA (VT-d 11.4.10.3).</summary>
internal static class QueueAddressBits
{
    internal const ulong BaseMask = ~0xFFFUL;
    internal const ulong SizeMask = 7;

    /// <summary>Bits 18:4 of IQH and IQT: the index of a 128-bit descriptor (11.4.10.1, 11.4.10.2).</summary>
    internal const ulong IndexMask = 0x7_FFF0;
}

/// <summary>Root table address (VT-d 11.4.6): bits 11:10 choose the table mode, of which this unit has legacy (0).</summary>
internal static class RootTableBits
{
    internal const ulong BaseMask = ~0xFFFUL;
}
