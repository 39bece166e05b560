namespace Godwit.VfioUser;

/// <summary>
/// The time that a peer has for its answers. Somebody looks at it once a period and gives up what is overdue; however long it is until he comes again, it goes on
/// by one period at most. So where this process was stopped, nothing is given up for the time in which nobody could take the answers that came. Any thread.
/// </summary>
/// <param name="clock">By which it goes.</param>
/// <param name="period">From look to look.</param>
internal sealed class AnswerTime(TimeProvider clock, TimeSpan period)
{
    private volatile LastLook _last = new(clock.GetTimestamp(), TimeSpan.Zero);

    /// <summary>From look to look.</summary>
    public TimeSpan Period { get; } = period;

    /// <summary>What it is now.</summary>
    public TimeSpan Now => At(clock.GetTimestamp());

    /// <summary>Looks. One thread at a time.</summary>
    public void Look()
    {
        long now = clock.GetTimestamp();
        _last = new LastLook(now, At(now));
    }

    private TimeSpan At(long timestamp)
    {
        LastLook last = _last;
        TimeSpan since = clock.GetElapsedTime(last.Timestamp, timestamp);
        return last.Time + (since < Period ? since : Period);
    }

    private sealed record LastLook(long Timestamp, TimeSpan Time);
}
