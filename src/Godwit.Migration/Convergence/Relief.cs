namespace Godwit.Migration;

/// <summary>What makes a stalled pre-copy converge: the settings from now on.</summary>
/// <param name="DowntimeLimit">Downtime that is allowed.</param>
/// <param name="Throttle">Per cent of the time in which vCPUs do not execute.</param>
internal readonly record struct Relief(TimeSpan DowntimeLimit, int Throttle)
{
    /// <summary>First throttle, and by how much more each further step: QEMU's defaults of <c>cpu-throttle-initial</c> and <c>cpu-throttle-increment</c>.</summary>
    internal const int FirstThrottle = 20;

    /// <summary>See <see cref="FirstThrottle"/>.</summary>
    internal const int MoreThrottle = 10;

    /// <summary>
    /// Time without progress, beside <see cref="ConvergenceOutlook.OutpacedFrom"/> rounds, after which it is given. Shorter than for giving up:
    /// it can be taken back, and each step needs some.
    /// </summary>
    internal static readonly TimeSpan After = TimeSpan.FromSeconds(1);

    /// <summary>The next step; null when there is none, or none that would help.</summary>
    internal static Relief? Next(in ConvergenceInput input, ConvergenceObstacle obstacle) => input.OnStall switch
    {
        StallAction.RaiseDowntime when input.DowntimeLimit < input.MaxDowntime =>
            new Relief(input.DowntimeLimit * 2 < input.MaxDowntime ? input.DowntimeLimit * 2 : input.MaxDowntime, input.Throttle),
        // A slower guest has its devices write less, too; what is there whatever is written stays.
        StallAction.Throttle when input.Throttle < input.MaxThrottle && obstacle is ConvergenceObstacle.GuestWrites or ConvergenceObstacle.DeviceWrites =>
            new Relief(input.DowntimeLimit, Math.Min(input.MaxThrottle, input.Throttle == 0 ? FirstThrottle : input.Throttle + MoreThrottle)),
        _ => null,
    };
}
