namespace Godwit.Migration;

/// <summary>
/// The downtime by its parts; their sum is the downtime. Beside it are what was asked for and not needed: the pause before the switchover
/// and the verification.
/// </summary>
public sealed record DowntimeParts
{
#pragma warning disable CS1591
    public TimeSpan StopVcpus { get; init; }
    public TimeSpan StopDevices { get; init; }
    public TimeSpan FinalSync { get; init; }
    public TimeSpan FinalPages { get; init; }
    public TimeSpan DeviceState { get; init; }
    public TimeSpan MachineState { get; init; }
    public TimeSpan Load { get; init; }
    public TimeSpan Commit { get; init; }
    public TimeSpan Start { get; init; }
    public TimeSpan Verification { get; init; }
    public TimeSpan Pause { get; init; }
    public TimeSpan Total => StopVcpus + StopDevices + FinalSync + FinalPages + DeviceState + MachineState + Load + Commit + Start;
#pragma warning restore CS1591
}
