namespace Godwit.Migration;

/// <summary>State of a migration, by QEMU's names (qapi MigrationStatus).</summary>
public enum MigrationState
{
#pragma warning disable CS1591
    None,
    Setup,
    Active,
    PreSwitchover,
    Device,
    Completed,
    Failed,
    Cancelling,
    Cancelled,
#pragma warning restore CS1591
}
