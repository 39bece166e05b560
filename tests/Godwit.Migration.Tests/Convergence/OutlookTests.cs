namespace Godwit.Migration.Tests;

/// <summary>When it is said that pre-copy gets no nearer to its end, what is in the way, and how soon that ends it.</summary>
public sealed class OutlookTests
{
    /// <summary>A round that sent 80 MB and left 80 MB, of which the link takes 100 MB a second.</summary>
    private static readonly ConvergenceInput NoProgress = new()
    {
        PrecopyTime = TimeSpan.FromSeconds(20),
        RoundBytes = 80_000_000,
        RemainingBytes = 80_000_000,
        RoundDeviceBytes = 1_000_000,
        DeviceBytes = 1_000_000,
        BytesPerSecond = 1e8,
        StopTime = TimeSpan.FromMilliseconds(50),
        Rates = new DirtyRates(20_000, 1000, 10),
        UnconvergedRounds = 8,
        RoundsSinceBest = 4,
        TimeSinceBest = TimeSpan.FromSeconds(3),
        OutpacedRounds = 0,
        OutpacedTime = TimeSpan.Zero,
        DowntimeLimit = TimeSpan.FromMilliseconds(300),
        MinimumPrecopy = TimeSpan.Zero,
        MaxRounds = 100,
    };

    [Theory]
    [InlineData(0, false)]
    [InlineData(1, false)]
    [InlineData(2, true)]
    public void It_is_reported_from_the_third_round_on(int before, bool outpaced)
    {
        ConvergenceDecision decision = Convergence.Decide(NoProgress with { OutpacedRounds = before, OutpacedTime = TimeSpan.FromSeconds(before) });
        Assert.Equal(ConvergenceStep.Continue, decision.Step);
        Assert.Equal(new ConvergenceOutlook(before + 1, ConvergenceObstacle.GuestWrites), decision.Outlook);
        Assert.Equal(outpaced, decision.Outlook.Outpaced);
    }

    [Fact]
    public void It_ends_pre_copy_after_five_rounds_and_five_seconds()
    {
        ConvergenceInput fifth = NoProgress with { OutpacedRounds = 4, OutpacedTime = TimeSpan.FromSeconds(5) };
        ConvergenceDecision decision = Convergence.Decide(fifth);
        Assert.Equal(ConvergenceStep.GiveUp, decision.Step);
        Assert.Equal(
            "Pre-copy does not converge in 5 rounds in a row that left as much as they found: memory is dirtied at 86.1 MB/s (vCPUs 81.9, devices 4.1, "
            + "VMM 0.0) and sent at 100.0 MB/s; 80.0 MB of RAM and 1.0 MB of device state remain, an expected downtime of 860 ms where 300 ms are "
            + "allowed. Raise downtime-limit or max-bandwidth, or slow the guest down",
            decision.Reason);
        Assert.Equal(ConvergenceStep.Continue, Convergence.Decide(fifth with { OutpacedRounds = 3 }).Step);
        Assert.Equal(ConvergenceStep.Continue, Convergence.Decide(fifth with { OutpacedTime = TimeSpan.FromSeconds(4.9) }).Step);
        Assert.Equal(ConvergenceStep.Continue, Convergence.Decide(fifth with { MinimumPrecopy = TimeSpan.FromSeconds(30) }).Step);
    }

    [Fact]
    public void A_round_that_leaves_less_is_progress_and_the_count_begins_anew()
    {
        ConvergenceInput better = NoProgress with { RemainingBytes = 75_000_000, OutpacedRounds = 4, OutpacedTime = TimeSpan.FromSeconds(60) };
        Assert.Equal(default, Convergence.Decide(better).Outlook);
        Assert.Equal(ConvergenceStep.Continue, Convergence.Decide(better).Step);
    }

    [Fact]
    public void Near_the_limit_a_lucky_round_is_waited_for()
    {
        ConvergenceInput near = NoProgress with { RoundBytes = 50_000_000, RemainingBytes = 50_000_000, OutpacedRounds = 9, OutpacedTime = TimeSpan.FromSeconds(20) };
        Assert.Equal(TimeSpan.FromMilliseconds(560), Convergence.Decide(near).ExpectedDowntime);
        Assert.Equal(ConvergenceStep.Continue, Convergence.Decide(near).Step);
        Assert.Equal(default, Convergence.Decide(near).Outlook);
    }

    [Fact]
    public void Device_state_that_becomes_less_is_progress_too()
    {
        ConvergenceInput state = NoProgress with { RoundBytes = 0, RemainingBytes = 0, RoundDeviceBytes = 500_000_000, DeviceBytes = 500_000_000 };
        Assert.Equal(new ConvergenceOutlook(1, ConvergenceObstacle.DeviceState), Convergence.Decide(state).Outlook);
        Assert.Equal(default, Convergence.Decide(state with { DeviceBytes = 470_000_000 }).Outlook);
        Assert.Equal(default, Convergence.Decide(state with { RoundDeviceBytes = 5_000_000_000, DeviceBytes = 4_980_000_000 }).Outlook); // 16 MiB of much
    }

    [Theory]
    [InlineData(400, 0L, 0L, 1.0, ConvergenceObstacle.SwitchoverTime)]
    [InlineData(50, 30_000_000L, 0L, 1.0, ConvergenceObstacle.DeviceState)]
    [InlineData(50, 1_000_000L, 30_000_000L, 1.0, ConvergenceObstacle.UncoveredPages)]
    [InlineData(50, 15_000_000L, 15_000_000L, 1.0, ConvergenceObstacle.UncoveredPages)]
    [InlineData(50, 1_000_000L, 1_000_000L, 30_000.0, ConvergenceObstacle.DeviceWrites)]
    [InlineData(50, 1_000_000L, 1_000_000L, 1.0, ConvergenceObstacle.GuestWrites)]
    public void The_obstacle_is_the_first_that_would_do_by_itself(int fixedTime, long device, long uncovered, double deviceRate, ConvergenceObstacle obstacle)
    {
        ConvergenceInput input = NoProgress with
        {
            StopTime = TimeSpan.FromMilliseconds(fixedTime),
            RoundDeviceBytes = device,
            DeviceBytes = device,
            UncoveredBytes = uncovered,
            Rates = new DirtyRates(20_000, deviceRate, 0),
        };
        Assert.Equal(obstacle, Convergence.Decide(input).Outlook.Obstacle);
    }

    [Fact]
    public void What_is_sent_in_every_round_is_hopeless_as_soon_as_it_is_above_the_limit()
    {
        ConvergenceInput input = NoProgress with
        {
            RoundBytes = 30_000_000,
            RemainingBytes = 30_000_000,
            UncoveredBytes = 28_000_000,
            OutpacedRounds = 4,
            OutpacedTime = TimeSpan.FromSeconds(5),
        };
        ConvergenceDecision decision = Convergence.Decide(input);
        Assert.Equal(ConvergenceStep.GiveUp, decision.Step);
        Assert.Contains("30.0 MB of RAM (28.0 MB of it sent in every round, because nothing tells whether devices write it)", decision.Reason, StringComparison.Ordinal);
        Assert.EndsWith("or use a device whose log covers more", decision.Reason, StringComparison.Ordinal);
    }

    [Fact]
    public void What_was_unmapped_and_not_looked_at_counts_as_still_to_be_sent()
    {
        ConvergenceInput input = NoProgress with { RoundBytes = 40_000_000, RemainingBytes = 20_000_000 };
        Assert.Equal(ConvergenceStep.SwitchOver, Convergence.Decide(input).Step);
        ConvergenceDecision more = Convergence.Decide(input with { UnharvestedBytes = 10_000_000 });
        Assert.Equal((ConvergenceStep.Continue, TimeSpan.FromMilliseconds(360)), (more.Step, more.ExpectedDowntime));
        string? reason = Convergence.Decide(input with { UnharvestedBytes = 10_000_000, UnconvergedRounds = 100 }).Reason;
        Assert.Contains("20.0 MB of RAM, 10.0 MB unmapped and not looked at yet and 1.0 MB of device state", reason, StringComparison.Ordinal);
    }

    [Fact]
    public void The_history_counts_rounds_without_progress_and_their_time()
    {
        var clock = new ManualClock();
        var history = new ConvergenceHistory(clock);
        Add(1);
        Assert.Equal((1, TimeSpan.Zero), (history.OutpacedRounds, history.OutpacedTime));
        Add(2);
        Add(3);
        Assert.Equal((3, TimeSpan.FromSeconds(4)), (history.OutpacedRounds, history.OutpacedTime));
        Add(0);
        Assert.Equal((0, TimeSpan.Zero), (history.OutpacedRounds, history.OutpacedTime));
        Add(1);
        Assert.Equal((1, TimeSpan.Zero), (history.OutpacedRounds, history.OutpacedTime));

        void Add(int outpaced)
        {
            clock.Advance(TimeSpan.FromSeconds(2));
            history.Add(default, new ConvergenceDecision(
                ConvergenceStep.Continue, new DowntimeEstimate { Pages = TimeSpan.FromSeconds(1) }, new ConvergenceOutlook(outpaced, ConvergenceObstacle.GuestWrites)));
        }
    }
}
