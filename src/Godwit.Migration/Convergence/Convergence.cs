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

    /// <summary>The decision.</summary>
    internal static ConvergenceDecision Decide(in ConvergenceInput input)
    {
        TimeSpan expected = Expect(input);
        if (expected <= input.DowntimeLimit)
        {
            return new ConvergenceDecision(
                input.PrecopyTime >= input.MinimumPrecopy ? ConvergenceStep.SwitchOver : ConvergenceStep.Hold, expected);
        }

        bool stalled = input.RoundsSinceBest >= StalledRounds && input.TimeSinceBest >= StalledTime;
        bool tooMany = input.UnconvergedRounds >= input.MaxRounds;
        // While the user wants pre-copy to go on anyway, the guest gets its chance to calm down.
        if ((stalled || tooMany) && input.PrecopyTime >= input.MinimumPrecopy)
            return new ConvergenceDecision(ConvergenceStep.GiveUp, expected, Explain(input, expected, tooMany));
        return new ConvergenceDecision(ConvergenceStep.Continue, expected);
    }

    private static TimeSpan Expect(in ConvergenceInput input)
    {
        double seconds = input.FixedTime.TotalSeconds
            + ((input.RemainingBytes + (double)input.DeviceBytes) / Math.Max(1, input.BytesPerSecond));
        // Beyond a year it is only a large number, and TimeSpan would overflow.
        return TimeSpan.FromSeconds(Math.Min(seconds, TimeSpan.FromDays(365).TotalSeconds));
    }

    private static string Explain(in ConvergenceInput input, TimeSpan expected, bool tooMany)
    {
        string when = tooMany
            ? $"after {input.UnconvergedRounds} rounds (the limit is {input.MaxRounds})"
            : string.Create(CultureInfo.InvariantCulture,
                $"in {input.RoundsSinceBest} rounds and {input.TimeSinceBest.TotalSeconds:0} s without progress");
        const double PagesPerMegabyte = 1e6 / RamPage.Size;
        return string.Create(CultureInfo.InvariantCulture, $"""
            Pre-copy does not converge {when}: memory is dirtied at {input.Rates.Total / PagesPerMegabyte:0.0} MB/s (vCPUs {input.Rates.Vcpu / PagesPerMegabyte:0.0}, devices {input.Rates.Device / PagesPerMegabyte:0.0}, VMM {input.Rates.Vmm / PagesPerMegabyte:0.0}) and sent at {input.BytesPerSecond / 1e6:0.0} MB/s; {input.RemainingBytes / 1e6:0.0} MB of RAM and {input.DeviceBytes / 1e6:0.0} MB of device state remain, an expected downtime of {expected.TotalMilliseconds:0} ms where {input.DowntimeLimit.TotalMilliseconds:0} ms are allowed. Raise downtime-limit or max-bandwidth, or slow the guest down
            """);
    }
}

/// <summary>What the decision needs of the rounds before.</summary>
internal sealed class ConvergenceHistory(TimeProvider clock)
{
    private TimeSpan _best = TimeSpan.MaxValue;
    private long _bestAt = clock.GetTimestamp();

    /// <summary>Rounds that ended without convergence.</summary>
    internal int UnconvergedRounds { get; private set; }

    /// <summary>Rounds since the lowest expected downtime.</summary>
    internal int RoundsSinceBest { get; private set; }

    /// <summary>Time since then.</summary>
    internal TimeSpan TimeSinceBest => clock.GetElapsedTime(_bestAt);

    /// <summary>Records a decision.</summary>
    internal void Add(in ConvergenceDecision decision)
    {
        if (decision.Step == ConvergenceStep.Continue)
            UnconvergedRounds++;
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
