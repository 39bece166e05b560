using System.Buffers;
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

    /// <summary>Source: back to the run state before <see cref="StopForSwitchover"/>. Does nothing when not stopped for it.</summary>
    void ResumeAfterFailure();

    /// <summary>Source: the commit point has passed; enters <c>postmigrate</c> and never runs again by itself.</summary>
    void EnterPostMigrate();

    /// <summary>Destination: all is loaded and committed; devices have been started; vCPUs run if <paramref name="running"/>, else paused.</summary>
    void StartAfterLoad(bool running);

    /// <summary>Source: whether the guest was running before the switchover (tells the destination what to do).</summary>
    bool IsRunning { get; }
}

/// <summary>State that is written once while everything is stopped.</summary>
public interface IStateParticipant
{
    /// <summary>Unique id, for example <c>iommu</c> or <c>pci/00:03.0</c>; at most 255 bytes of UTF-8.</summary>
    string Id { get; }

    /// <summary>Version of the format it writes; it loads this one and those it says it can.</summary>
    int Version { get; }

    /// <summary>Appends the state.</summary>
    void Save(IBufferWriter<byte> writer);

    /// <summary>Takes a state of <paramref name="version"/>. Throws <see cref="InvalidDataException"/> for one that cannot be right.</summary>
    void Load(int version, ReadOnlySpan<byte> state);
}

/// <summary>A source of pages that were written without the VMM seeing each write. Marks land in <see cref="GuestRam.Dirty"/>.</summary>
public interface IDirtyTracker
{
    /// <summary>Device or container id.</summary>
    string Id { get; }

    /// <summary>Arms. Called after <see cref="DirtyLog.Start"/>. Throws to fail the migration before anything moved.</summary>
    void Start();

    /// <summary>
    /// Brings everything written up to this call into the bitmap. <paramref name="final"/>: vCPUs and devices are stopped. Throws when the
    /// log is lost and cannot be repaired (dirty-tracking rule 10).
    /// </summary>
    DirtySyncReport Sync(bool final);

    /// <summary>Disarms; never throws for a device that is gone.</summary>
    void Stop();
}

/// <summary>What one sync did.</summary>
/// <param name="Reports">Log reports made to devices.</param>
/// <param name="PagesMarked">Pages newly marked.</param>
/// <param name="Mappings">Mappings live.</param>
public readonly record struct DirtySyncReport(int Reports, long PagesMarked, long Mappings);

/// <summary>A device whose state moves with the machine (VFIO migration v2 behind it).</summary>
public interface IMigratableDevice
{
    /// <summary>Unique id, equal on both sides.</summary>
    string Id { get; }

    /// <summary>State name for people and for VFIO_MIGRATION events: <c>running</c>, <c>pre-copy</c>, <c>stop-copy</c> ...</summary>
    string StateName { get; }

    /// <summary>Raised after each state change, on the thread that caused it.</summary>
    event Action<IMigratableDevice>? StateChanged;

    /// <summary>Bytes that STOP_COPY would transfer now, or an upper estimate; null when the device cannot say.</summary>
    ulong? PendingBytes { get; }

    /// <summary>Source: RUNNING to PRE_COPY if offered. With recovery: on failure the device runs.</summary>
    void BeginSave();

    /// <summary>
    /// Source: next chunk of saved state; 0 means none for now (before the switchover) or the end (after <see cref="StopAndCopy"/>).
    /// </summary>
    int ReadState(Span<byte> buffer);

    /// <summary>Source: no new DMA to peers (P2P states) if offered. Called for all devices before any <see cref="StopAndCopy"/>.</summary>
    void Quiesce();

    /// <summary>Source: to STOP_COPY. When it returns the device does no DMA and raises no interrupt.</summary>
    void StopAndCopy();

    /// <summary>Source after commit: STOP_COPY to STOP. Outside the downtime.</summary>
    void EndSave();

    /// <summary>Source on failure or cancel, from any state: back to what it was before (RUNNING, or STOP for a paused machine), by reset only if nothing else works.</summary>
    void Recover();

    /// <summary>Destination: to RESUMING.</summary>
    void BeginLoad();

    /// <summary>Destination: takes a chunk in order.</summary>
    void WriteState(ReadOnlySpan<byte> chunk);

    /// <summary>Destination: RESUMING to STOP; the device judges its data here. All DMA mappings are in place before.</summary>
    void EndLoad();

    /// <summary>Destination, and source after recovery of a stop: to RUNNING, through RUNNING_P2P for all devices first.</summary>
    void Start(StartPhase phase);
}

/// <summary>Starting several devices happens in two phases, so that none does peer-to-peer DMA to one that is not ready.</summary>
public enum StartPhase
{
    /// <summary>To RUNNING_P2P where offered.</summary>
    PeerToPeer,

    /// <summary>To RUNNING.</summary>
    Running,
}
