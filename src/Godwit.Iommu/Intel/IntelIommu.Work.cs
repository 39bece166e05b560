using System.Runtime.ExceptionServices;

namespace Godwit.Iommu.Intel;

// Commands and descriptors are worked off in steps. The vCPU that writes a register does as many of them as one write may cost; the unit itself,
// on a thread of its own, does the rest, and status bits, IQH and status words tell the guest when (VT-d 11.4.4.1, 11.4.6, 6.5.2: software waits for
// them). Under the command lock, which is free between any two steps of the unit's own.
public sealed partial class IntelIommu
{
    /// <summary>
    /// Units of work that one register write costs its vCPU at most, but for the end of the step that it is in. A unit is a table or a leaf looked
    /// at, a mapping announced or withdrawn, or a descriptor, for whichever device.
    /// </summary>
    internal const int UnitsPerWrite = 16 * IntelDmaRegion.LeavesPerStep;

    /// <summary>Units of a step of a comparison at most: its tables, its leaves, and what the last of them cost.</summary>
    internal const int UnitsPerStep = 2 * IntelDmaRegion.LeavesPerStep + 16;

    /// <summary>
    /// Comparisons of all that every device can have that one register write may ask for, before the queue stops with an error. A guest needs one
    /// or two; without a bound, a queue full of domain invalidations over aliased tables would keep a CPU of the host for hours.
    /// </summary>
    private const int WalksPerWrite = 8;

    // Of what costs more than looking at a leaf: a look at a context and at a whole IOTLB; waiting for accesses; the interrupt entries.
    private const int ContextUnits = 16;
    private const int DrainUnits = 64;
    private const int InterruptUnits = 64;

    private readonly ChangePlan _plan;
    private Work _work;
    private uint? _globalCommand; // what of GCMD is still to be done; bits that are levels are those of the last write
    private bool _contextCommand; // CCMD was written with ICC
    private bool _iotlbCommand; // IOTLB was written with IVT
    private bool _renumbered; // some device has another requester id
    private ulong _nextHead; // IQH when the descriptor is done
    private ulong _registerCommand; // CCMD or IOTLB as they are being done
    private bool _commandTaken; // false: it names nothing that can be done
    private long _spent;
    private long _queueLimit; // of _spent, for the queue
    private volatile bool _pauseRequested;
    private bool _paused;
    private bool _awaitsGuest; // a state was loaded, and its guest does not run yet
    private bool _scheduled;
    private int _waiting; // threads that want the command lock, but for the unit's own
    private ExceptionDispatchInfo? _failure;
    private readonly TurnThread _thread = new("vt-d", TimeSpan.FromSeconds(2)); // long beside what is between two turns

    private enum Work
    {
        None,
        Descriptor,
        ContextCommand,
        IotlbCommand,
        RootTable,
        Translation,
        Renumbering,
    }

    /// <summary>Units of work done since the unit was created.</summary>
    internal long Spent => Volatile.Read(ref _spent);

    /// <summary>
    /// Has the unit's own turn taken later, by some other thread that holds no lock. Null for one of its own: a turn waits for devices, whose answers
    /// may need the threads of the pool.
    /// </summary>
    internal Action<Action>? Later { get; init; }

    /// <summary>
    /// Something went wrong while the unit worked, in a turn of its own or for a vCPU's register write, a reset or a load, which then throws it too. What
    /// devices have is not known any more, so it does nothing from then on, and throws at register accesses, at changes of bus numbers and when it is to be
    /// reset, saved or loaded. On the thread that worked, which holds no lock of the unit's.
    /// </summary>
    public event Action<Exception>? Failed;

    /// <summary>What went wrong then, or null. Any thread.</summary>
    public Exception? Failure => Volatile.Read(ref _failure)?.SourceException;

    /// <summary>
    /// From now on vCPUs leave the unit after the step that they are in, so that they can stop: what little a driver usually wants is done all the
    /// same. The unit goes on by itself, for a vCPU may wait for it before it stops. Any thread; <see cref="Pause"/> is to follow.
    /// </summary>
    public void RequestPause() => _pauseRequested = true;

    /// <summary>
    /// Takes <see cref="RequestPause"/> back. Waits for nothing, so that a vCPU which waits for a device inside the unit does not keep the others
    /// from running on. Any thread; the unit is not paused.
    /// </summary>
    public void CancelPauseRequest() => _pauseRequested = false;

    /// <summary>
    /// Stops working: on return nothing is announced, withdrawn or written to guest memory any more, until <see cref="Resume"/>. What was begun
    /// rests, and is part of the state that is saved. Waits for one step at most. The vCPUs are stopped, or are about to lose their unit.
    /// </summary>
    public void Pause() => TryPause(Timeout.InfiniteTimeSpan);

    /// <summary>
    /// <see cref="Pause"/>, unless the step takes longer than <paramref name="patience"/>, as it does when a device does not answer: then false, and
    /// the unit works on as if nothing had been asked.
    /// </summary>
    /// <param name="patience">Zero or more, or <see cref="Timeout.InfiniteTimeSpan"/>.</param>
    public bool TryPause(TimeSpan patience)
    {
        _pauseRequested = true;
        if (!TryEnterCommand(patience))
        {
            CancelPauseRequest();
            return false;
        }

        _paused = true;
        _command.Exit();
        return true;
    }

    /// <summary>Goes on with what rests. Before the vCPUs run, also for the first time after a state was loaded.</summary>
    public void Resume()
    {
        lock (_command)
        {
            _pauseRequested = false;
            _paused = false;
            _awaitsGuest = false;
            RenewQueueLimit();
            ScheduleIfNeeded();
        }
    }

    /// <summary>A register was written: works for a while, and leaves what then is left to the unit.</summary>
    private void WorkForWriter()
    {
        WorkOff(UnitsPerWrite, heedsRequests: true);
        ScheduleIfNeeded();
    }

    private void ScheduleIfNeeded()
    {
        if (IsResting || _scheduled || !HasWork)
            return;
        if (Later is { } later)
            later(TakeTurn);
        else
            _thread.Post(TakeTurn); // waits for the lock
        _scheduled = true;
    }

    /// <summary>Works under the command lock, before the unit's next turn. What goes wrong is the unit's failure, which is told when the lock is free.</summary>
    private void Command<T>(T argument, Action<IntelIommu, T> work)
    {
        ExceptionDispatchInfo failure;
        using (EnterCommand())
        {
            _failure?.Throw();
            try
            {
                work(this, argument);
                return;
            }
#pragma warning disable CA1031 // it is thrown below
            catch (Exception error)
#pragma warning restore CA1031
            {
                failure = Fail(error);
            }
        }

        Failed?.Invoke(failure.SourceException);
        failure.Throw();
    }

    /// <summary>From now on nothing is done any more. Under the command lock; <see cref="Failed"/> is to follow without it.</summary>
    private ExceptionDispatchInfo Fail(Exception error)
    {
        var failure = ExceptionDispatchInfo.Capture(error);
        Volatile.Write(ref _failure, failure);
        return failure;
    }

    private void TakeTurn()
    {
        // Whoever waits for the lock comes first: left to itself the lock would go to this thread again and again, which has it as soon as it wants.
        var patience = default(SpinWait);
        while (Volatile.Read(ref _waiting) != 0)
            patience.SpinOnce();
        ExceptionDispatchInfo failure;
        lock (_command)
        {
            _scheduled = false;
            if (IsResting)
                return;
            try
            {
                WorkOff(1, heedsRequests: false);
                ScheduleIfNeeded();
                return;
            }
#pragma warning disable CA1031 // as in a register write: the machine is told, which ends the guest and not the program
            catch (Exception error)
#pragma warning restore CA1031
            {
                failure = Fail(error);
            }
        }

        Failed?.Invoke(failure.SourceException);
    }

    /// <summary>Takes the command lock, before the unit's next turn.</summary>
    private Lock.Scope EnterCommand()
    {
        Interlocked.Increment(ref _waiting);
        try
        {
            return _command.EnterScope();
        }
        finally
        {
            Interlocked.Decrement(ref _waiting);
        }
    }

    private bool TryEnterCommand(TimeSpan patience)
    {
        Interlocked.Increment(ref _waiting);
        try
        {
            return _command.TryEnter(patience);
        }
        finally
        {
            Interlocked.Decrement(ref _waiting);
        }
    }

    private bool IsResting => _paused || _awaitsGuest || Volatile.Read(ref _failure) is not null;

    private bool HasWork => _work != Work.None || _globalCommand is not null || _contextCommand || _iotlbCommand || _renumbered || QueueHasWork;

    /// <summary>Makes steps until nothing is left or the units are spent, which are those of one step when somebody wants to pause.</summary>
    private void WorkOff(long units, bool heedsRequests)
    {
        if (IsResting)
            return;
        long start = _spent;
        try
        {
            while (_spent - start < (heedsRequests && _pauseRequested ? IntelDmaRegion.LeavesPerStep : units))
            {
                if (_work == Work.None && !TryBegin())
                    return;
                if (!_plan.IsDone)
                    AdvancePlan();
                if (_plan.IsDone)
                    Finish();
            }
        }
        finally
        {
            EndSegment();
        }
    }

    private void AdvancePlan()
    {
        Charge(_plan.Advance());
        if (!_syncHeld)
            Thread.Yield();
    }

    /// <summary>Works off the plan at once, however long it takes: for those who restore or reset the unit.</summary>
    private void FinishPlan()
    {
        try
        {
            while (!_plan.IsDone)
                AdvancePlan();
        }
        finally
        {
            EndSegment();
        }

        _plan.Clear();
    }

    private bool TryBegin()
    {
        if (_renumbered)
        {
            _renumbered = false;
            _work = Work.Renumbering;
            Reevaluate(static device => device.IsRenumbered);
            return true;
        }

        if (_globalCommand is { } command)
        {
            BeginGlobalCommand(command);
            return true;
        }

        if (_contextCommand)
        {
            BeginContextCommand();
            return true;
        }

        if (_iotlbCommand)
        {
            BeginIotlbCommand();
            return true;
        }

        return TryBeginDescriptor();
    }

    /// <summary>What was begun has had its effect, in the host too, or has it when the segment ends: then the guest is told.</summary>
    private void Finish()
    {
        _plan.Clear();
        Work done = _work;
        _work = Work.None;
        switch (done)
        {
            case Work.Descriptor:
                _untoldHead = _nextHead;
                if (!_syncHeld)
                    TellHead();
                break;
            case Work.ContextCommand:
                FinishContextCommand();
                break;
            case Work.IotlbCommand:
                FinishIotlbCommand();
                break;
            case Work.RootTable:
                FinishRootTable();
                break;
            case Work.Translation:
                FinishTranslation();
                break;
        }
    }

    /// <summary>Forgets what was begun and what was to be begun.</summary>
    private void ForgetWork()
    {
        _plan.Clear();
        _work = Work.None;
        _globalCommand = null;
        _contextCommand = false;
        _iotlbCommand = false;
        _renumbered = false;
        _untoldHead = null;
    }

    private void Charge(long units) => Volatile.Write(ref _spent, _spent + units);

    /// <summary>The guest has told the queue to run: it may cost so much from here on.</summary>
    private void RenewQueueLimit() =>
        _queueLimit = _spent + (Shadows.ComparisonLimit * WalksPerWrite * Math.Max(Volatile.Read(ref _devices).Length, 1));
}
