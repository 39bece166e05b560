namespace Godwit.Migration.Tests;

/// <summary>The decision when the destination says what it would need: it is waited until that is little enough, or said that it will not be.</summary>
public sealed class DestinationNeedsTests
{
    /// <summary>A round after which 1 MB is left of 2, which takes 10 ms; stopping and two answers take 9.</summary>
    private static readonly ConvergenceInput Near = new()
    {
        PrecopyTime = TimeSpan.FromSeconds(20),
        RoundBytes = 2_000_000,
        RemainingBytes = 1_000_000,
        DeviceBytes = 0,
        BytesPerSecond = 1e8,
        StopTime = TimeSpan.FromMilliseconds(5),
        SyncTime = TimeSpan.FromMilliseconds(2),
        RoundTrip = TimeSpan.FromMilliseconds(1),
        Rates = new DirtyRates(2000, 100, 10),
        UnconvergedRounds = 8,
        RoundsSinceBest = 4,
        TimeSinceBest = TimeSpan.FromSeconds(3),
        OutpacedRounds = 0,
        OutpacedTime = TimeSpan.Zero,
        DowntimeLimit = TimeSpan.FromMilliseconds(100),
        MinimumPrecopy = TimeSpan.Zero,
        MaxRounds = 100,
    };

    [Fact]
    public void Every_part_is_in_the_expectation()
    {
        DowntimeEstimate parts = Convergence.Decide(Near with { DeviceBytes = 500_000, Destination = Needs(30, 7) }).Expected;
        Assert.Equal(
            new DowntimeEstimate(
                Stop: TimeSpan.FromMilliseconds(5),
                LastReport: TimeSpan.FromMilliseconds(2),
                Pages: TimeSpan.FromMilliseconds(10),
                State: TimeSpan.FromMilliseconds(5),
                Load: TimeSpan.FromMilliseconds(31),
                Commit: TimeSpan.FromMilliseconds(1),
                Start: TimeSpan.FromMilliseconds(7)),
            parts);
        Assert.Equal(TimeSpan.FromMilliseconds(61), parts.Total);
    }

    [Theory]
    [InlineData(76, 5, true)] // 100 ms
    [InlineData(77, 5, false)]
    [InlineData(76, 6, false)]
    public void The_limit_includes_what_the_destination_needs(int load, int start, bool enough) =>
        Assert.Equal(enough ? ConvergenceStep.SwitchOver : ConvergenceStep.Continue, Convergence.Decide(Near with { Destination = Needs(load, start) }).Step);

    [Theory]
    [InlineData(95, 95, 3, true)] // as long as the shortest so far
    [InlineData(96, 95, 3, true)]
    [InlineData(90, 95, 3, false)] // 5 % shorter is progress
    [InlineData(500, 95, 3, true)]
    [InlineData(500, 95, 1, false)] // two rounds may be a busy moment
    public void A_destination_that_gets_no_faster_is_reported(int load, int least, int before, bool outpaced)
    {
        ConvergenceDecision decision = Convergence.Decide(Near with
        {
            Destination = Needs(load, 0),
            LeastDestinationTime = TimeSpan.FromMilliseconds(least),
            OutpacedRounds = before,
            OutpacedTime = TimeSpan.FromSeconds(1),
        });
        Assert.Equal(outpaced, decision.Outlook.Outpaced);
        Assert.Equal(ConvergenceStep.Continue, decision.Step);
        if (outpaced)
            Assert.Equal(ConvergenceObstacle.DestinationTime, decision.Outlook.Obstacle);
    }

    [Fact]
    public void It_is_given_up_by_name()
    {
        ConvergenceDecision decision = Convergence.Decide(Stuck);
        Assert.Equal(ConvergenceStep.GiveUp, decision.Step);
        Assert.Equal(
            "Pre-copy does not converge in 5 rounds in a row that left as much as they found: memory is dirtied at 8.6 MB/s (vCPUs 8.2, devices 0.4, "
            + "VMM 0.0) and sent at 100.0 MB/s; 1.0 MB of RAM and 0.0 MB of device state remain, the destination needs 812 ms to load and 20 ms to start, "
            + "an expected downtime of 851 ms where 100 ms are allowed. Loading and starting on the destination alone take longer: raise downtime-limit, "
            + "or use a destination with more free processors",
            decision.Reason);
    }

    [Fact]
    public void A_longer_downtime_is_allowed_if_that_was_asked_for_and_a_slower_guest_would_not_help()
    {
        ConvergenceInput stuck = Stuck with { OutpacedTime = TimeSpan.FromSeconds(1), MaxDowntime = TimeSpan.FromSeconds(1), MaxThrottle = 99 };
        ConvergenceDecision raised = Convergence.Decide(stuck with { OnStall = StallAction.RaiseDowntime });
        Assert.Equal(new Relief(TimeSpan.FromMilliseconds(200), 0), raised.Relief);
        Assert.Null(Convergence.Decide(stuck with { OnStall = StallAction.Throttle }).Relief);
    }

    [Fact]
    public void The_slower_of_link_and_device_counts_for_its_state()
    {
        ConvergenceInput input = Near with { DeviceBytes = 1_000_000 };
        Assert.Equal(TimeSpan.FromMilliseconds(10), Convergence.Decide(input).Expected.State);
        Assert.Equal(TimeSpan.FromMilliseconds(10), Convergence.Decide(input with { Destination = Needs(0, 0, 1e9) }).Expected.State);
        ConvergenceInput slow = input with { Destination = Needs(0, 0, 1e7), RoundDeviceBytes = 1_000_000, OutpacedRounds = 4, OutpacedTime = TimeSpan.FromSeconds(5), RoundBytes = 1_000_000 };
        ConvergenceDecision decision = Convergence.Decide(slow);
        Assert.Equal(TimeSpan.FromMilliseconds(100), decision.Expected.State);
        Assert.Equal(ConvergenceObstacle.DeviceState, decision.Outlook.Obstacle);
        Assert.Contains("1.0 MB of device state (the destination's devices take 10.0 MB/s) remain", decision.Reason, StringComparison.Ordinal);
    }

    [Fact]
    public void The_largest_that_a_destination_may_say_is_only_a_long_time()
    {
        ConvergenceDecision decision = Convergence.Decide(Stuck with
        {
            Destination = new DestinationNeeds(StreamFormat.MaxEstimate, StreamFormat.MaxEstimate, ulong.MaxValue),
            RemainingBytes = long.MaxValue,
            DeviceBytes = long.MaxValue,
            BytesPerSecond = 0,
        });
        Assert.Equal(ConvergenceStep.GiveUp, decision.Step);
        Assert.True(decision.ExpectedDowntime > TimeSpan.FromDays(730));
    }

    [Fact]
    public void What_it_only_said_again_is_no_round_without_progress()
    {
        Assert.Equal(5, Convergence.Decide(Stuck).Outlook.OutpacedRounds);
        ConvergenceDecision decision = Convergence.Decide(Stuck with { DestinationMeasured = false });
        Assert.Equal(4, decision.Outlook.OutpacedRounds);
        Assert.Equal(ConvergenceObstacle.DestinationTime, decision.Outlook.Obstacle);
        Assert.Equal(ConvergenceStep.Continue, decision.Step);
    }

    [Fact]
    public void The_shortest_that_it_said_is_remembered()
    {
        var history = new ConvergenceHistory(new ManualClock());
        Assert.Equal(TimeSpan.MaxValue, history.LeastDestinationTime);
        foreach (int load in (int[])[70, 30, 50])
            history.Add(Near with { Destination = Needs(load, 1) }, default);
        Assert.Equal(TimeSpan.FromMilliseconds(31), history.LeastDestinationTime);
    }

    private static ConvergenceInput Stuck => Near with
    {
        Destination = Needs(812, 20),
        LeastDestinationTime = TimeSpan.FromMilliseconds(830),
        OutpacedRounds = 4,
        OutpacedTime = TimeSpan.FromSeconds(5),
    };

    private static DestinationNeeds Needs(int load, int start, double bytesPerSecond = 0) =>
        new(TimeSpan.FromMilliseconds(load), TimeSpan.FromMilliseconds(start), (ulong)bytesPerSecond);
}
