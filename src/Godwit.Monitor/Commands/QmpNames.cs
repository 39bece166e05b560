using Godwit.Machine;
using Godwit.Migration;
using Godwit.Vfio;

namespace Godwit.Monitor;

/// <summary>QEMU's names of states (qapi RunState, MigrationStatus).</summary>
internal static class QmpNames
{
    /// <summary>The state that <c>migrate-continue</c> ends.</summary>
    public const string PreSwitchover = "pre-switchover";

    /// <summary>Name of a run state.</summary>
    public static string Of(RunState state) => state switch
    {
        RunState.Prelaunch => "prelaunch",
        RunState.InMigrate => "inmigrate",
        RunState.Running => "running",
        RunState.Paused => "paused",
        RunState.FinishMigrate => "finish-migrate",
        RunState.PostMigrate => "postmigrate",
        RunState.Shutdown => "shutdown",
        _ => "internal-error",
    };

    /// <summary>Name of a migration's state.</summary>
    public static string Of(MigrationState state) => state switch
    {
        MigrationState.Setup => "setup",
        MigrationState.Active => "active",
        MigrationState.PreSwitchover => PreSwitchover,
        MigrationState.Device => "device",
        MigrationState.Completed => "completed",
        MigrationState.Failed => "failed",
        MigrationState.Cancelling => "cancelling",
        MigrationState.Cancelled => "cancelled",
        _ => "none",
    };

    /// <summary>Name of what the user wants as a device's dirty source, as on the command line.</summary>
    public static string Of(DirtyTrackingMode mode) => mode switch
    {
        DirtyTrackingMode.Auto => "auto",
        DirtyTrackingMode.Device => "device",
        DirtyTrackingMode.Iommu => "iommu",
        DirtyTrackingMode.Pessimistic => "pessimistic",
        _ => "off",
    };

    /// <summary>Name of a device's dirty source.</summary>
    public static string Of(DirtySourceKind source) => source switch
    {
        DirtySourceKind.DeviceLog => "device-log",
        DirtySourceKind.HostIommu => "host-iommu",
        DirtySourceKind.Pessimistic => "pessimistic",
        _ => "none",
    };

    /// <summary>Name of how pages are compressed.</summary>
    public static string Of(PageCompression compression) => compression switch
    {
        PageCompression.Lz4 => "lz4",
        PageCompression.Zstd => "zstd",
        _ => "none",
    };

    /// <summary>How <paramref name="name"/> says that pages are compressed.</summary>
    /// <exception cref="QmpException">It is none of the names.</exception>
    public static PageCompression ToPageCompression(string name) => name switch
    {
        "none" => PageCompression.None,
        "lz4" => PageCompression.Lz4,
        "zstd" => PageCompression.Zstd,
        _ => throw new QmpException($"Argument 'multifd-compression' is '{name}'; it must be none, lz4 or zstd"),
    };

    /// <summary>Name of what is done about a pre-copy that does not converge.</summary>
    public static string Of(StallAction action) => action switch
    {
        StallAction.RaiseDowntime => "raise-downtime",
        StallAction.Throttle => "throttle",
        _ => "give-up",
    };

    /// <summary>What <paramref name="name"/> says is done about it.</summary>
    /// <exception cref="QmpException">It is none of the names.</exception>
    public static StallAction ToStallAction(string name) => name switch
    {
        "give-up" => StallAction.GiveUp,
        "raise-downtime" => StallAction.RaiseDowntime,
        "throttle" => StallAction.Throttle,
        _ => throw new QmpException($"Argument 'x-on-stall' is '{name}'; it must be give-up, raise-downtime or throttle"),
    };

    /// <summary>Name of what keeps a migration from converging.</summary>
    public static string Of(ConvergenceObstacle obstacle) => obstacle switch
    {
        ConvergenceObstacle.SwitchoverTime => "switchover-time",
        ConvergenceObstacle.DestinationTime => "destination-time",
        ConvergenceObstacle.DeviceState => "device-state",
        ConvergenceObstacle.UncoveredPages => "uncovered-pages",
        ConvergenceObstacle.DeviceWrites => "device-writes",
        ConvergenceObstacle.GuestWrites => "guest-writes",
        _ => "none",
    };
}
