namespace Godwit.VfioUser;

/// <summary>Migration state of a device; values of vfio.h vfio_device_mig_state.</summary>
public enum DeviceMigrationState : uint
{
#pragma warning disable CS1591 // vfio.h, enum vfio_device_mig_state
    Error = 0,
    Stop = 1,
    Running = 2,
    StopCopy = 3,
    Resuming = 4,
    RunningP2P = 5,
    PreCopy = 6,
    PreCopyP2P = 7,
#pragma warning restore CS1591
}

/// <summary>What migration a device offers; values of vfio.h VFIO_MIGRATION_*.</summary>
[Flags]
public enum MigrationSupport : ulong
{
    /// <summary>No migration.</summary>
    None = 0,

    /// <summary>Stop-and-copy; always there when anything is.</summary>
    StopCopy = 1,

    /// <summary>The P2P states.</summary>
    P2P = 2,

    /// <summary>The PRE_COPY states.</summary>
    PreCopy = 4,
}
