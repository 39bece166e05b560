namespace Godwit.Machine;

/// <summary>Run states, QEMU's names (qapi RunState).</summary>
public enum RunState
{
    /// <summary>Built, never run.</summary>
    Prelaunch,

    /// <summary>Waits for an incoming migration.</summary>
    InMigrate,

    /// <summary>vCPUs run.</summary>
    Running,

    /// <summary>Stopped by an operator.</summary>
    Paused,

    /// <summary>Stopped for the switchover of an outgoing migration.</summary>
    FinishMigrate,

    /// <summary>Migrated away; runs again only when an operator says so.</summary>
    PostMigrate,

    /// <summary>Being taken down.</summary>
    Shutdown,

    /// <summary>The guest cannot run on.</summary>
    InternalError,
}
