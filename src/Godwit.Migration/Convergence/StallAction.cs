namespace Godwit.Migration;

/// <summary>What is done about a pre-copy that does not converge.</summary>
public enum StallAction
{
    /// <summary>The migration fails and the guest runs on.</summary>
    GiveUp,

    /// <summary>The downtime limit is doubled, again and again up to <see cref="MigrationParameters.MaxDowntime"/>.</summary>
    RaiseDowntime,

    /// <summary>The guest's vCPUs are slowed, more and more up to <see cref="MigrationParameters.MaxThrottle"/>.</summary>
    Throttle,
}
