using System.Globalization;
using Godwit.Memory;

namespace Godwit.Migration;

/// <summary>Decides after each round of pre-copy. Pure: the same input gives the same answer.</summary>
internal static class Convergence
{
    /// <summary>Rounds without a lower expected downtime, and time, after which it has stalled. Both, so that neither many tiny rounds nor one slow phase of the guest ends it.</summary>
    internal const int StalledRounds = 25;

    /// <summary>See <see cref="StalledRounds"/>.</summary>
    internal static readonly TimeSpan StalledTime = TimeSpan.FromSeconds(30);

    /// <summary>
    /// Rounds in a row that left as much as they found, and time, after which it gives up because memory is dirtied faster than it is sent. Far
    /// sooner than a stall: the numbers say that waiting is of no use, unless the guest becomes another one.
    /// </summary>
    internal const int HopelessRounds = 5;

    /// <summary>See <see cref="HopelessRounds"/>.</summary>
    internal static readonly TimeSpan HopelessTime = TimeSpan.FromSeconds(5);

    /// <summary>Part of what a round sent that may be left for it to count as progress.</summary>
    internal const double Progress = 0.95;

    /// <summary>Bytes of device state less than before that are progress, however much there is.</summary>
    internal const double DeviceProgress = 16 << 20;

    /// <summary>Expected downtimes up to this many times the limit may come under it by a lucky round.</summary>
    internal const double Luck = 2;

    private const double PagesPerMegabyte = 1e6 / RamPage.Size;

    /// <summary>The decision.</summary>
    internal static ConvergenceDecision Decide(in ConvergenceInput input)
    {
        DowntimeEstimate parts = Estimate(input);
        TimeSpan expected = parts.Total;
        if (expected <= input.DowntimeLimit)
        {
            return new ConvergenceDecision(
                input.PrecopyTime >= input.MinimumPrecopy ? ConvergenceStep.SwitchOver : ConvergenceStep.Hold, parts);
        }

        ConvergenceObstacle obstacle = FindObstacle(input);
        Relief? next = Relief.Next(input, obstacle);
        ConvergenceOutlook outlook = Look(input, expected, obstacle, hopes: next is null);
        bool hopeless = outlook.OutpacedRounds >= HopelessRounds && input.OutpacedTime >= HopelessTime;
        bool stalled = input.RoundsSinceBest >= StalledRounds && input.TimeSinceBest >= StalledTime;
        bool tooMany = input.UnconvergedRounds >= input.MaxRounds;
        bool held = outlook.Outpaced && input.OutpacedTime >= Relief.After;
        if ((held || stalled) && !tooMany && input.PrecopyTime >= input.MinimumPrecopy && next is { } relief)
            return new ConvergenceDecision(ConvergenceStep.Continue, parts, outlook, Relief: relief);
        // While the user wants pre-copy to go on anyway, the guest gets its chance to calm down.
        if ((hopeless || stalled || tooMany) && input.PrecopyTime >= input.MinimumPrecopy)
        {
            string when = hopeless
                ? $"in {outlook.OutpacedRounds} rounds in a row that left as much as they found"
                : tooMany
                    ? $"after {input.UnconvergedRounds} rounds (the limit is {input.MaxRounds})"
                    : string.Create(CultureInfo.InvariantCulture, $"in {input.RoundsSinceBest} rounds and {input.TimeSinceBest.TotalSeconds:0} s without progress");
            return new ConvergenceDecision(ConvergenceStep.GiveUp, parts, outlook, Explain(input, expected, when));
        }

        return new ConvergenceDecision(ConvergenceStep.Continue, parts, outlook);
    }

    private static ConvergenceOutlook Look(in ConvergenceInput input, TimeSpan expected, ConvergenceObstacle obstacle, bool hopes)
    {
        bool written = obstacle is ConvergenceObstacle.DeviceWrites or ConvergenceObstacle.GuestWrites;
        if (obstacle == ConvergenceObstacle.DestinationTime)
        {
            // What is left to send has nothing to do with it. A round in which it was not measured says nothing; what is measured varies, so only a
            // new least is progress.
            if (!input.DestinationMeasured)
                return new ConvergenceOutlook(input.OutpacedRounds, obstacle);
            return input.Destination.Time >= input.LeastDestinationTime * Progress ? new ConvergenceOutlook(input.OutpacedRounds + 1, obstacle) : default;
        }

        // What is written may become less by chance when it is near the limit; what is there whatever is written does not. While something can
        // be done about it, chance is not waited for.
        bool outpaced = input.RemainingBytes >= input.RoundBytes * Progress
            && input.DeviceBytes >= input.RoundDeviceBytes - Math.Min(input.RoundDeviceBytes * (1 - Progress), DeviceProgress)
            && (!written || !hopes || expected > input.DowntimeLimit * Luck);
        return outpaced ? new ConvergenceOutlook(input.OutpacedRounds + 1, obstacle) : default;
    }

    private static ConvergenceObstacle FindObstacle(in ConvergenceInput input)
    {
        TimeSpan time = input.SwitchoverTime;
        if (time > input.DowntimeLimit)
            return ConvergenceObstacle.SwitchoverTime;
        time += input.Destination.Time;
        if (time > input.DowntimeLimit)
            return ConvergenceObstacle.DestinationTime;
        time += StateTime(input);
        if (time > input.DowntimeLimit)
            return ConvergenceObstacle.DeviceState;
        time += SendTime(input, input.UncoveredBytes);
        if (time > input.DowntimeLimit)
            return ConvergenceObstacle.UncoveredPages;
        return input.Rates.Device > input.Rates.Vcpu + input.Rates.Vmm ? ConvergenceObstacle.DeviceWrites : ConvergenceObstacle.GuestWrites;
    }

    private static DowntimeEstimate Estimate(in ConvergenceInput input) => new(
        input.StopTime,
        input.SyncTime,
        SendTime(input, (double)input.RemainingBytes + input.UnharvestedBytes),
        StateTime(input),
        input.RoundTrip + input.Destination.Load,
        input.RoundTrip,
        input.Destination.Start);

    private static TimeSpan SendTime(in ConvergenceInput input, double bytes) => TimeFor(bytes, input.BytesPerSecond);

    /// <summary>A destination gives a device its state as it comes, so the slower of link and device counts.</summary>
    private static TimeSpan StateTime(in ConvergenceInput input)
    {
        double taken = input.Destination.DeviceBytesPerSecond;
        return TimeFor(input.DeviceBytes, taken > 0 ? Math.Min(taken, input.BytesPerSecond) : input.BytesPerSecond);
    }

    private static TimeSpan TimeFor(double bytes, double bytesPerSecond) =>
        // Beyond a year it is only a large number, and TimeSpan would overflow.
        TimeSpan.FromSeconds(Math.Min(bytes / Math.Max(1, bytesPerSecond), TimeSpan.FromDays(365).TotalSeconds));

    private static string Explain(in ConvergenceInput input, TimeSpan expected, string when)
    {
        string uncovered = input.UncoveredBytes > 0
            ? string.Create(CultureInfo.InvariantCulture, $" ({input.UncoveredBytes / 1e6:0.0} MB of it sent in every round, because nothing tells whether devices write it)")
            : string.Empty;
        string unharvested = input.UnharvestedBytes > 0
            ? string.Create(CultureInfo.InvariantCulture, $", {input.UnharvestedBytes / 1e6:0.0} MB unmapped and not looked at yet")
            : string.Empty;
        string throttled = input.Throttle > 0
            ? string.Create(CultureInfo.InvariantCulture, $", although the vCPUs are slowed by {input.Throttle} %")
            : string.Empty;
        string slow = input.Destination.DeviceBytesPerSecond is var taken and > 0 && taken < input.BytesPerSecond
            ? string.Create(CultureInfo.InvariantCulture, $" (the destination's devices take {taken / 1e6:0.0} MB/s)")
            : string.Empty;
        string destination = input.Destination.Time > TimeSpan.Zero
            ? string.Create(CultureInfo.InvariantCulture, $", the destination needs {input.Destination.Load.TotalMilliseconds:0} ms to load and {input.Destination.Start.TotalMilliseconds:0} ms to start")
            : string.Empty;
        return string.Create(CultureInfo.InvariantCulture, $"""
            Pre-copy does not converge {when}: memory is dirtied at {input.Rates.Total / PagesPerMegabyte:0.0} MB/s (vCPUs {input.Rates.Vcpu / PagesPerMegabyte:0.0}, devices {input.Rates.Device / PagesPerMegabyte:0.0}, VMM {input.Rates.Vmm / PagesPerMegabyte:0.0}) and sent at {input.BytesPerSecond / 1e6:0.0} MB/s; {input.RemainingBytes / 1e6:0.0} MB of RAM{uncovered}{unharvested} and {input.DeviceBytes / 1e6:0.0} MB of device state{slow} remain{destination}, an expected downtime of {expected.TotalMilliseconds:0} ms where {input.DowntimeLimit.TotalMilliseconds:0} ms are allowed{throttled}. {WayOut(FindObstacle(input))}
            """);
    }

    private static string WayOut(ConvergenceObstacle obstacle) => obstacle switch
    {
        ConvergenceObstacle.SwitchoverTime => "The switchover alone takes longer: raise downtime-limit",
        ConvergenceObstacle.DestinationTime => "Loading and starting on the destination alone take longer: raise downtime-limit, or use a destination with more free processors",
        ConvergenceObstacle.DeviceState => "The state of the devices alone takes longer: raise downtime-limit, or use a faster link",
        ConvergenceObstacle.UncoveredPages =>
            "What is sent in every round alone takes longer: raise downtime-limit, let the guest map less at once, or use a device whose log covers more",
        _ => "Raise downtime-limit or max-bandwidth, or slow the guest down",
    };
}

/// <summary>What the decision needs of the rounds before.</summary>
internal sealed class ConvergenceHistory(TimeProvider clock)
{
    private TimeSpan _best = TimeSpan.MaxValue;
    private long _bestAt = clock.GetTimestamp();
    private long _outpacedAt;

    /// <summary>Rounds that ended without convergence.</summary>
    internal int UnconvergedRounds { get; private set; }

    /// <summary>The shortest time that the destination has said it needs.</summary>
    internal TimeSpan LeastDestinationTime { get; private set; } = TimeSpan.MaxValue;

    /// <summary>Rounds since the lowest expected downtime.</summary>
    internal int RoundsSinceBest { get; private set; }

    /// <summary>Time since then.</summary>
    internal TimeSpan TimeSinceBest => clock.GetElapsedTime(_bestAt);

    /// <summary>Rounds in a row that left as much as they found.</summary>
    internal int OutpacedRounds { get; private set; }

    /// <summary>Time since the first of them ended; zero when there is none.</summary>
    internal TimeSpan OutpacedTime => OutpacedRounds == 0 ? TimeSpan.Zero : clock.GetElapsedTime(_outpacedAt);

    /// <summary>Records a decision and what it was made from.</summary>
    internal void Add(in ConvergenceInput input, in ConvergenceDecision decision)
    {
        if (input.Destination.Time < LeastDestinationTime)
            LeastDestinationTime = input.Destination.Time;
        if (OutpacedRounds == 0)
            _outpacedAt = clock.GetTimestamp();
        OutpacedRounds = decision.Relief is null ? decision.Outlook.OutpacedRounds : 0;
        if (decision.Step == ConvergenceStep.Continue)
            UnconvergedRounds++;
        if (decision.Relief is not null)
            _best = TimeSpan.MaxValue; // another guest, or another aim: its progress counts from here
        if (decision.ExpectedDowntime < _best)
        {
            _best = decision.ExpectedDowntime;
            _bestAt = clock.GetTimestamp();
            RoundsSinceBest = 0;
        }
        else
        {
            RoundsSinceBest++;
        }
    }
}
