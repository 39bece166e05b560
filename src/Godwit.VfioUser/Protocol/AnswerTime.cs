namespace Godwit.VfioUser;

/// <summary>
/// The time that a peer has for its answers. Somebody looks at it once a period and gives up what is overdue; however long it is until he comes again, it goes on
/// by one period at most. So where this process was stopped, nothing is given up for the time in which nobody could take the answers that came. Any thread.
/// </summary>
/// <param name="clock">By which it goes.</param>
/// <param name="limit">What an answer may take, above zero.</param>
internal sealed class AnswerTime(TimeProvider clock, TimeSpan limit)
{
    /// <summary>Looks in the time that an answer may take: it may take so much longer, and in the middle of a message twice that.</summary>
    private const int LooksInLimit = 4;

    /// <summary>However long it may take.</summary>
    private static readonly TimeSpan LongestPeriod = TimeSpan.FromMinutes(1);

    /// <summary>However short: a timer counts milliseconds, and none at all is one that never comes again.</summary>
    private static readonly TimeSpan ShortestPeriod = TimeSpan.FromMilliseconds(1);

    private volatile LastLook _last = new(clock.GetTimestamp(), TimeSpan.Zero);

    /// <summary>From look to look.</summary>
    public TimeSpan Period { get; } =
        limit / LooksInLimit is var period && period < ShortestPeriod ? ShortestPeriod : period > LongestPeriod ? LongestPeriod : period;

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
