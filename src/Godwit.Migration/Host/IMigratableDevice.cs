namespace Godwit.Migration;

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

    /// <summary>
    /// Destination, fresh, before anything has come for it: takes its own state as it will another's and starts, so that it is known what
    /// that takes. Afterwards it is as it was. Null when it has more state of its own than is worth trying.
    /// </summary>
    /// <exception cref="IOException">It does not; it would not take another's either.</exception>
    DeviceRehearsal? Rehearse();

    /// <summary>Destination: to RESUMING.</summary>
    void BeginLoad();

    /// <summary>Destination: takes a chunk in order.</summary>
    void WriteState(ReadOnlySpan<byte> chunk);

    /// <summary>Destination: RESUMING to STOP; the device judges its data here. All DMA mappings are in place before.</summary>
    void EndLoad();

    /// <summary>Destination, and source after recovery of a stop: to RUNNING, through RUNNING_P2P for all devices first.</summary>
    void Start(StartPhase phase);
}

/// <summary>What a device took for its own state.</summary>
/// <param name="EndLoad">To judge it: <see cref="IMigratableDevice.EndLoad"/>.</param>
/// <param name="Start">To start: both phases of <see cref="IMigratableDevice.Start"/>.</param>
public readonly record struct DeviceRehearsal(TimeSpan EndLoad, TimeSpan Start);

/// <summary>Starting several devices happens in two phases, so that none does peer-to-peer DMA to one that is not ready.</summary>
public enum StartPhase
{
    /// <summary>To RUNNING_P2P where offered.</summary>
    PeerToPeer,

    /// <summary>To RUNNING.</summary>
    Running,
}
