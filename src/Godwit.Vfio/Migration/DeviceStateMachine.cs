using System.Buffers;
using Godwit.Migration;
using Godwit.VfioUser;

namespace Godwit.Vfio;

/// <summary>
/// Drives the migration state of one device: the phases of <see cref="MigrationPhase"/> along the arcs of <see cref="MigrationArcs"/>, one arc
/// at a time, so that after a failure it is known where the device is. A device in ERROR, or one whose state cannot be asked, is reset, which
/// leaves it in RUNNING. One caller at a time, but <see cref="State"/> may be read by any thread.
/// </summary>
internal sealed class DeviceStateMachine : IDeviceStates
{
    /// <summary>Bytes of its own state with which a device rehearses; it is held in memory.</summary>
    internal const int MaxRehearsal = 16 << 20;

    private const int RehearsalChunk = 1 << 20;

    // What gives its state slower than this, in however small pieces, keeps the source waiting.
    private static readonly TimeSpan RehearsalTime = TimeSpan.FromSeconds(2);

    private readonly string _device;
    private readonly IDeviceMigration _migration;
    private readonly Action _reset;
    private readonly NoticeBoard _notices;
    private int _state;
    private DeviceMigrationState _home = DeviceMigrationState.Running; // where Recover goes
    private bool _tookData;
    private volatile bool _resetByGuest;

    /// <summary>Creates it for a device that is in RUNNING, as every freshly attached one.</summary>
    /// <param name="device">Id for messages.</param>
    /// <param name="migration">The device.</param>
    /// <param name="support">What it offers.</param>
    /// <param name="reset">Resets the device and restores what the VMM had set up in it.</param>
    /// <param name="notices">Told what an operator should know.</param>
    public DeviceStateMachine(string device, IDeviceMigration migration, MigrationSupport support, Action reset, NoticeBoard notices)
    {
        _device = device;
        _migration = migration;
        _reset = reset;
        _notices = notices;
        // STOP_COPY is mandatory for whoever has any (vfio.h, VFIO_MIGRATION_STOP_COPY).
        Support = (support & MigrationSupport.StopCopy) != 0 ? support : MigrationSupport.None;
        _state = (int)DeviceMigrationState.Running;
    }

    /// <summary>What the device offers.</summary>
    public MigrationSupport Support { get; }

    /// <summary>Its state as last known.</summary>
    public DeviceMigrationState State => (DeviceMigrationState)Volatile.Read(ref _state);

    /// <summary>Raised after each change.</summary>
    public event Action? Changed;

    /// <summary>Source: RUNNING to PRE_COPY if offered. On failure the device is back in what it was.</summary>
    public void BeginSave()
    {
        RequireMigration();
        _home = State is DeviceMigrationState.Stop or DeviceMigrationState.StopCopy ? DeviceMigrationState.Stop : DeviceMigrationState.Running;
        _resetByGuest = false;
        if ((Support & MigrationSupport.PreCopy) != 0)
            Enter(MigrationPhase.BeginSave);
    }

    /// <summary>Source: to a P2P state if offered.</summary>
    public void Quiesce()
    {
        RequireMigration();
        CheckReset();
        if ((Support & MigrationSupport.P2P) != 0)
            Enter(MigrationPhase.Quiesce);
    }

    /// <summary>Source: to STOP_COPY.</summary>
    public void StopAndCopy()
    {
        RequireMigration();
        CheckReset();
        Enter(MigrationPhase.StopAndCopy);
    }

    /// <summary>Source after commit: STOP_COPY to STOP. Nothing depends on it any more, so a failure is told and not thrown.</summary>
    public void EndSave()
    {
        RequireMigration();
        _home = DeviceMigrationState.Stop;
        try
        {
            Enter(MigrationPhase.EndSave);
        }
        catch (IOException e)
        {
            _notices.Post($"{_device}: after the migration: {e.Message}");
        }
    }

    /// <summary>
    /// Destination, fresh: the device's own state is saved and given back to it, and it starts. In any case it ends in what it was; on
    /// failure, or where it has more than <see cref="MaxRehearsal"/> bytes or takes long to give them, by <see cref="Recover"/>. Null in the
    /// second case.
    /// </summary>
    public DeviceRehearsal? Rehearse(TimeProvider clock)
    {
        RequireMigration();
        if (SizeOfState() > MaxRehearsal)
            return null;
        _home = State == DeviceMigrationState.Stop ? DeviceMigrationState.Stop : DeviceMigrationState.Running;
        _tookData = false;
        DeviceMigrationState home = _home;
        try
        {
            return Rehearse(clock, start: home == DeviceMigrationState.Running);
        }
        finally
        {
            _home = home;
            Recover(); // does nothing where all went well
        }
    }

    /// <summary>What the device says of it, if it does.</summary>
    private ulong? SizeOfState()
    {
        try
        {
            return _migration.GetStopCopySize();
        }
        catch (DeviceRefusedException)
        {
            return null;
        }
    }

    private DeviceRehearsal? Rehearse(TimeProvider clock, bool start)
    {
        Enter(MigrationPhase.StopAndCopy);
        var state = new ArrayBufferWriter<byte>(RehearsalChunk);
        long began = clock.GetTimestamp();
        for (; Read(state.GetSpan(RehearsalChunk)) is var count and > 0; state.Advance(count))
        {
            if (state.WrittenCount + count > MaxRehearsal || clock.GetElapsedTime(began) > RehearsalTime)
                return null;
        }

        Enter(MigrationPhase.EndSave);
        Enter(MigrationPhase.BeginLoad);
        for (ReadOnlySpan<byte> left = state.WrittenSpan; !left.IsEmpty; left = left[Math.Min(left.Length, RehearsalChunk)..])
            Write(left[..Math.Min(left.Length, RehearsalChunk)]);
        began = clock.GetTimestamp();
        Enter(MigrationPhase.EndLoad);
        TimeSpan endLoad = clock.GetElapsedTime(began);
        began = clock.GetTimestamp();
        if (start)
        {
            StartPeers();
            StartAll();
        }

        return new DeviceRehearsal(endLoad, clock.GetElapsedTime(began));
    }

    /// <summary>Destination: to RESUMING. On failure the device is back in what it was.</summary>
    public void BeginLoad()
    {
        RequireMigration();
        _home = State == DeviceMigrationState.Stop ? DeviceMigrationState.Stop : DeviceMigrationState.Running;
        _tookData = false;
        Enter(MigrationPhase.BeginLoad);
    }

    /// <summary>Destination: to STOP.</summary>
    public void EndLoad()
    {
        RequireMigration();
        Enter(MigrationPhase.EndLoad);
    }

    /// <summary>First phase of starting: to RUNNING_P2P if offered.</summary>
    public void StartPeers()
    {
        if ((Support & MigrationSupport.P2P) != 0)
            Enter(MigrationPhase.StartPeers);
    }

    /// <summary>To RUNNING.</summary>
    public void StartAll()
    {
        if (Support == MigrationSupport.None)
            return;
        Enter(MigrationPhase.StartAll);
        _home = DeviceMigrationState.Running;
    }

    /// <summary>The machine is paused or goes on. A device without migration cannot be stopped and runs on.</summary>
    public void SetRunning(bool running)
    {
        if (Support == MigrationSupport.None)
            return;
        if (running && State is DeviceMigrationState.StopCopy or DeviceMigrationState.Resuming)
            throw new InvalidOperationException($"{_device} cannot go on: it is in {MigrationArcs.Name(State)} for a migration; cancel that first");
        Enter(running ? MigrationPhase.Continue : MigrationPhase.Pause);
        _home = running ? DeviceMigrationState.Running : DeviceMigrationState.Stop;
    }

    /// <summary>Reads saved state; 0 when the device is in no state that saves.</summary>
    public int Read(Span<byte> buffer)
    {
        CheckReset();
        return State is DeviceMigrationState.PreCopy or DeviceMigrationState.PreCopyP2P or DeviceMigrationState.StopCopy ? _migration.ReadMigrationData(buffer) : 0;
    }

    /// <summary>Writes saved state in RESUMING.</summary>
    public void Write(ReadOnlySpan<byte> chunk)
    {
        if (State != DeviceMigrationState.Resuming)
            throw new InvalidOperationException($"{_device} takes state in resuming, and is in {MigrationArcs.Name(State)}");
        _tookData = true;
        _migration.WriteMigrationData(chunk);
    }

    /// <summary>The guest has reset the device. Any thread; a save in progress looks at the consequences.</summary>
    public void ResetByGuest() => _resetByGuest = true;

    /// <summary>
    /// From any state back to what it was before the migration: along the arcs, else by reset, which is told. A device that has gone stays
    /// gone. Never throws for the device's sake: other devices have to be recovered too.
    /// </summary>
    public void Recover()
    {
        if (Support == MigrationSupport.None || State == _home)
            return;
        try
        {
            ReturnTo(_home, spoiled: State == DeviceMigrationState.Resuming && _tookData);
        }
        catch (DeviceLostException e)
        {
            _notices.PostOnce(NoticeKind.Lost, $"{_device}: the device has gone: {e.Message}");
        }
    }

    /// <summary>Along the arcs if there is a way and the device goes it, else by reset. A device that is <paramref name="spoiled"/> is reset at once.</summary>
    private void ReturnTo(DeviceMigrationState home, bool spoiled)
    {
        try
        {
            if (!spoiled && MigrationArcs.Way(Support, State, home) is { } way)
            {
                try
                {
                    Walk(way);
                    return;
                }
                catch (DeviceRefusedException e)
                {
                    Reset($"it did not return from {MigrationArcs.Name(State)}: {e.Message}");
                }
            }
            else
            {
                Reset($"it was in {MigrationArcs.Name(State)}");
            }

            if (State != DeviceMigrationState.Error && MigrationArcs.Way(Support, State, home) is { } fromReset)
                Walk(fromReset);
        }
        catch (DeviceRefusedException e)
        {
            _notices.Post($"{_device}: recovery failed, the device is in {MigrationArcs.Name(State)}: {e.Message}");
        }
    }

    private void Enter(MigrationPhase phase)
    {
        DeviceMigrationState before = State;
        if (phase.Already.Contains(before))
            return;
        foreach ((DeviceMigrationState from, DeviceMigrationState to) in phase.Moves)
        {
            if (from == before)
            {
                Move(phase, before, to);
                return;
            }
        }

        throw new InvalidOperationException($"{_device}: {phase.Name} is out of order: the device is in {MigrationArcs.Name(before)}");
    }

    private void Move(MigrationPhase phase, DeviceMigrationState before, DeviceMigrationState to)
    {
        IReadOnlyList<DeviceMigrationState> way = MigrationArcs.Way(Support, before, to)
            ?? throw new InvalidOperationException($"{_device}: no way from {MigrationArcs.Name(before)} to {MigrationArcs.Name(to)}");
        try
        {
            Walk(way);
        }
        catch (DeviceRefusedException e)
        {
            // Where the failing arc began, and which arc it was.
            DeviceMigrationState from = State;
            int next = IndexOf(way, from) + 1;
            DeviceMigrationState failed = way[Math.Min(next, way.Count - 1)];
            FindOut(e);
            if (phase.Recovery == RecoveryKind.Before && State != before)
                ReturnTo(before, spoiled: false);
            throw new MigrationPhaseException(_device, phase, from, failed, State, e);
        }
    }

    /// <summary>
    /// A reset may have put the device back to RUNNING in the middle of a save (vfio.h, vfio_device_mig_state); what was saved before then
    /// belongs to a state that is no more.
    /// </summary>
    private void CheckReset()
    {
        if (!_resetByGuest)
            return;
        _resetByGuest = false;
        DeviceMigrationState actual = _migration.GetMigrationState();
        if (actual == State)
            return;
        DeviceMigrationState before = State;
        Set(actual);
        throw new IOException($"{_device}: the guest reset the device in {MigrationArcs.Name(before)}; what has been saved of it is void, so the migration must begin anew");
    }

    private void Walk(IReadOnlyList<DeviceMigrationState> way)
    {
        foreach (DeviceMigrationState state in way)
        {
            _migration.SetMigrationState(state);
            Set(state);
        }
    }

    /// <summary>After a refused transition: asks where the device is, and resets it when that is ERROR or cannot be had.</summary>
    private void FindOut(DeviceRefusedException cause)
    {
        DeviceMigrationState actual;
        try
        {
            actual = _migration.GetMigrationState();
        }
        catch (DeviceRefusedException)
        {
            actual = DeviceMigrationState.Error;
        }

        if (actual is DeviceMigrationState.Error or > DeviceMigrationState.PreCopyP2P)
            Reset(cause.Message);
        else
            Set(actual);
    }

    private void Reset(string why)
    {
        try
        {
            _reset();
            _tookData = false;
            Set(DeviceMigrationState.Running);
            _notices.Post($"{_device}: the device was reset, its work in progress is lost: {why}");
        }
        catch (DeviceRefusedException e)
        {
            Set(DeviceMigrationState.Error);
            _notices.Post($"{_device}: the device cannot be used any more: {why}; and reset failed: {e.Message}");
        }
    }

    private void Set(DeviceMigrationState state)
    {
        if (Interlocked.Exchange(ref _state, (int)state) != (int)state)
            Changed?.Invoke();
    }

    private void RequireMigration()
    {
        if (Support == MigrationSupport.None)
            throw new InvalidOperationException($"{_device} has no migration");
    }

    private static int IndexOf(IReadOnlyList<DeviceMigrationState> way, DeviceMigrationState state)
    {
        for (int i = 0; i < way.Count; i++)
        {
            if (way[i] == state)
                return i;
        }

        return -1;
    }
}
