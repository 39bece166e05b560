namespace Godwit.VfioUser.Tests;

/// <summary>Time that passes only when the test says so.</summary>
internal sealed class ManualClock : TimeProvider
{
    private readonly Lock _gate = new();
    private readonly List<ManualTimer> _timers = [];
    private long _now;

    public override long TimestampFrequency => TimeSpan.TicksPerSecond;

    public override long GetTimestamp() => Volatile.Read(ref _now);

    public override ITimer CreateTimer(TimerCallback callback, object? state, TimeSpan dueTime, TimeSpan period)
    {
        var timer = new ManualTimer(this, () => callback(state));
        timer.Change(dueTime, period);
        lock (_gate)
            _timers.Add(timer);
        return timer;
    }

    public void Advance(TimeSpan by)
    {
        ManualTimer[] due;
        lock (_gate)
        {
            _now += by.Ticks;
            due = [.. _timers.Where(t => t.IsDue(_now))];
        }
        foreach (ManualTimer timer in due)
            timer.Fire();
    }

    private sealed class ManualTimer(ManualClock clock, Action fire) : ITimer
    {
        private long _dueAt;
        private long _period;

        public bool Change(TimeSpan dueTime, TimeSpan period)
        {
            _dueAt = clock.GetTimestamp() + dueTime.Ticks;
            _period = period.Ticks;
            return true;
        }

        public bool IsDue(long now)
        {
            if (now < _dueAt)
                return false;
            _dueAt = now + _period;
            return true;
        }

        public void Fire() => fire();

        public void Dispose()
        {
            lock (clock._gate)
                clock._timers.Remove(this);
        }

        public ValueTask DisposeAsync()
        {
            Dispose();
            return ValueTask.CompletedTask;
        }
    }
}
