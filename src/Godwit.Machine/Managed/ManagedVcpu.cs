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

    private readonly GuestProgram _program;
    private readonly IInterruptSink _apics;
    private readonly TimeProvider _time;
    private readonly Action<ManagedVcpu> _panicked;
    private readonly Thread _thread;
    private readonly ITimer _wakeTimer;

    /// <summary>Guards the fields below it that are not volatile, and is what every sleeper waits on.</summary>
    private readonly object _gate = new();
    private RegisterFile _registers = RegisterFile.PowerOn;
    private string? _panicText;
    private long _ranSince;
    private int _runWanted;
    private bool _executing;
    private bool _disposed;
    private int _asleep;
    private bool _woken;

    public ManagedVcpu(
        uint apicId, GuestProgram program, GuestBus bus, IInterruptSink apics, TimeProvider time, Action<ManagedVcpu> panicked) : base(bus)
    {
        ApicId = apicId;
        _program = program;
        _apics = apics;
        _time = time;
        _panicked = panicked;
        _wakeTimer = time.CreateTimer(static state => ((ManagedVcpu)state!).Wake(), this, Timeout.InfiniteTimeSpan, Timeout.InfiniteTimeSpan);
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

    public void Run()
    {
        lock (_gate)
        {
            if (_disposed || _panicText is not null)
                return;
            Volatile.Write(ref _runWanted, 1);
            Monitor.PulseAll(_gate);
        }
    }

    public void RequestStop()
    {
        lock (_gate)
        {
            Volatile.Write(ref _runWanted, 0);
            Monitor.PulseAll(_gate);
        }
    }

    public bool WaitStopped(TimeSpan deadline)
    {
        lock (_gate)
        {
            if (!_executing)
                return true; // no timer for those that need none: most vCPUs of a large machine
        }

        bool expired = false;
        using ITimer timer = _time.CreateTimer(
            _ =>
            {
                lock (_gate)
                {
                    expired = true;
                    Monitor.PulseAll(_gate);
                }
            },
            null, deadline, Timeout.InfiniteTimeSpan);
        lock (_gate)
        {
            while (_executing && !expired)
                Monitor.Wait(_gate);
            return !_executing;
        }
    }

    public void Interrupt(byte vector)
    {
        _registers.Request(vector); // a full fence: either the sleeper sees the request, or this sees it asleep
        if (Volatile.Read(ref _asleep) != 0)
            Wake();
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
        _wakeTimer.Dispose();
    }

    private void Execute()
    {
        while (true)
        {
            lock (_gate)
            {
                _executing = false;
                Monitor.PulseAll(_gate);
                while (Volatile.Read(ref _runWanted) == 0 && !_disposed)
                    Monitor.Wait(_gate);
                if (_disposed)
                    return;
                _executing = true;
                _ranSince = _time.GetTimestamp();
            }

            string? panic = ExecuteUntilStopped();
            _registers.ClockBase = Clock;
            if (panic is not null)
                EnterPanic(panic);
        }
    }

    private string? ExecuteUntilStopped()
    {
        try
        {
            while (Volatile.Read(ref _runWanted) != 0)
            {
                if (_registers.InterruptsEnabled && _registers.TryTakeInterrupt(out byte vector))
                {
                    _registers.Halted = false;
                    _registers.InterruptsEnabled = false;
                    _program.Interrupt(this, vector);
                    _registers.InterruptsEnabled = true;
                }
                else if (_registers.Halted)
                {
                    Sleep();
                }
                else
                {
                    _program.Step(this);
                }
            }

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

    /// <summary>Halted: waits for an enabled interrupt, the timer, or a stop request.</summary>
    private void Sleep()
    {
        ulong deadline = _registers.TimerDeadline;
        if (deadline != RegisterFile.NoTimer)
        {
            ulong now = Clock;
            if (now >= deadline)
            {
                _registers.Halted = false;
                _registers.TimerDeadline = RegisterFile.NoTimer;
                return;
            }

            // The system's timer counts whole milliseconds, rounded up here; a wake too early sleeps again.
            ulong milliseconds = Math.Min((deadline - now + 999_999) / 1_000_000, 1_000_000);
            _wakeTimer.Change(TimeSpan.FromMilliseconds(milliseconds), Timeout.InfiniteTimeSpan);
        }

        lock (_gate)
        {
            Volatile.Write(ref _asleep, 1);
            Interlocked.MemoryBarrier(); // the other half of Interrupt's fence
            while (!_woken && Volatile.Read(ref _runWanted) != 0 && !(_registers.InterruptsEnabled && _registers.AnyRequested))
                Monitor.Wait(_gate);
            _woken = false;
            Volatile.Write(ref _asleep, 0);
        }
    }

    private void Wake()
    {
        lock (_gate)
        {
            _woken = true;
            Monitor.PulseAll(_gate);
        }
    }

    private void EnterPanic(string text)
    {
        try
        {
            _program.Panic(this, text);
        }
#pragma warning disable CA1031 // as in ExecuteUntilStopped
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
        if (_executing)
            throw new InvalidOperationException($"vCPU {ApicId} is executing; stop it before its state is saved or loaded.");
    }

    private ulong ToNanoseconds(long ticks)
    {
        long frequency = _time.TimestampFrequency;
        return frequency == 1_000_000_000 ? (ulong)ticks : (ulong)((UInt128)(ulong)ticks * 1_000_000_000 / (ulong)frequency);
    }
}
