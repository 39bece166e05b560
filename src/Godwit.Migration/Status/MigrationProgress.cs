namespace Godwit.Migration;

/// <summary>
/// The numbers of one migration as its coordinating thread counts them. <see cref="Publish"/> makes an immutable snapshot; only that is seen
/// by other threads.
/// </summary>
internal sealed class MigrationProgress
{
    // Rounds shown. A long minimum time of pre-copy makes many small ones; the first and the latest tell the story.
    private const int RoundsKept = 1000;

    private static readonly TimeSpan PublishEvery = TimeSpan.FromMilliseconds(50);

    private readonly TimeProvider _clock;
    private readonly IMigrationHost _host;
    private readonly long _startedAt;
    private long _publishedAt;
    private TimeSpan? _total;
    private MigrationRound[] _rounds = [];
    private volatile MigrationStatus _snapshot;

    internal MigrationProgress(IMigrationHost host, TimeProvider clock, bool incoming)
    {
        _clock = clock;
        _host = host;
        _startedAt = clock.GetTimestamp();
        Incoming = incoming;
        foreach (Memory.RamBlock block in host.Ram.Blocks)
            RamTotalBytes += (long)block.Size;
        _snapshot = Build();
    }

    internal bool Incoming { get; }

    internal MigrationState State { get; set; } = MigrationState.Setup;

    internal string? Error { get; set; }

    internal TimeSpan SetupTime { get; set; }

    internal TimeSpan? ExpectedDowntime { get; set; }

    /// <summary>Parts of the latest expectation; stays when it is over, to be compared with what it was.</summary>
    internal DowntimeEstimate Expected { get; set; }

    internal TimeSpan DowntimeLimit { get; set; }

    internal int ThrottlePercent { get; set; }

    internal DowntimeParts? Downtime { get; set; }

    internal long RamTotalBytes { get; }

    /// <summary>RAM that has gone over by descriptor.</summary>
    internal long RamByFileBytes { get; set; }

    internal long RamRemainingBytes { get; set; }

    internal long NormalPages { get; set; }

    internal long ZeroPages { get; set; }

    internal long DeviceStateBytes { get; set; }

    internal long MachineStateBytes { get; set; }

    /// <summary>Bytes on the wire; what is not contents of pages or states is overhead.</summary>
    internal long StreamBytes { get; set; }

    internal double BytesPerSecond { get; set; }

    internal DirtyRates Rates { get; set; }

    internal ConvergenceOutlook Outlook { get; set; }

    internal long LogReports { get; set; }

    internal long MappingsLive { get; set; }

    internal PageVerification? Verification { get; set; }

    /// <summary>Time since it began.</summary>
    internal TimeSpan Elapsed => _clock.GetElapsedTime(_startedAt);

    /// <summary>The snapshot, with the time up to now while it is going on. Any thread.</summary>
    internal MigrationStatus Status
    {
        get
        {
            MigrationStatus snapshot = _snapshot;
            return IsOver(snapshot.State) ? snapshot : snapshot with { TotalTime = Elapsed };
        }
    }

    internal static bool IsOver(MigrationState state) =>
        state is MigrationState.None or MigrationState.Completed or MigrationState.Failed or MigrationState.Cancelled;

    /// <summary>Adds a round to the list.</summary>
    internal void AddRound(MigrationRound round)
    {
        _rounds = _rounds.Length < RoundsKept ? [.. _rounds, round] : [_rounds[0], .. _rounds[2..], round];
        Publish();
    }

    /// <summary>Publishes when the last snapshot is old enough; cheap to call often.</summary>
    internal void PublishSometimes()
    {
        if (_clock.GetElapsedTime(_publishedAt) >= PublishEvery)
            Publish();
    }

    /// <summary>Publishes.</summary>
    internal void Publish()
    {
        _publishedAt = _clock.GetTimestamp();
        if (IsOver(State))
            _total ??= Elapsed;
        _snapshot = Build();
    }

    private MigrationStatus Build()
    {
        long pageBytes = NormalPages * Memory.RamPage.Size;
        var devices = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach (IMigratableDevice device in _host.Devices)
            devices[device.Id] = device.StateName;
        return new MigrationStatus
        {
            State = State,
            Error = Error,
            Incoming = Incoming,
            TotalTime = _total ?? Elapsed,
            SetupTime = SetupTime,
            ExpectedDowntime = ExpectedDowntime,
            Expected = Expected,
            DowntimeLimit = DowntimeLimit,
            ThrottlePercent = ThrottlePercent,
            Downtime = Downtime,
            RamTotalBytes = RamTotalBytes,
            RamByFileBytes = RamByFileBytes,
            RamRemainingBytes = Math.Max(0, RamRemainingBytes),
            RamTransferredBytes = pageBytes,
            NormalPages = NormalPages,
            ZeroPages = ZeroPages,
            DeviceStateBytes = DeviceStateBytes,
            MachineStateBytes = MachineStateBytes,
            OverheadBytes = Math.Max(0, StreamBytes - pageBytes - DeviceStateBytes - MachineStateBytes),
            BytesPerSecond = BytesPerSecond,
            Outlook = State is MigrationState.Active ? Outlook : default,
            DirtyPagesPerSecondVcpu = Rates.Vcpu,
            DirtyPagesPerSecondDevice = Rates.Device,
            DirtyPagesPerSecondVmm = Rates.Vmm,
            LogReports = LogReports,
            MappingsLive = MappingsLive,
            Rounds = _rounds,
            DeviceStates = devices,
            Verification = Verification,
        };
    }
}
