namespace Godwit.Machine.Tests;

/// <summary>A clock that moves when the test says so. Timers fire on the thread that moves it.</summary>
internal sealed class ManualTime : TimeProvider
{
    private readonly Lock _gate = new();
    private readonly List<ManualTimer> _timers = [];
    private long _now;

    public override long TimestampFrequency => 1_000_000_000;

    /// <summary>Released each time a timer is armed, so that a test knows that somebody waits.</summary>
    public SemaphoreSlim Armed { get; } = new(0);

    public override long GetTimestamp() => Interlocked.Read(ref _now);

    public override ITimer CreateTimer(TimerCallback callback, object? state, TimeSpan dueTime, TimeSpan period)
    {
        var timer = new ManualTimer(this, () => callback(state));
        lock (_gate)
            _timers.Add(timer);
        timer.Change(dueTime, period);
        return timer;
    }

    public void Advance(TimeSpan by)
    {
        ManualTimer[] due;
        lock (_gate)
        {
            Interlocked.Add(ref _now, by.Ticks * 100);
            due = [.. _timers.Where(t => t.DueAt <= _now)];
            foreach (ManualTimer timer in due)
                timer.DueAt = long.MaxValue;
        }

        foreach (ManualTimer timer in due)
            timer.Fire();
    }

    private sealed class ManualTimer(ManualTime time, Action fire) : ITimer
    {
        public long DueAt { get; set; } = long.MaxValue;

        public void Fire() => fire();

        public bool Change(TimeSpan dueTime, TimeSpan period)
        {
            lock (time._gate)
                DueAt = dueTime == Timeout.InfiniteTimeSpan ? long.MaxValue : time._now + (dueTime.Ticks * 100);
            if (dueTime != Timeout.InfiniteTimeSpan)
                time.Armed.Release();
            return true;
        }

        public void Dispose()
        {
            lock (time._gate)
                time._timers.Remove(this);
        }

        public ValueTask DisposeAsync()
        {
            Dispose();
            return ValueTask.CompletedTask;
        }
    }
}
