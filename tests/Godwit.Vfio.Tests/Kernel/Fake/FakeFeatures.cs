using System.Runtime.InteropServices;
using Godwit.Interop.Linux;
using Godwit.VfioUser;
using static Godwit.Interop.Linux.vfio;

namespace Godwit.Vfio.Tests;

/// <summary>VFIO_DEVICE_FEATURE (drivers/vfio/vfio_main.c, vfio_ioctl_device_feature).</summary>
internal static unsafe class FakeFeatures
{
    public static Errno Run(FakeVfioDevice device, Span<byte> argument)
    {
        int head = Marshal.SizeOf<vfio_device_feature>();
        var header = MemoryMarshal.Read<vfio_device_feature>(argument);
        bool get = (header.flags & VFIO_DEVICE_FEATURE_GET) != 0, set = (header.flags & VFIO_DEVICE_FEATURE_SET) != 0;
        bool probe = (header.flags & VFIO_DEVICE_FEATURE_PROBE) != 0;
        if (header.argsz < head || (!probe && get == set))
            return Errno.EINVAL;
        uint feature = header.flags & VFIO_DEVICE_FEATURE_MASK;
        (bool has, bool canGet, bool canSet, int size) = feature switch
        {
            VFIO_DEVICE_FEATURE_MIGRATION => (device.Traits.Migration != 0, true, false, Marshal.SizeOf<vfio_device_feature_migration>()),
            VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE => (device.Traits.Migration != 0, true, true, Marshal.SizeOf<vfio_device_feature_mig_state>()),
            VFIO_DEVICE_FEATURE_MIG_DATA_SIZE => (device.Traits.Migration != 0 && device.Traits.MigDataSize, true, false, 8),
            VFIO_DEVICE_FEATURE_DMA_LOGGING_START => (device.Traits.LogsDma, false, true, Marshal.SizeOf<vfio_device_feature_dma_logging_control>()),
            VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP => (device.Traits.LogsDma, false, true, 0),
            VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT => (device.Traits.LogsDma, true, false, Marshal.SizeOf<vfio_device_feature_dma_logging_report>()),
            _ => (false, false, false, 0),
        };
        if (!has)
            return Errno.ENOTTY;
        if ((get && !canGet) || (set && !canSet))
            return Errno.EINVAL;
        if (probe)
            return Errno.None;
        if (header.argsz - head < size)
            return Errno.EINVAL;
        Span<byte> data = argument[head..];
        switch (feature)
        {
            case VFIO_DEVICE_FEATURE_MIGRATION:
                MemoryMarshal.Write(data, (ulong)device.Traits.Migration);
                return Errno.None;
            case VFIO_DEVICE_FEATURE_MIG_DATA_SIZE:
                MemoryMarshal.Write(data, (ulong)device.Migration.Remaining);
                return Errno.None;
            case VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE when get:
                MemoryMarshal.Write(data, new vfio_device_feature_mig_state { device_state = (uint)device.Migration.State, data_fd = -1 });
                return Errno.None;
            case VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE:
                Errno errno = device.Migration.Set((DeviceMigrationState)MemoryMarshal.Read<vfio_device_feature_mig_state>(data).device_state, out int number);
                MemoryMarshal.Write(data, new vfio_device_feature_mig_state { device_state = (uint)device.Migration.State, data_fd = number });
                return errno;
            case VFIO_DEVICE_FEATURE_DMA_LOGGING_START:
                var control = MemoryMarshal.Read<vfio_device_feature_dma_logging_control>(data);
                errno = device.Log.Start(ref control);
                MemoryMarshal.Write(data, control);
                return errno;
            case VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP:
                return device.Log.Stop();
            default:
                return device.Log.Report(MemoryMarshal.Read<vfio_device_feature_dma_logging_report>(data));
        }
    }
}

/// <summary>A device's DMA log, within the kernel's limits (drivers/vfio/vfio_main.c, vfio_ioctl_device_feature_logging_start and _report).</summary>
internal sealed unsafe class FakeDmaLog
{
    private const ulong Page = 4096;

    private (ulong First, ulong Last)[]? _ranges;

    private readonly HashSet<ulong> _dirty = [];

    public bool Armed => _ranges is not null;

    /// <summary>Most that all ranges may have together; drivers of devices with a limit answer EOPNOTSUPP above it.</summary>
    public ulong MaxBytes { get; set; } = ulong.MaxValue;

    /// <summary>Reports a page that nobody wrote.</summary>
    public bool Invents { get; set; }

    /// <summary>Whether a second start, and more ranges than the kernel allows, are taken.</summary>
    public bool TakesAnyStart { get; set; }

    /// <summary>Whether a stop is taken when nothing is logged, as some drivers do.</summary>
    public bool TakesIdleStop { get; set; }

    public void Wrote(ulong iova, int length)
    {
        if (_ranges?.Any(r => r.First <= iova && iova <= r.Last) != true)
            return;
        for (ulong page = iova / Page; page <= (iova + (ulong)length - 1) / Page; page++)
            _dirty.Add(page);
    }

    public Errno Start(ref vfio_device_feature_dma_logging_control control)
    {
        if (control.num_ranges == 0 || control.__reserved != 0)
            return Errno.EINVAL;
        if (control.num_ranges > 256 && !TakesAnyStart)
            return Errno.E2BIG;
        if (_ranges is not null && !TakesAnyStart)
            return Errno.EINVAL;
        var ranges = new (ulong First, ulong Last)[control.num_ranges];
        var given = (vfio_device_feature_dma_logging_range*)control.ranges;
        for (int i = 0; i < ranges.Length; i++)
        {
            if (((given[i].iova | given[i].length) & (control.page_size - 1)) != 0 || given[i].length == 0)
                return Errno.EINVAL;
            if (given[i].iova + given[i].length < given[i].iova)
                return Errno.EOVERFLOW;
            ranges[i] = (given[i].iova, given[i].iova + (given[i].length - 1));
            for (int j = 0; j < i; j++)
            {
                if (ranges[j].First <= ranges[i].Last && ranges[i].First <= ranges[j].Last)
                    return Errno.EINVAL;
            }
        }

        if (ranges.Aggregate(0UL, (sum, r) => sum + (r.Last - r.First + 1)) > MaxBytes)
            return Errno.ENOTSUP;
        _ranges = ranges;
        _dirty.Clear();
        return Errno.None;
    }

    public Errno Stop()
    {
        if (_ranges is null && !TakesIdleStop)
            return Errno.EINVAL;
        Reset();
        return Errno.None;
    }

    public Errno Report(vfio_device_feature_dma_logging_report report)
    {
        if (report.page_size < Page || !ulong.IsPow2(report.page_size))
            return Errno.EINVAL;
        if (report.iova + report.length < report.iova)
            return Errno.EOVERFLOW;
        if (_ranges is null)
            return Errno.EINVAL;
        ulong first = report.iova, end = report.iova + report.length, size = report.page_size;
        foreach (ulong page in _dirty.Where(p => p * Page >= first && p * Page < end).ToArray())
        {
            ulong bit = (page * Page - first) / size;
            ((ulong*)report.bitmap)[bit / 64] |= 1UL << (int)(bit % 64);
            _dirty.Remove(page);
        }

        if (Invents)
            *(ulong*)report.bitmap |= 1;
        return Errno.None;
    }

    public void Reset()
    {
        _ranges = null;
        _dirty.Clear();
    }
}
