using Godwit.Machine;
using Godwit.Migration;

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
}
