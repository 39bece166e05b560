namespace Godwit.Migration;

/// <summary>Times that are no user settings; tests make some of them shorter.</summary>
internal sealed record MigrationTimes
{
    /// <summary>After this long without a sign of life the peer is given up.</summary>
    internal TimeSpan SilentPeer { get; init; } = LinkWatch.DefaultTimeout;

    /// <summary>
    /// Longest wait for the destination to load, to compare, or to start, while the guest is stopped. Arbitrary, above every device's own
    /// deadlines; a guest that stands still for longer is worse off than with a failed migration.
    /// </summary>
    internal TimeSpan Answer { get; init; } = TimeSpan.FromSeconds(120);

    /// <summary>After a cancel, how often writes are looked at, and how long one may have made no progress to be left alone.</summary>
    internal TimeSpan CancelGrace { get; init; } = TimeSpan.FromMilliseconds(50);

    /// <summary>Shortest time from one round to the next.</summary>
    internal TimeSpan ShortRound { get; init; } = TimeSpan.FromMilliseconds(20);

    /// <summary>Shortest time from one round to the next while only the shortest time of pre-copy is waited for.</summary>
    internal TimeSpan HoldPause { get; init; } = TimeSpan.FromMilliseconds(100);
}
