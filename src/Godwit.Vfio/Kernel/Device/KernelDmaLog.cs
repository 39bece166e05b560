using Godwit.Interop.Linux;

namespace Godwit.Vfio;

/// <summary>The DMA log of a kernel device (vfio.h, VFIO_DEVICE_FEATURE_DMA_LOGGING_START, _STOP and _REPORT).</summary>
internal sealed unsafe class KernelDmaLog(DeviceCalls device)
{
    /// <summary>Longest bitmap of one report: the kernel has no limit, ours covers 32 GiB of 4 KiB pages.</summary>
    public const int MaxReportBytes = 1 << 20;

    /// <summary>Whether all three are offered.</summary>
    public bool IsSupported() =>
        Has(vfio.VFIO_DEVICE_FEATURE_SET | vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_START)
        && Has(vfio.VFIO_DEVICE_FEATURE_SET | vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP)
        && Has(vfio.VFIO_DEVICE_FEATURE_GET | vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT);

    /// <summary>Arms it and returns the page size that the device chose.</summary>
    public ulong Start(ulong pageSize, ReadOnlySpan<IovaPages> ranges)
    {
        var list = new vfio_device_feature_dma_logging_range[ranges.Length];
        for (int i = 0; i < list.Length; i++)
            list[i] = new vfio_device_feature_dma_logging_range { iova = ranges[i].Iova.Value, length = ranges[i].Bytes };
        // SAFETY: pinned for the call, in which the kernel reads num_ranges entries.
        fixed (vfio_device_feature_dma_logging_range* pointer = list)
        {
            var control = new vfio_device_feature_dma_logging_control { page_size = pageSize, num_ranges = (uint)list.Length, ranges = (ulong)pointer };
            device.Throw(
                "VFIO_DEVICE_FEATURE_DMA_LOGGING_START", device.TryFeature(vfio.VFIO_DEVICE_FEATURE_SET | vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_START, ref control));
            return control.page_size;
        }
    }

    /// <summary>Disarms it.</summary>
    public void Stop() =>
        device.Throw("VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP", device.TryFeature(vfio.VFIO_DEVICE_FEATURE_SET | vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP));

    /// <summary>ORs the log of <paramref name="range"/> into <paramref name="bitmap"/> and clears it in the device.</summary>
    /// <exception cref="ArgumentException">The bitmap is too short.</exception>
    public void Report(IovaPages range, ulong pageSize, Span<ulong> bitmap)
    {
        ulong bits = (range.Bytes + (pageSize - 1)) / pageSize;
        if ((bits + 63) / 64 > (ulong)bitmap.Length)
            throw new ArgumentException($"{range} in pages of {pageSize} has {bits} bits; the bitmap has room for {(long)bitmap.Length * 64}", nameof(bitmap));
        // SAFETY: pinned for the call; checked to be as long as the kernel writes: one bit for each page of the range, in 64-bit words.
        fixed (ulong* pointer = bitmap)
        {
            var report = new vfio_device_feature_dma_logging_report { iova = range.Iova.Value, length = range.Bytes, page_size = pageSize, bitmap = (ulong)pointer };
            device.Throw(
                "VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT", device.TryFeature(vfio.VFIO_DEVICE_FEATURE_GET | vfio.VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT, ref report));
        }
    }

    private bool Has(uint feature)
    {
        Errno errno = device.TryFeature(vfio.VFIO_DEVICE_FEATURE_PROBE | feature);
        if (errno is not (Errno.None or Errno.ENOTTY or Errno.EINVAL))
            device.Throw("a probe of DMA logging", errno);
        return errno == Errno.None;
    }
}
