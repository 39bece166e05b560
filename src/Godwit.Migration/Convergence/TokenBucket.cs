namespace Godwit.Migration;

/// <summary>
/// Keeps the bytes sent to a rate. Takes are never refused: they may put the bucket in debt, and the answer is how long to wait until it is
/// paid, so that the average is exact whatever the sizes. For one thread.
/// </summary>
internal sealed class TokenBucket(TimeProvider clock)
{
    // What may be saved up while nothing is sent. Small, so that a pause does not turn into a burst.
    private static readonly TimeSpan Depth = TimeSpan.FromMilliseconds(20);

    private double _tokens;
    private long _filledAt = clock.GetTimestamp();
    private long _rate;

    /// <summary>Takes <paramref name="bytes"/> at <paramref name="rate"/> bytes a second (0: no limit); returns how long to wait.</summary>
    internal TimeSpan Take(long bytes, long rate)
    {
        Refill(rate);
        if (rate == 0)
            return TimeSpan.Zero;
        _tokens -= bytes;
        return Debt(rate);
    }

    /// <summary>How long still to wait, at a rate that may have changed since.</summary>
    internal TimeSpan Remaining(long rate)
    {
        Refill(rate);
        return rate == 0 ? TimeSpan.Zero : Debt(rate);
    }

    private TimeSpan Debt(long rate) => _tokens >= 0 ? TimeSpan.Zero : TimeSpan.FromSeconds(-_tokens / rate);

    private void Refill(long rate)
    {
        long now = clock.GetTimestamp();
        // The time that has passed was under the old rate.
        _tokens = Math.Min(_tokens + (clock.GetElapsedTime(_filledAt, now).TotalSeconds * _rate), Depth.TotalSeconds * rate);
        _filledAt = now;
        if (rate == 0)
            _tokens = 0; // no limit, so no debt either
        _rate = rate;
    }
}
