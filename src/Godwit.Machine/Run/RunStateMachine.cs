namespace Godwit.Machine;

/// <summary>
/// The legal changes of run state (QEMU's table, cut to the states there are here) and the one that holds now. Not thread-safe: the
/// machine changes it under its control lock; <see cref="Current"/> may be read from any thread.
/// </summary>
internal sealed class RunStateMachine(Action<RunState, RunState> changed)
{
    private int _current = (int)RunState.Prelaunch;

    public RunState Current => (RunState)Volatile.Read(ref _current);

    /// <summary>What may follow <paramref name="from"/>.</summary>
    public static ReadOnlySpan<RunState> Successors(RunState from) => from switch
    {
        RunState.Prelaunch => [RunState.InMigrate, RunState.Running, RunState.FinishMigrate, RunState.Shutdown],
        RunState.InMigrate => [RunState.Running, RunState.Paused, RunState.InternalError, RunState.Shutdown],
        RunState.Running => [RunState.Paused, RunState.FinishMigrate, RunState.InternalError, RunState.Shutdown],
        RunState.Paused => [RunState.Running, RunState.FinishMigrate, RunState.Shutdown],
        RunState.FinishMigrate =>
            [RunState.Prelaunch, RunState.Running, RunState.Paused, RunState.PostMigrate, RunState.InternalError, RunState.Shutdown],
        RunState.PostMigrate => [RunState.Running, RunState.Shutdown],
        RunState.InternalError => [RunState.FinishMigrate, RunState.Shutdown],
        _ => [],
    };

    public static bool IsLegal(RunState from, RunState to) => Successors(from).Contains(to);

    /// <summary>Changes to <paramref name="to"/> and announces it.</summary>
    /// <exception cref="InvalidOperationException">The change is not in the table; both states are named.</exception>
    public void MoveTo(RunState to)
    {
        RunState from = Current;
        if (!IsLegal(from, to))
            throw new InvalidOperationException($"A machine that is {Name(from)} cannot become {Name(to)}.");
        Volatile.Write(ref _current, (int)to);
        changed(from, to);
    }

    /// <summary>QMP spelling of a state.</summary>
    public static string Name(RunState state) => state switch
    {
        RunState.FinishMigrate => "finish-migrate",
        RunState.InternalError => "internal-error",
        RunState.InMigrate => "inmigrate",
        RunState.PostMigrate => "postmigrate",
        RunState.Prelaunch => "prelaunch",
        RunState.Running => "running",
        RunState.Paused => "paused",
        _ => "shutdown",
    };
}
