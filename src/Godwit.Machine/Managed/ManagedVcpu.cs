using System.Buffers;
using Godwit.Iommu.Intel;

namespace Godwit.Machine.Managed;

/// <summary>
/// A vCPU that is a thread executing a <see cref="GuestProgram"/>. It looks at stop requests, interrupts and its timer between steps;
/// MMIO exits run on it.
/// </summary>
internal sealed class ManagedVcpu : GuestCpu, IVcpu
{
    /// <summary>A step and its MMIO exits are shallow; a machine may have a thousand of these threads.</summary>
    private const int StackBytes = 1 << 20;

    /// <summary>How long a throttled vCPU executes at a time: long beside a step, short beside what a guest's watchdogs allow.</summary>
    private static readonly TimeSpan Slice = TimeSpan.FromMilliseconds(10);

    /// <summary>
    /// How long it rests at once at most: what a slice costs at 99 %. A step that would cost more has waited for a device, or for a processor, and not executed.
    /// </summary>
    private static readonly TimeSpan LongestRest = Slice * 99;

    private readonly GuestProgram _program;
    private readonly IInterruptSink _apics;
    private readonly TimeProvider _time;
    private readonly Action<ManagedVcpu> _panicked;
    private readonly Thread _thread;
    private readonly ITimer _haltTimer;

    /// <summary>Guards the fields below it that are not volatile, and is what every sleeper waits on.</summary>
    private readonly object _gate = new();
    private RegisterFile _registers = RegisterFile.PowerOn;
    private string? _panicText;
    private long _ranSince;
    private int _runWanted;
    private int _resting = 1; // the thread executes nothing: it waits for work
    private bool _clockRuns;
    private bool _timerFired;
    private bool _disposed;
    private int _stopWaiters;
    private long _wakes;
    private TimeSpan _sliceUsed; // the thread's: what it has executed of a slice while throttled, before it halted
    private int _throttle;
    private bool _pausing;

    public ManagedVcpu(
        uint apicId, GuestProgram program, GuestBus bus, IInterruptSink apics, TimeProvider time, Action<ManagedVcpu> panicked) : base(bus)
    {
        ApicId = apicId;
        _program = program;
        _apics = apics;
        _time = time;
        _panicked = panicked;
        _haltTimer = time.CreateTimer(static state => ((ManagedVcpu)state!).EndHalt(), this, Timeout.InfiniteTimeSpan, Timeout.InfiniteTimeSpan);
        _thread = new Thread(Execute, StackBytes) { IsBackground = true, Name = $"vcpu{apicId}" };
        _thread.Start();
    }

    public override uint ApicId { get; }

    public string? PanicText => Volatile.Read(ref _panicText);

    public int StateVersion => RegisterFile.StateVersion;

    public override ref RegisterFile Registers => ref _registers;

    public override ulong Clock => _registers.ClockBase + ToNanoseconds(_time.GetTimestamp() - _ranSince);

    public override void SendInterrupt(uint destination, byte vector) =>
        _apics.Deliver(new InterruptMessage(destination, Extended: true, Logical: false, ToOne: false, DeliveryMode: 0, vector, LevelTriggered: false));

    /// <summary>It executes nothing: it is stopped or halted, or about to begin.</summary>
    internal bool IsResting => Volatile.Read(ref _resting) != 0;

    /// <summary>How often its thread has been woken. A halted vCPU is stopped and let run again without.</summary>
    internal long Wakes => Interlocked.Read(ref _wakes);

    public void Run()
    {
        lock (_gate)
        {
            if (_disposed || _panicText is not null)
                return;
            Volatile.Write(ref _runWanted, 1);
            if (!_clockRuns)
            {
                _ranSince = _time.GetTimestamp();
                _clockRuns = true;
            }

            if (!IsResting)
                return; // it has not come to its stop yet
            ArmTimer();
            if (HasWork)
                Monitor.PulseAll(_gate);
        }
    }

    public void RequestStop()
    {
        lock (_gate)
        {
            Volatile.Write(ref _runWanted, 0);
            if (_pausing)
                Monitor.PulseAll(_gate);
            if (!IsResting)
                return;
            StopClock();
            if (_stopWaiters != 0)
                Monitor.PulseAll(_gate);
        }
    }

    public bool WaitStopped(TimeSpan deadline)
    {
        lock (_gate)
        {
            if (IsStopped)
                return true; // no timer for those that need none: most vCPUs of a large machine
        }

        bool expired = false;
        using ITimer timer = After(deadline, () => expired = true);
        lock (_gate)
        {
            _stopWaiters++;
            while (!IsStopped && !expired)
                Monitor.Wait(_gate);
            _stopWaiters--;
            return IsStopped;
        }
    }

    public void Throttle(int percent)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(percent);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(percent, 99);
        lock (_gate)
        {
            Volatile.Write(ref _throttle, percent);
            Monitor.PulseAll(_gate);
        }
    }

    public void Interrupt(byte vector)
    {
        _registers.Request(vector); // a full fence: either the thread sees the request before it waits, or this sees it resting
        if (!IsResting)
            return;
        lock (_gate)
        {
            if (HasWork)
                Monitor.PulseAll(_gate);
        }
    }

    public void Save(IBufferWriter<byte> writer)
    {
        lock (_gate)
        {
            RequireStopped();
            _registers.Save(writer);
        }
    }

    public void Load(int version, ReadOnlySpan<byte> state)
    {
        RegisterFile registers = RegisterFile.Load(version, state);
        lock (_gate)
        {
            RequireStopped();
            _registers = registers;
            _panicText = registers.Panicked ? _program.ReadReport(Bus).Panic ?? "The guest had panicked before it came here." : null;
        }
    }

    /// <summary>Ends the thread. A step that waits for a device ends when the device is disposed or answers.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            _disposed = true;
            Volatile.Write(ref _runWanted, 0);
            Monitor.PulseAll(_gate);
        }

        if (Thread.CurrentThread != _thread)
            _thread.Join();
        _haltTimer.Dispose();
    }

    /// <summary>Under the gate: it executes nothing, and will not by itself.</summary>
    private bool IsStopped => IsResting && Volatile.Read(ref _runWanted) == 0;

    /// <summary>Under the gate, while it rests: whether it has something to execute. A halted vCPU has not until an enabled interrupt or its timer.</summary>
    private bool HasWork =>
        Volatile.Read(ref _runWanted) != 0
        && (!_registers.Halted || _timerFired || (_registers.InterruptsEnabled && _registers.AnyRequested));

    private void Execute()
    {
        while (Rest())
        {
            if (ExecuteUntilIdle() is { } panic)
                EnterPanic(panic);
        }
    }

    /// <summary>
    /// Waits for work, stopped or halted: the same wait, so that a halted vCPU becomes a stopped one, and goes on as a halted one, without its
    /// thread's being woken. False when it is over.
    /// </summary>
    private bool Rest()
    {
        lock (_gate)
        {
            Volatile.Write(ref _resting, 1);
            Interlocked.MemoryBarrier(); // the other half of Interrupt's fence
            if (Volatile.Read(ref _runWanted) == 0)
                StopClock();
            else
                ArmTimer();
            if (_stopWaiters != 0)
                Monitor.PulseAll(_gate);
            while (!_disposed && !HasWork)
            {
                Monitor.Wait(_gate);
                Interlocked.Increment(ref _wakes);
            }

            if (_disposed)
                return false;
            _timerFired = false;
            Volatile.Write(ref _resting, 0);
            return true;
        }
    }

    private string? ExecuteUntilIdle()
    {
        try
        {
            long began = _time.GetTimestamp();
            int before = Volatile.Read(ref _throttle);
            while (Volatile.Read(ref _runWanted) != 0)
            {
                int throttle = Volatile.Read(ref _throttle);
                if (throttle != before)
                {
                    // What it has executed until now was not throttled, or not as much.
                    before = throttle;
                    _sliceUsed = TimeSpan.Zero;
                    began = _time.GetTimestamp();
                }

                if (throttle != 0 && _sliceUsed + _time.GetElapsedTime(began) is var used && used >= Slice)
                {
                    Pause(throttle, used);
                    _sliceUsed = TimeSpan.Zero;
                    began = _time.GetTimestamp();
                }
                else if (_registers.InterruptsEnabled && _registers.TryTakeInterrupt(out byte vector))
                {
                    _registers.Halted = false;
                    _registers.InterruptsEnabled = false;
                    _program.Interrupt(this, vector);
                    _registers.InterruptsEnabled = true;
                }
                else if (!_registers.Halted)
                {
                    _program.Step(this);
                }
                else if (_registers.TimerDeadline != RegisterFile.NoTimer && Clock >= _registers.TimerDeadline)
                {
                    _registers.Halted = false;
                    _registers.TimerDeadline = RegisterFile.NoTimer;
                }
                else
                {
                    break;
                }
            }

            // One that halts again and again before its slice is over is throttled by what it has executed in all.
            _sliceUsed = Volatile.Read(ref _throttle) != 0 ? _sliceUsed + _time.GetElapsedTime(began) : TimeSpan.Zero;
            return null;
        }
        catch (GuestPanicException panic)
        {
            return panic.Message;
        }
#pragma warning disable CA1031 // whatever a guest program does wrong ends the guest, never the VMM; the text is reported
        catch (Exception error)
#pragma warning restore CA1031
        {
            return $"{error.GetType().Name}: {error.Message}";
        }
    }

    /// <summary>Under the gate, while it rests and its clock runs: has a halted vCPU woken at its time, or at once when that has passed.</summary>
    private void ArmTimer()
    {
        _timerFired = false;
        ulong deadline = _registers.TimerDeadline;
        if (!_registers.Halted || deadline == RegisterFile.NoTimer)
            return;
        ulong now = Clock;
        if (now >= deadline)
        {
            _timerFired = true;
            return;
        }

        // The system's timer counts whole milliseconds, rounded up here; a wake too early waits again.
        ulong milliseconds = Math.Min((deadline - now + 999_999) / 1_000_000, 1_000_000);
        _haltTimer.Change(TimeSpan.FromMilliseconds(milliseconds), Timeout.InfiniteTimeSpan);
    }

    /// <summary>The timer. One that fires while the vCPU is stopped is armed anew when it runs.</summary>
    private void EndHalt()
    {
        lock (_gate)
        {
            if (!IsResting || Volatile.Read(ref _runWanted) == 0)
                return;
            _timerFired = true;
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>Throttled, after a slice or more: executes nothing for the time that makes it <paramref name="percent"/> of both, within bounds.</summary>
    private void Pause(int percent, TimeSpan used)
    {
        bool over = false;
        TimeSpan rest = used * percent / (100 - percent);
        using ITimer timer = After(rest < LongestRest ? rest : LongestRest, () => over = true);
        lock (_gate)
        {
            _pausing = true;
            while (!over && Volatile.Read(ref _runWanted) != 0 && Volatile.Read(ref _throttle) == percent)
                Monitor.Wait(_gate);
            _pausing = false;
        }
    }

    /// <summary>Has <paramref name="action"/> done under the gate in some time, and who waits there look again.</summary>
    private ITimer After(TimeSpan time, Action action) => _time.CreateTimer(
        _ =>
        {
            lock (_gate)
            {
                action();
                Monitor.PulseAll(_gate);
            }
        },
        null, time, Timeout.InfiniteTimeSpan);

    private void StopClock()
    {
        if (!_clockRuns)
            return;
        _registers.ClockBase = Clock;
        _clockRuns = false;
    }

    private void EnterPanic(string text)
    {
        try
        {
            _program.Panic(this, text);
        }
#pragma warning disable CA1031 // as in ExecuteUntilIdle
        catch (Exception second)
#pragma warning restore CA1031
        {
            text = $"{text} (and it could not be noted in guest memory: {second.Message})";
        }

        lock (_gate)
        {
            _registers.Panicked = true;
            Volatile.Write(ref _panicText, text);
            Volatile.Write(ref _runWanted, 0);
        }

        // Elsewhere: the machine's answer may be to wait for this very thread to stop.
        ThreadPool.UnsafeQueueUserWorkItem(static vcpu => vcpu._panicked(vcpu), this, preferLocal: false);
    }

    private void RequireStopped()
    {
        if (!IsStopped)
            throw new InvalidOperationException($"vCPU {ApicId} is executing; stop it before its state is saved or loaded.");
    }

    private ulong ToNanoseconds(long ticks)
    {
        long frequency = _time.TimestampFrequency;
        return frequency == 1_000_000_000 ? (ulong)ticks : (ulong)((UInt128)(ulong)ticks * 1_000_000_000 / (ulong)frequency);
    }
}
