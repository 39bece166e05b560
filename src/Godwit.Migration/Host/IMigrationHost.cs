using Godwit.Memory;

namespace Godwit.Migration;

/// <summary>What the migration engine needs of a machine. All members are called on the migration's coordinating thread.</summary>
public interface IMigrationHost
{
    /// <summary>The machine's RAM; its bitmap is the migration bitmap.</summary>
    GuestRam Ram { get; }

    /// <summary>What must be equal on both sides.</summary>
    MachineDescription Describe();

    /// <summary>Every reason against, now. Any thread.</summary>
    IReadOnlyList<MigrationBlocker> QueryBlockers();

    /// <summary>Every reason against a handover to another process of this host, now: what speaks against sending pages need not. Any thread.</summary>
    IReadOnlyList<MigrationBlocker> QueryHandoverBlockers();

    /// <summary>Where devices' writes become known.</summary>
    IReadOnlyList<IDirtyTracker> DirtyTrackers { get; }

    /// <summary>Devices that carry state of their own.</summary>
    IReadOnlyList<IMigratableDevice> Devices { get; }

    /// <summary>State of the VMM's own models, <b>in load order</b>: bridges, vIOMMU, PCI functions, VFIO configuration, vCPUs.</summary>
    IReadOnlyList<IStateParticipant> States { get; }

    /// <summary>
    /// Source: stops the vCPUs (barrier with a deadline) and enters <c>finish-migrate</c>. Remembers whether they ran. Throws
    /// <see cref="TimeoutException"/> when a vCPU does not stop; the machine then runs on.
    /// </summary>
    void StopForSwitchover();

    /// <summary>
    /// Source: from now on vCPUs do not execute for <paramref name="percent"/> of the time, 0 to 99; 0 ends it. A stop is not delayed by it.
    /// </summary>
    void ThrottleVcpus(int percent);

    /// <summary>Source: back to the run state before <see cref="StopForSwitchover"/>. Does nothing when not stopped for it.</summary>
    void ResumeAfterFailure();

    /// <summary>Source: the commit point has passed; enters <c>postmigrate</c> and never runs again by itself.</summary>
    void EnterPostMigrate();

    /// <summary>Destination: all is loaded and committed; devices have been started; vCPUs run if <paramref name="running"/>, else paused.</summary>
    void StartAfterLoad(bool running);

    /// <summary>Source: whether the guest was running before the switchover (tells the destination what to do).</summary>
    bool IsRunning { get; }
}
