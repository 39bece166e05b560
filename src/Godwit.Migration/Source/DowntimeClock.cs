namespace Godwit.Migration;

/// <summary>
/// Laps of the switchover: each part runs from the end of the one before, so that their sum is the time from the first to the last.
/// </summary>
internal sealed class DowntimeClock(TimeProvider clock)
{
    private long _last = clock.GetTimestamp();

    /// <summary>The parts so far.</summary>
    internal DowntimeParts Parts { get; private set; } = new();

    /// <summary>Ends the lap; <paramref name="record"/> puts its time where it belongs (adding to what is there).</summary>
    internal void Lap(Func<DowntimeParts, TimeSpan, DowntimeParts> record)
    {
        long now = clock.GetTimestamp();
        Parts = record(Parts, clock.GetElapsedTime(_last, now));
        _last = now;
    }
}
