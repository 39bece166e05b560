namespace Godwit.Iommu.Intel.Spec;

/// <summary>GCMD and GSTS (VT-d 11.4.4.1, 11.4.4.2): command and status share positions.</summary>
internal static class GlobalCommandBits
{
    internal const uint TranslationEnable = 1u << 31;
    internal const uint SetRootTablePointer = 1u << 30;
    internal const uint WriteBufferFlush = 1u << 27;
    internal const uint QueuedInvalidationEnable = 1u << 26;
    internal const uint InterruptRemappingEnable = 1u << 25;
    internal const uint SetInterruptTablePointer = 1u << 24;
    internal const uint CompatibilityFormat = 1u << 23;

    /// <summary>What GSTS shows of the commands that each unit has.</summary>
    internal const uint Kept = SetRootTablePointer | QueuedInvalidationEnable;

    /// <summary>What it shows besides when interrupts can be remapped.</summary>
    internal const uint KeptOfInterrupts = InterruptRemappingEnable | SetInterruptTablePointer | CompatibilityFormat;
}

/// <summary>FSTS (VT-d 11.4.7.1).</summary>
internal static class FaultStatusBits
{
    internal const uint Overflow = 1u << 0;
    internal const uint Pending = 1u << 1;

    /// <summary>IQE: a descriptor or the queue itself is wrong.</summary>
    internal const uint QueueError = 1u << 4;

    /// <summary>ICE: a device TLB answered what was not asked. No device can here; always 0.</summary>
    internal const uint CompletionError = 1u << 5;

    /// <summary>ITE: a device TLB did not answer.</summary>
    internal const uint TimeoutError = 1u << 6;

    /// <summary>No descriptor is fetched while one of these is set (6.5.2.11).</summary>
    internal const uint QueueStopped = QueueError | TimeoutError;

    /// <summary>Everything that is a reason for the fault event (7.3).</summary>
    internal const uint Reasons = Overflow | Pending | QueueError | CompletionError | TimeoutError;

    internal const int FirstRecordShift = 8;
    internal const uint FirstRecordMask = 0xFF00;
}

/// <summary>Upper half of a fault record (VT-d 11.4.7.6).</summary>
internal static class FaultRecordBits
{
    /// <summary>F.</summary>
    internal const ulong Fault = 1UL << 63;

    /// <summary>T: the request was a read.</summary>
    internal const ulong Read = 1UL << 62;
}

/// <summary>FECTL and IECTL (VT-d 11.4.7.2, 11.4.9.5).</summary>
internal static class EventControlBits
{
    internal const uint Mask = 1u << 31;
    internal const uint Pending = 1u << 30;
}

/// <summary>ICS (VT-d 11.4.9.4).</summary>
internal static class CompletionStatusBits
{
    internal const uint WaitCompleted = 1u << 0;
}

/// <summary>CCMD (VT-d 11.4.6.1).</summary>
internal static class ContextCommandBits
{
    internal const ulong Invalidate = 1UL << 63;
    internal const int RequestShift = 61;
    internal const int ActualShift = 59;
    internal const ulong Global = 1;
    internal const ulong Domain = 2;
    internal const ulong Device = 3;
}

/// <summary>IOTLB_REG and IVA_REG (VT-d 11.4.6.2).</summary>
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

/// <summary>IQA (VT-d 11.4.9.3).</summary>
internal static class QueueAddressBits
{
    internal const ulong BaseMask = ~0xFFFUL;

    /// <summary>DW: descriptors have 256 bits. Reserved without scalable and abort-DMA mode.</summary>
    internal const ulong Wide = 1UL << 11;

    /// <summary>QS: the queue has 2^QS pages.</summary>
    internal const ulong SizeMask = 7;

    /// <summary>Bits 18:4 of IQH and IQT: the offset of a descriptor (11.4.9.1, 11.4.9.2).</summary>
    internal const ulong OffsetMask = 0x7_FFF0;
}

/// <summary>IQERCD (VT-d 11.4.9.9).</summary>
internal static class QueueErrorBits
{
    /// <summary>IQEI.</summary>
    internal const ulong InfoMask = 0xF;

    /// <summary>ITESID: the requester whose device TLB did not answer.</summary>
    internal const int TimeoutSourceShift = 32;

    internal const ulong TimeoutSourceMask = 0xFFFFUL << TimeoutSourceShift;
}

/// <summary>IQEI: what was wrong with the queue (VT-d 11.4.9.9).</summary>
internal enum QueueErrorInfo
{
    /// <summary>Not told. Here: the work that one register write may cause was used up.</summary>
    None = 0,
    TailBeyondQueue = 1,
    DescriptorAccess = 2,
    DescriptorType = 3,
    DescriptorReserved = 4,
    DescriptorWidth = 5,
    TailMisaligned = 6,
    TableModeInvalid = 7,
}

/// <summary>IRTA (VT-d 11.4.10).</summary>
internal static class InterruptTableBits
{
    internal const ulong BaseMask = ~0xFFFUL;

    /// <summary>EIME: destinations have 32 bits.</summary>
    internal const ulong Extended = 1UL << 11;

    /// <summary>S: the table has 2^(S + 1) entries.</summary>
    internal const ulong SizeMask = 0xF;
}

/// <summary>TTM, bits 11:10 of RTADDR (VT-d 11.4.5).</summary>
internal enum TableMode
{
    Legacy = 0,
    Scalable = 1,
    Reserved = 2,

    /// <summary>All DMA is aborted without a look at tables (3.4.4).</summary>
    AbortDma = 3,
}

/// <summary>RTADDR (VT-d 11.4.5), as written or as latched by SRTP.</summary>
internal readonly record struct RootPointer(ulong Value)
{
    /// <summary>Bits that a guest can write.</summary>
    internal const ulong Mask = ~0x3FFUL;

    internal ulong Table => Value & ~0xFFFUL;

    internal TableMode Mode => (TableMode)((Value >> 10) & 3);
}
