namespace Godwit.Migration;

/// <summary>What keeps the expected downtime above the limit; the first that does by itself.</summary>
public enum ConvergenceObstacle
{
    /// <summary>Nothing: it would do, or is getting nearer.</summary>
    None,

    /// <summary>Stopping, the last sync and the answers take longer than the limit, whatever is left to send.</summary>
    SwitchoverTime,

    /// <summary>The destination needs too long to load and start.</summary>
    DestinationTime,

    /// <summary>The state of devices takes too long to send or, on the destination, to take in.</summary>
    DeviceState,

    /// <summary>Pages of which nothing tells whether devices write them, so that they are sent in every round.</summary>
    UncoveredPages,

    /// <summary>Devices write memory as fast as it is sent.</summary>
    DeviceWrites,

    /// <summary>vCPUs (and the VMM) write memory as fast as it is sent.</summary>
    GuestWrites,
}

/// <summary>Whether pre-copy gets nearer to its end.</summary>
/// <param name="OutpacedRounds">Rounds in a row, with the latest, that left as much to send as they found; 0 while it gets nearer.</param>
/// <param name="Obstacle">What is in the way, from the first of these rounds on.</param>
public readonly record struct ConvergenceOutlook(int OutpacedRounds, ConvergenceObstacle Obstacle)
{
    /// <summary>Rounds without progress from which it is reported: two may be a burst of the guest.</summary>
    public const int OutpacedFrom = 3;

    /// <summary>Whether memory is dirtied faster than it is sent.</summary>
    public bool Outpaced => OutpacedRounds >= OutpacedFrom;
}
