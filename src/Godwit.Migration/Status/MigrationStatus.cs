namespace Godwit.Migration;

/// <summary>An immutable snapshot for <c>query-migrate</c> and progress displays.</summary>
public sealed record MigrationStatus
{
#pragma warning disable CS1591 // units in the names
    public MigrationState State { get; init; }
    public string? Error { get; init; }
    public bool Incoming { get; init; }
    public TimeSpan TotalTime { get; init; }
    public TimeSpan SetupTime { get; init; }
    public TimeSpan? ExpectedDowntime { get; init; }
    public DowntimeEstimate Expected { get; init; }
    public TimeSpan DowntimeLimit { get; init; }
    public int ThrottlePercent { get; init; }
    public DowntimeParts? Downtime { get; init; }
    public long RamTotalBytes { get; init; }
    public long RamByFileBytes { get; init; }
    public long RamRemainingBytes { get; init; }
    public long RamTransferredBytes { get; init; }
    public long NormalPages { get; init; }
    public long ZeroPages { get; init; }
    public long DeviceStateBytes { get; init; }
    public long MachineStateBytes { get; init; }
    public long OverheadBytes { get; init; }
    public double BytesPerSecond { get; init; }
    public ConvergenceOutlook Outlook { get; init; }
    public double DirtyPagesPerSecondVcpu { get; init; }
    public double DirtyPagesPerSecondDevice { get; init; }
    public double DirtyPagesPerSecondVmm { get; init; }
    public long LogReports { get; init; }
    public long MappingsLive { get; init; }
    public IReadOnlyList<MigrationRound> Rounds { get; init; } = [];
    public IReadOnlyDictionary<string, string> DeviceStates { get; init; } = new Dictionary<string, string>(StringComparer.Ordinal);
    public PageVerification? Verification { get; init; }
#pragma warning restore CS1591
}
