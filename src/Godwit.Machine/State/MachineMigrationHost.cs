using Godwit.Memory;
using Godwit.Migration;

namespace Godwit.Machine.State;

/// <summary>The machine as its migrations see it.</summary>
internal sealed class MachineMigrationHost(VirtualMachine machine) : IMigrationHost
{
    /// <summary>Where <see cref="ResumeAfterFailure"/> goes back to; null while not stopped for a switchover.</summary>
    private RunState? _before;

    public GuestRam Ram => machine.Ram;

    public IReadOnlyList<IDirtyTracker> DirtyTrackers => machine.Devices;

    public IReadOnlyList<IMigratableDevice> Devices => machine.Devices;

    public IReadOnlyList<IStateParticipant> States { get; } = StateParticipants.For(machine.Board, machine.Vcpus.All);

    public bool IsRunning => (_before ?? machine.RunState) == RunState.Running;

    public MachineDescription Describe() => MachineDescriber.Describe(machine.Board, machine.Vcpus.All);

    public IReadOnlyList<MigrationBlocker> QueryBlockers() => machine.QueryBlockers();

    public IReadOnlyList<MigrationBlocker> QueryHandoverBlockers() => machine.QueryHandoverBlockers();

    public void StopForSwitchover() => machine.Change(state =>
    {
        RunState before = state.Current;
        if (!RunStateMachine.IsLegal(before, RunState.FinishMigrate))
            throw new InvalidOperationException($"A machine that is {RunStateMachine.Name(before)} cannot be stopped for a switchover.");
        machine.Vcpus.Stop(machine.StopDeadline);
        _before = before;
        state.MoveTo(RunState.FinishMigrate);
    });

    public void ThrottleVcpus(int percent)
    {
        foreach (IVcpu vcpu in machine.Vcpus.All)
            vcpu.Throttle(percent);
    }

    public void ResumeAfterFailure() => machine.Change(state =>
    {
        if (_before is not { } before || state.Current != RunState.FinishMigrate)
            return;
        _before = null;
        if (before == RunState.Running && machine.Vcpus.PanicText is not null)
            before = RunState.InternalError;
        state.MoveTo(before);
        if (before == RunState.Running)
            machine.Vcpus.Run();
        else if (before == RunState.InternalError)
            machine.StopDevices(); // they have been taken back to what they were
    });

    public void EnterPostMigrate() => machine.Change(state =>
    {
        state.MoveTo(RunState.PostMigrate);
        _before = null;
    });

    public void StartAfterLoad(bool running) => machine.Change(state =>
    {
        if (machine.Vcpus.PanicText is not null)
        {
            state.MoveTo(RunState.InternalError);
            return;
        }

        state.MoveTo(running ? RunState.Running : RunState.Paused);
        if (running)
            machine.Vcpus.Run();
    });
}
