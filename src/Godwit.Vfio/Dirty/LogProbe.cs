using System.Numerics;

namespace Godwit.Vfio;

/// <summary>
/// Finds out what a log accepts that has refused to cover everything, by real starts that are stopped at once: some hundred round trips at
/// most, once, when the device is plugged. Must not run while the log is in use.
/// </summary>
internal sealed class LogProbe(IDmaLog log)
{
    private ulong _pageBytes = 4096;

    /// <summary>The limits.</summary>
    /// <param name="endPage">End of what can be mapped.</param>
    /// <param name="refusal">What the device answered about all of it; null when that was not asked.</param>
    public DeviceLogLimits Run(ulong endPage, string? refusal)
    {
        int top = BitOperations.Log2(Math.Min(endPage, IovaPages.SpacePages - 1));
        int most = top;
        while (most >= 0 && !Accepts(1, 1UL << most, 0))
            most--;
        if (most < 0)
            return new DeviceLogLimits { TakesAnything = false, Refusal = refusal ?? "any range" };
        int least = 0;
        while (least < most && !Accepts(1, 1UL << least, 0))
            least++;

        // Adjacent ranges, so that a device that joins them has nothing to object to.
        int low = 1, high = (int)Math.Min(DeviceLogLimits.KernelMaxRanges, 1UL << most);
        while (low < high)
        {
            int middle = (low + high + 1) / 2;
            ulong each = Math.Max(1, ((1UL << least) + (ulong)middle - 1) / (ulong)middle);
            if (each * (ulong)middle <= 1UL << most && Accepts(middle, each, 0))
                low = middle;
            else
                high = middle - 1;
        }

        ulong half = Math.Max(1, (1UL << least) / 2);
        ulong gap = (1UL << top) - 2 * half;
        bool gapsCount = low > 1 && most < top && !Accepts(2, half, gap);
        return new DeviceLogLimits
        {
            MaxRanges = low,
            MinSpanBytes = 1UL << (least + IovaPages.Shift),
            MaxSpanBytes = 1UL << (most + IovaPages.Shift),
            SpanIncludesGaps = gapsCount,
            PageBytes = _pageBytes,
            Refusal = refusal,
        };
    }

    private bool Accepts(int count, ulong pages, ulong gap)
    {
        Span<IovaPages> ranges = stackalloc IovaPages[count];
        for (int i = 0; i < count; i++)
            ranges[i] = new IovaPages((ulong)i * (pages + gap), pages);
        try
        {
            _pageBytes = log.StartDmaLogging(4096, ranges);
        }
        catch (DeviceRefusedException)
        {
            return false;
        }

        log.StopDmaLogging();
        return true;
    }
}
