namespace Godwit.Vfio;

/// <summary>The device's log of the pages that it writes (vfio.h, VFIO_DEVICE_FEATURE_DMA_LOGGING_*).</summary>
internal interface IDmaLog
{
    /// <summary>Whether start, stop and report are all offered.</summary>
    bool SupportsDmaLogging();

    /// <summary>Longest bitmap that one report can return, in bytes.</summary>
    int MaxReportBytes { get; }

    /// <summary>Arms the log over <paramref name="ranges"/> and returns the page size that the device chose.</summary>
    ulong StartDmaLogging(ulong pageSize, ReadOnlySpan<IovaPages> ranges);

    /// <summary>Disarms it; unread bits are gone.</summary>
    void StopDmaLogging();

    /// <summary>ORs the log of <paramref name="range"/> into <paramref name="bitmap"/>, bit 0 being its first page, and clears it in the device.</summary>
    void ReportDmaLog(IovaPages range, ulong pageSize, Span<ulong> bitmap);
}
