namespace Godwit.Migration;

/// <summary>The downtime by its parts, as it is expected if the guest is stopped now.</summary>
/// <param name="Stop">Stopping vCPUs and devices; assumed.</param>
/// <param name="LastReport">The last synchronisation of the dirty logs: as long as the latest.</param>
/// <param name="Pages">Sending what is dirty.</param>
/// <param name="State">Sending the devices' state, or the destination's devices' taking it, if that is slower.</param>
/// <param name="Load">Loading on the destination as it says, and its answer.</param>
/// <param name="Commit">The commit's way and its answer's.</param>
/// <param name="Start">Starting on the destination as it says.</param>
public readonly record struct DowntimeEstimate(
    TimeSpan Stop, TimeSpan LastReport, TimeSpan Pages, TimeSpan State, TimeSpan Load, TimeSpan Commit, TimeSpan Start)
{
    /// <summary>All of it.</summary>
    public TimeSpan Total => Stop + LastReport + Pages + State + Load + Commit + Start;
}
