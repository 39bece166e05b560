namespace Godwit.Migration;

/// <summary>
/// Bytes a second that the link takes, from samples of whole rounds (up to the destination's ack, so that what only fills socket buffers does
/// not count). Old samples fade by the amount of data since, not by their number; only the first makes room for the next at once.
/// </summary>
internal sealed class RateEstimator
{
    /// <summary>Smaller rounds measure latency, not bandwidth, and do not count.</summary>
    internal const long SmallSample = 1 << 20;

    /// <summary>What is assumed before anything is known: a 1 Gbit/s link.</summary>
    internal const double Unknown = 125e6;

    // Samples lose half their weight with this many bytes after them.
    private const double HalfLife = 128 << 20;

    private double _bytes;
    private double _seconds;
    private int _samples;

    /// <summary>A sample has been added.</summary>
    internal bool IsKnown => _seconds > 0;

    /// <summary>The estimate.</summary>
    internal double BytesPerSecond => IsKnown ? _bytes / _seconds : Unknown;

    /// <summary>
    /// Adds a round. The first pays for all that is executed and touched for the first time, on both sides, and may be so long that no
    /// later one would outweigh it: it counts until there is another.
    /// </summary>
    internal void Add(long bytes, TimeSpan time)
    {
        if (bytes < SmallSample || time <= TimeSpan.Zero)
            return;
        double fade = ++_samples == 2 ? 0 : Math.Pow(0.5, bytes / HalfLife);
        _bytes = (_bytes * fade) + bytes;
        _seconds = (_seconds * fade) + time.TotalSeconds;
    }
}
