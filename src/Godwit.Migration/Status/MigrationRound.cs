namespace Godwit.Migration;

/// <summary>One round of pre-copy (or the final one).</summary>
public sealed record MigrationRound
{
#pragma warning disable CS1591 // units in the names
    public required int Number { get; init; }
    public required TimeSpan Duration { get; init; }
    public required long PagesSent { get; init; }
    public required long ZeroPages { get; init; }
    public required long BytesSent { get; init; }
    public required long DirtyPagesVcpu { get; init; }
    public required long DirtyPagesDevice { get; init; }
    public required long DirtyPagesVmm { get; init; }
    public required int LogReports { get; init; }
    public required long RemainingPages { get; init; }
    public long UncoveredPages { get; init; }
    public long UnharvestedPages { get; init; }
    public long DeviceBytes { get; init; }
    public TimeSpan SwitchoverTime { get; init; }
    public TimeSpan DestinationLoadTime { get; init; }
    public TimeSpan DestinationStartTime { get; init; }
    public required double BytesPerSecond { get; init; }
    public double LinkBytesPerSecond { get; init; }
    public required TimeSpan ExpectedDowntime { get; init; }
    public TimeSpan DowntimeLimit { get; init; }
    public int ThrottlePercent { get; init; }
#pragma warning restore CS1591
}
