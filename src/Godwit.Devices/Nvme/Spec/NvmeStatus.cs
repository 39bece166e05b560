namespace Godwit.Devices;

/// <summary>
/// Status code type (bits 10:8) and status code (bits 7:0) of a completion (NVM Express Base 1.4, 4.6.1).
/// </summary>
internal enum NvmeStatus : ushort
{
    Success = 0x000,
    InvalidOpcode = 0x001,
    InvalidField = 0x002,
    CommandIdConflict = 0x003,
    DataTransferError = 0x004,
    InternalError = 0x006,
    AbortRequested = 0x007,
    InvalidNamespace = 0x00B,
    CommandSequenceError = 0x00C,
    PrpOffsetInvalid = 0x013,
    LbaOutOfRange = 0x080,
    CapacityExceeded = 0x081,

    CompletionQueueInvalid = 0x100,
    InvalidQueueIdentifier = 0x101,
    InvalidQueueSize = 0x102,
    AsyncEventLimitExceeded = 0x105,
    InvalidInterruptVector = 0x108,
    InvalidLogPage = 0x109,
    InvalidQueueDeletion = 0x10C,
    FeatureNotSaveable = 0x10D,
    FeatureNotChangeable = 0x10E,

    WriteFault = 0x280,
    UnrecoveredReadError = 0x281,
    CompareFailure = 0x285,
}

/// <summary>The 15 bits of a completion's status field above the phase tag.</summary>
internal static class StatusField
{
    /// <summary>M: the error log has an entry about it.</summary>
    public const ushort More = 1 << 13;

    /// <summary>DNR: the same command would fail again.</summary>
    public const ushort DoNotRetry = 1 << 14;

    /// <summary>The whole field for <paramref name="status"/>.</summary>
    public static ushort Of(NvmeStatus status) => status switch
    {
        NvmeStatus.Success => 0,

        // What a host may cure, by mapping the memory or by freeing space, or what may pass by itself.
        NvmeStatus.DataTransferError or NvmeStatus.InternalError or NvmeStatus.AbortRequested or NvmeStatus.CapacityExceeded
            or NvmeStatus.WriteFault or NvmeStatus.UnrecoveredReadError => (ushort)((ushort)status | More),

        _ => (ushort)((ushort)status | More | DoNotRetry),
    };
}
