using System.Diagnostics;

namespace Godwit.VfioUser.Bench;

/// <summary>How long each of many equal operations took, one after another, and what they allocated.</summary>
internal readonly record struct Sample(double PerSecond, double Median, double P99, double P999, double AllocatedBytes)
{
    /// <summary>Most durations kept; a longer run keeps the first ones.</summary>
    private const int MaxKept = 4_000_000;

    private static readonly long[] Kept = new long[MaxKept];

    /// <summary>Does <paramref name="operation"/> for a while, after a shorter while of warming up.</summary>
    public static Sample Take(TimeSpan time, Action operation)
    {
        for (long start = Stopwatch.GetTimestamp(); Stopwatch.GetElapsedTime(start) < time / 4;)
            operation();
        int count = 0;
        long allocated = GC.GetTotalAllocatedBytes(precise: true);
        long began = Stopwatch.GetTimestamp();
        long last = began;
        long end = began + (long)(time.TotalSeconds * Stopwatch.Frequency);
        while (last < end && count < MaxKept)
        {
            operation();
            long now = Stopwatch.GetTimestamp();
            Kept[count++] = now - last;
            last = now;
        }
        allocated = GC.GetTotalAllocatedBytes(precise: true) - allocated;
        Span<long> durations = Kept.AsSpan(0, count);
        durations.Sort();
        return new Sample(
            count / Stopwatch.GetElapsedTime(began, last).TotalSeconds,
            Microseconds(durations[count / 2]),
            Microseconds(durations[(int)(count * 0.99)]),
            Microseconds(durations[(int)(count * 0.999)]),
            (double)allocated / count);
    }

    /// <summary>One row of the table.</summary>
    public void Print(string name, Sample? floor)
    {
        string ratio = floor is { } least ? $"{PerSecond / least.PerSecond * 100,5:F0} %" : "";
        Console.WriteLine($"{name,-34} | {PerSecond,9:F0} | {ratio,8} | {Median,7:F1} | {P99,7:F1} | {P999,7:F1} | {AllocatedBytes,6:F2}");
    }

    private static double Microseconds(long ticks) => ticks * 1e6 / Stopwatch.Frequency;
}
