using System.Globalization;

namespace Godwit.Migration.Bench;

/// <summary>What a process has used.</summary>
/// <param name="CpuSeconds">Processor time.</param>
/// <param name="PeakBytes">Most resident memory beside guest RAM: the peak of all (VmHWM) less the shared memory resident now (RssShmem).</param>
internal readonly record struct Usage(double CpuSeconds, long PeakBytes)
{
    /// <summary>Of this process until now.</summary>
    public static Usage Now()
    {
        long peak = 0;
        long shared = 0;
        foreach (string line in File.ReadLines("/proc/self/status"))
        {
            if (line.StartsWith("VmHWM:", StringComparison.Ordinal))
                peak = Kilobytes(line);
            else if (line.StartsWith("RssShmem:", StringComparison.Ordinal))
                shared = Kilobytes(line);
        }

        return new Usage(Environment.CpuUsage.TotalTime.TotalSeconds, (peak - shared) << 10);
    }

    /// <summary>Reads what <see cref="ToString"/> wrote.</summary>
    public static Usage Parse(string text)
    {
        string[] parts = text.Split(' ');
        return new Usage(double.Parse(parts[0], CultureInfo.InvariantCulture), long.Parse(parts[1], CultureInfo.InvariantCulture));
    }

    /// <inheritdoc/>
    public override string ToString() => string.Create(CultureInfo.InvariantCulture, $"{CpuSeconds:R} {PeakBytes}");

    private static long Kilobytes(string line) =>
        long.Parse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture);
}

/// <summary>One run.</summary>
internal readonly record struct Sample(TimeSpan Time, TimeSpan Downtime, double CpuSeconds, double Resident);
