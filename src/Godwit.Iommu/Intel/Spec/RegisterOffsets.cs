namespace Godwit.Iommu.Intel.Spec;

/// <summary>Byte offsets in the register window (VT-d 11.4, table of registers).</summary>
internal static class RegisterOffsets
{
    internal const int Version = 0x00;
    internal const int Capability = 0x08;
    internal const int ExtendedCapability = 0x10;
    internal const int GlobalCommand = 0x18;
    internal const int GlobalStatus = 0x1C;
    internal const int RootTable = 0x20;
    internal const int ContextCommand = 0x28;
    internal const int FaultStatus = 0x34;
    internal const int FaultEventControl = 0x38;
    internal const int FaultEventData = 0x3C;
    internal const int FaultEventAddress = 0x40;
    internal const int FaultEventUpperAddress = 0x44;
    internal const int QueueHead = 0x80;
    internal const int QueueTail = 0x88;
    internal const int QueueAddress = 0x90;
    internal const int CompletionStatus = 0x9C;
    internal const int CompletionEventControl = 0xA0;
    internal const int CompletionEventData = 0xA4;
    internal const int CompletionEventAddress = 0xA8;
    internal const int CompletionEventUpperAddress = 0xAC;
    internal const int QueueErrorRecord = 0xB0;
    internal const int InterruptTable = 0xB8;

    /// <summary>IVA; CAP tells it as IRO x 16 (11.4.6.4).</summary>
    internal const int InvalidateAddress = 0xF0;

    /// <summary>IOTLB, 8 bytes after IVA (11.4.6.3).</summary>
    internal const int IotlbInvalidate = 0xF8;

    /// <summary>First fault record; CAP.FRO x 16 (11.4.7.6).</summary>
    internal const int FaultRecords = 0x220;

    /// <summary>Number of 16-byte fault records; CAP.NFR + 1.</summary>
    internal const int FaultRecordCount = 8;

    /// <summary>Bytes of the window: one page, of which the registers take the first 0x2A0.</summary>
    internal const int WindowSize = 0x1000;
}
