using System.Collections.Immutable;
using Godwit.VfioUser;
using static Godwit.VfioUser.DeviceMigrationState;

namespace Godwit.Vfio;

/// <summary>What a device is left in when a phase fails.</summary>
internal enum RecoveryKind
{
    /// <summary>What it was in before the phase.</summary>
    Before,

    /// <summary>Where the device stopped on the way; <see cref="DeviceStateMachine.Recover"/> takes it from there.</summary>
    WhereItIs,
}

/// <summary>
/// A phase of a migration as data: from which states it goes where, and what a failure leaves. A state that is not listed stays as it is if it
/// is among <see cref="Already"/>, else the phase is out of order.
/// </summary>
internal sealed record MigrationPhase(
    string Name,
    ImmutableArray<(DeviceMigrationState From, DeviceMigrationState To)> Moves,
    ImmutableArray<DeviceMigrationState> Already,
    RecoveryKind Recovery)
{
    /// <summary>Source: saving begins while the guest runs. A paused machine's device stays in STOP.</summary>
    public static MigrationPhase BeginSave { get; } = new("begin of save", [(Running, PreCopy), (RunningP2P, PreCopyP2P)], [Stop, PreCopy, PreCopyP2P, StopCopy], RecoveryKind.Before);

    /// <summary>Source: no new peer-to-peer DMA.</summary>
    public static MigrationPhase Quiesce { get; } = new("quiesce", [(Running, RunningP2P), (PreCopy, PreCopyP2P)], [RunningP2P, PreCopyP2P, Stop, StopCopy], RecoveryKind.WhereItIs);

    /// <summary>Source: stands still and gives the rest of its state.</summary>
    public static MigrationPhase StopAndCopy { get; } = new(
        "stop and copy",
        [(PreCopy, StopCopy), (PreCopyP2P, StopCopy), (Running, StopCopy), (RunningP2P, StopCopy), (Stop, StopCopy)],
        [StopCopy],
        RecoveryKind.WhereItIs);

    /// <summary>Source: over and done.</summary>
    public static MigrationPhase EndSave { get; } = new("end of save", [(StopCopy, Stop)], [Stop], RecoveryKind.WhereItIs);

    /// <summary>Destination: takes state.</summary>
    public static MigrationPhase BeginLoad { get; } = new("begin of load", [(Running, Resuming), (RunningP2P, Resuming), (Stop, Resuming)], [Resuming], RecoveryKind.Before);

    /// <summary>Destination: the device judges what it got.</summary>
    public static MigrationPhase EndLoad { get; } = new("end of load", [(Resuming, Stop)], [], RecoveryKind.WhereItIs);

    /// <summary>First phase of starting several devices.</summary>
    public static MigrationPhase StartPeers { get; } = new("start of peer-to-peer DMA", [(Stop, RunningP2P)], [Running, RunningP2P], RecoveryKind.WhereItIs);

    /// <summary>Second phase of starting.</summary>
    public static MigrationPhase StartAll { get; } = new("start", [(Stop, Running), (RunningP2P, Running)], [Running], RecoveryKind.WhereItIs);

    /// <summary>The machine is paused. In the middle of a save the device stays in it, so that the save can go on.</summary>
    public static MigrationPhase Pause { get; } = new(
        "pause", [(Running, Stop), (RunningP2P, Stop), (PreCopy, StopCopy), (PreCopyP2P, StopCopy)], [Stop, StopCopy, Resuming], RecoveryKind.Before);

    /// <summary>The machine goes on.</summary>
    public static MigrationPhase Continue { get; } = new("continue", [(Stop, Running), (RunningP2P, Running)], [Running, PreCopy, PreCopyP2P], RecoveryKind.Before);
}
