using Godwit.Interop.Linux;
using Godwit.VfioUser;

namespace Godwit.Vfio.Tests;

/// <summary>
/// A device at the back-end seam whose every migration call is written down, and which fails where it is told to: the n-th SetState, and with
/// what left behind.
/// </summary>
internal sealed class ScriptedMigration(MigrationSupport support) : IDeviceMigration
{
    private int _sets;

    /// <summary>Every call in order: <c>set stop-copy</c>, <c>get</c>, <c>reset</c>, <c>read</c>, <c>write 3</c>.</summary>
    public List<string> Calls { get; } = [];

    /// <summary>Where the device really is.</summary>
    public DeviceMigrationState State { get; private set; } = DeviceMigrationState.Running;

    /// <summary>Numbers (from 0) of the SetState calls that fail.</summary>
    public HashSet<int> FailingSets { get; init; } = [];

    /// <summary>What a failing SetState leaves; null: where it was.</summary>
    public DeviceMigrationState? FailureLeaves { get; init; }

    /// <summary>The device does not say where it is.</summary>
    public bool GetFails { get; init; }

    /// <summary>Bytes of state that it gives when it is asked for them, in one piece.</summary>
    public int Saved { get; set; }

    /// <summary>What it says that its state takes; null: nothing.</summary>
    public ulong? SaysSize { get; set; }

    /// <summary>It gives so many bytes at a time.</summary>
    public int Piece { get; set; } = int.MaxValue;

    /// <summary>Called when a piece is read.</summary>
    public Action? Reading { get; set; }

    /// <summary>Reset fails.</summary>
    public bool ResetFails { get; set; }

    /// <summary>The device goes at this call number (from 0, of all calls).</summary>
    public int GoneAt { get; init; } = int.MaxValue;

    /// <summary>SetState calls made so far.</summary>
    public int Sets => _sets;

    public MigrationSupport GetMigrationSupport() => support;

    public DeviceMigrationState GetMigrationState()
    {
        Note("get");
        return GetFails ? throw new DeviceRefusedException("MIG_DEVICE_STATE", Errno.EIO) : State;
    }

    public void SetMigrationState(DeviceMigrationState state)
    {
        Note($"set {MigrationArcs.Name(state)}");
        Assert.Contains(new MigrationArc(State, state), MigrationArcs.Of(support));
        if (FailingSets.Contains(_sets++))
        {
            State = FailureLeaves ?? State;
            throw new DeviceRefusedException("MIG_DEVICE_STATE", Errno.EBUSY);
        }

        State = state;
    }

    public int ReadMigrationData(Span<byte> destination)
    {
        Note("read");
        Reading?.Invoke();
        int count = Math.Min(Math.Min(Saved, Piece), destination.Length);
        Saved -= count;
        return count;
    }

    public void WriteMigrationData(ReadOnlySpan<byte> data) => Note($"write {data.Length}");

    public ulong? GetStopCopySize() => SaysSize;

    public void Reset()
    {
        Note("reset");
        if (ResetFails)
            throw new DeviceRefusedException("RESET", Errno.EIO);
        State = DeviceMigrationState.Running;
    }

    private void Note(string call)
    {
        Calls.Add(call);
        if (Calls.Count > GoneAt)
            throw new DeviceLostException("the scripted device has gone");
    }
}
