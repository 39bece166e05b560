namespace Godwit.Migration;

/// <summary>The bandwidth of one migration, shared by all its connections. Any thread.</summary>
/// <param name="clock">The clock.</param>
/// <param name="rate">Bytes a second now; 0 for no limit.</param>
internal sealed class Bandwidth(TimeProvider clock, Func<long> rate)
{
    private readonly Lock _gate = new();
    private readonly TokenBucket _bucket = new(clock);

    /// <summary>The limit now; 0 for none.</summary>
    internal long BytesPerSecond => rate();

    /// <summary>Records bytes that were sent; returns how long to wait before more are.</summary>
    internal TimeSpan Take(long bytes)
    {
        lock (_gate)
            return _bucket.Take(bytes, rate());
    }

    /// <summary>How long still to wait, at a rate that may have changed since.</summary>
    internal TimeSpan Remaining()
    {
        lock (_gate)
            return _bucket.Remaining(rate());
    }
}
