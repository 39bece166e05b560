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

    /// <summary>Waits until somebody has set a timer.</summary>
    public void AwaitTimer() => Assert.True(SpinWait.SpinUntil(() =>
    {
        lock (_gate)
            return _timers.Count != 0;
    }, TestServer.Patience));

    private sealed class ManualTimer(ManualClock clock, Action fire) : ITimer
    {
        private long _dueAt;
        private long _period;

        public bool Change(TimeSpan dueTime, TimeSpan period)
        {
            _dueAt = dueTime == Timeout.InfiniteTimeSpan ? long.MaxValue : clock.GetTimestamp() + dueTime.Ticks;
            _period = period.Ticks;
            return true;
        }

        public bool IsDue(long now)
        {
            if (now < _dueAt)
                return false;
            _dueAt = _period < 0 ? long.MaxValue : now + _period; // once
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

/// <summary>Time that leaps whenever somebody looks: every limit has passed at the first look.</summary>
internal sealed class LeapingClock(TimeSpan leap) : TimeProvider
{
    private long _now;

    public override long TimestampFrequency => TimeSpan.TicksPerSecond;

    public override long GetTimestamp() => Interlocked.Add(ref _now, leap.Ticks);
}

/// <summary>Ordinary time, and something that happens when somebody looks.</summary>
internal sealed class InterruptedClock : TimeProvider
{
    private Action? _interrupt;

    /// <summary>What happens at the next look, once, on the thread that looks.</summary>
    public Action? Interrupt
    {
        get => Volatile.Read(ref _interrupt);
        set => Volatile.Write(ref _interrupt, value);
    }

    public override long GetTimestamp()
    {
        Interlocked.Exchange(ref _interrupt, null)?.Invoke();
        return base.GetTimestamp();
    }
}
