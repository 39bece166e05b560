namespace Godwit.Migration;

/// <summary>All that the decision after a round depends on.</summary>
internal readonly record struct ConvergenceInput
{
    /// <summary>With what has a default.</summary>
    public ConvergenceInput()
    {
    }

    /// <summary>Since pre-copy began.</summary>
    public required TimeSpan PrecopyTime { get; init; }

    /// <summary>Bytes of RAM marked dirty when the round began: what it sent.</summary>
    public required long RoundBytes { get; init; }

    /// <summary>Bytes of RAM marked dirty now.</summary>
    public required long RemainingBytes { get; init; }

    /// <summary>Those of them that will be marked again by every sync, because nothing tells whether a device writes them.</summary>
    public long UncoveredBytes { get; init; }

    /// <summary>Bytes of RAM that devices have unmapped and of which the log has not been read yet. Not in <see cref="RemainingBytes"/>.</summary>
    public long UnharvestedBytes { get; init; }

    /// <summary>Bytes that the devices would have transferred had they been stopped after the round before.</summary>
    public long RoundDeviceBytes { get; init; }

    /// <summary>Bytes that the devices would still transfer when stopped.</summary>
    public required long DeviceBytes { get; init; }

    /// <summary>Bytes a second that the link takes.</summary>
    public required double BytesPerSecond { get; init; }

    /// <summary>Stopping vCPUs and devices.</summary>
    public required TimeSpan StopTime { get; init; }

    /// <summary>The last sync.</summary>
    public TimeSpan SyncTime { get; init; }

    /// <summary>The link's way there and back: once for the load's answer, once for the commit's.</summary>
    public TimeSpan RoundTrip { get; init; }

    /// <summary>What the destination says that it would need.</summary>
    public DestinationNeeds Destination { get; init; }

    /// <summary>Whether it measured that in this round; else it is what it said before.</summary>
    public bool DestinationMeasured { get; init; } = true;

    /// <summary>The shortest <see cref="DestinationNeeds.Time"/> that it said before.</summary>
    public TimeSpan LeastDestinationTime { get; init; } = TimeSpan.MaxValue;

    /// <summary>What the source and the link need whatever is left to send.</summary>
    public TimeSpan SwitchoverTime => StopTime + SyncTime + (2 * RoundTrip);

    /// <summary>Pages dirtied a second, by source.</summary>
    public required DirtyRates Rates { get; init; }

    /// <summary>Rounds that ended without convergence, so far.</summary>
    public required int UnconvergedRounds { get; init; }

    /// <summary>Rounds since the expected downtime was lowest.</summary>
    public required int RoundsSinceBest { get; init; }

    /// <summary>Time since then.</summary>
    public required TimeSpan TimeSinceBest { get; init; }

    /// <summary>Rounds in a row, up to the one before this, that left as much to send as they found.</summary>
    public required int OutpacedRounds { get; init; }

    /// <summary>Time since the first of them ended.</summary>
    public required TimeSpan OutpacedTime { get; init; }

    /// <summary>What is allowed: the setting, or more after a <see cref="Relief"/>.</summary>
    public required TimeSpan DowntimeLimit { get; init; }

    /// <summary>Setting.</summary>
    public required TimeSpan MinimumPrecopy { get; init; }

    /// <summary>Setting.</summary>
    public required int MaxRounds { get; init; }

    /// <summary>Setting.</summary>
    public StallAction OnStall { get; init; }

    /// <summary>Setting; <see cref="DowntimeLimit"/> is what has come of it so far.</summary>
    public TimeSpan MaxDowntime { get; init; }

    /// <summary>Setting.</summary>
    public int MaxThrottle { get; init; }

    /// <summary>Per cent of the time in which vCPUs do not execute now.</summary>
    public int Throttle { get; init; }
}

/// <summary>Pages newly dirtied a second.</summary>
/// <param name="Vcpu">By guest CPUs.</param>
/// <param name="Device">By devices' DMA.</param>
/// <param name="Vmm">By the VMM.</param>
internal readonly record struct DirtyRates(double Vcpu, double Device, double Vmm)
{
    internal double Total => Vcpu + Device + Vmm;
}

/// <summary>What to do after a round.</summary>
internal enum ConvergenceStep
{
    /// <summary>Send another round.</summary>
    Continue,

    /// <summary>It would do, but the shortest time of pre-copy is not over: another round, without hurry.</summary>
    Hold,

    /// <summary>Stop the guest and send the rest.</summary>
    SwitchOver,

    /// <summary>It will not do.</summary>
    GiveUp,
}

/// <summary>The decision after a round.</summary>
/// <param name="Step">What to do.</param>
/// <param name="Expected">Downtime if the guest were stopped now.</param>
/// <param name="Outlook">Whether it is getting nearer, and what is in the way.</param>
/// <param name="Reason">Why it gives up, for people; null otherwise.</param>
/// <param name="Relief">What is changed before it continues; null for nothing.</param>
internal readonly record struct ConvergenceDecision(
    ConvergenceStep Step, DowntimeEstimate Expected, ConvergenceOutlook Outlook = default, string? Reason = null, Relief? Relief = null)
{
    /// <summary>All of it.</summary>
    internal TimeSpan ExpectedDowntime => Expected.Total;
}
