namespace Godwit.Migration.Tests;

public sealed class ConvergenceTests
{
    private static readonly ConvergenceInput Usual = new()
    {
        PrecopyTime = TimeSpan.FromSeconds(5),
        RoundBytes = 40_000_000,
        RemainingBytes = 20_000_000,
        DeviceBytes = 5_000_000,
        BytesPerSecond = 1e8,
        StopTime = TimeSpan.FromMilliseconds(50),
        Rates = new DirtyRates(1000, 2000, 10),
        UnconvergedRounds = 3,
        RoundsSinceBest = 0,
        TimeSinceBest = TimeSpan.Zero,
        OutpacedRounds = 0,
        OutpacedTime = TimeSpan.Zero,
        DowntimeLimit = TimeSpan.FromMilliseconds(300),
        MinimumPrecopy = TimeSpan.Zero,
        MaxRounds = 100,
    };

    [Fact]
    public void The_expected_downtime_is_what_takes_time_anyway_and_what_must_be_sent()
    {
        // 50 ms + (20 MB + 5 MB) / 100 MB/s
        Assert.Equal(TimeSpan.FromMilliseconds(300), Convergence.Decide(Usual).ExpectedDowntime);
        Assert.Equal(ConvergenceStep.SwitchOver, Convergence.Decide(Usual).Step);
    }

    [Fact]
    public void One_byte_too_many_goes_another_round()
    {
        Assert.Equal(ConvergenceStep.Continue, Convergence.Decide(Usual with { RemainingBytes = 20_000_100 }).Step);
        Assert.Equal(ConvergenceStep.Continue, Convergence.Decide(Usual with { DeviceBytes = 5_000_100 }).Step);
        Assert.Equal(ConvergenceStep.Continue, Convergence.Decide(Usual with { StopTime = TimeSpan.FromMilliseconds(51) }).Step);
        Assert.Equal(ConvergenceStep.Continue, Convergence.Decide(Usual with { BytesPerSecond = 0.99e8 }).Step);
        Assert.Equal(ConvergenceStep.Continue, Convergence.Decide(Usual with { DowntimeLimit = TimeSpan.FromMilliseconds(299) }).Step);
    }

    [Fact]
    public void The_shortest_precopy_is_waited_for_and_excuses_everything_until_then()
    {
        ConvergenceInput young = Usual with { PrecopyTime = TimeSpan.FromSeconds(1), MinimumPrecopy = TimeSpan.FromSeconds(2) };
        Assert.Equal(ConvergenceStep.Hold, Convergence.Decide(young).Step);
        Assert.Equal(ConvergenceStep.SwitchOver, Convergence.Decide(young with { PrecopyTime = TimeSpan.FromSeconds(2) }).Step);
        ConvergenceInput hopeless = young with { RemainingBytes = long.MaxValue, UnconvergedRounds = 100 };
        Assert.Equal(ConvergenceStep.Continue, Convergence.Decide(hopeless).Step);
        Assert.Equal(ConvergenceStep.GiveUp, Convergence.Decide(hopeless with { PrecopyTime = TimeSpan.FromSeconds(2) }).Step);
    }

    [Fact]
    public void It_gives_up_after_the_last_round_and_says_who_dirties_how_much()
    {
        ConvergenceInput late = Usual with
        {
            RoundBytes = 1_000_000_000,
            RemainingBytes = 900_000_000,
            UnconvergedRounds = 100,
            Rates = new DirtyRates(10_000, 40_000, 100),
        };
        ConvergenceDecision decision = Convergence.Decide(late);
        Assert.Equal(ConvergenceStep.GiveUp, decision.Step);
        Assert.Equal(
            "Pre-copy does not converge after 100 rounds (the limit is 100): memory is dirtied at 205.2 MB/s (vCPUs 41.0, devices 163.8, "
            + "VMM 0.4) and sent at 100.0 MB/s; 900.0 MB of RAM and 5.0 MB of device state remain, an expected downtime of 9100 ms where "
            + "300 ms are allowed. Raise downtime-limit or max-bandwidth, or slow the guest down",
            decision.Reason);
        Assert.Equal(ConvergenceStep.Continue, Convergence.Decide(late with { UnconvergedRounds = 99 }).Step);
    }

    [Fact]
    public void It_gives_up_when_it_has_stalled_in_rounds_and_in_time()
    {
        ConvergenceInput stalled = Usual with { RoundBytes = 1_000_000_000, RemainingBytes = 900_000_000, RoundsSinceBest = 25, TimeSinceBest = TimeSpan.FromSeconds(30) };
        Assert.Equal(ConvergenceStep.GiveUp, Convergence.Decide(stalled).Step);
        Assert.Contains("in 25 rounds and 30 s without progress", Convergence.Decide(stalled).Reason, StringComparison.Ordinal);
        Assert.Equal(ConvergenceStep.Continue, Convergence.Decide(stalled with { RoundsSinceBest = 24 }).Step);
        Assert.Equal(ConvergenceStep.Continue, Convergence.Decide(stalled with { TimeSinceBest = TimeSpan.FromSeconds(29) }).Step);
    }

    [Fact]
    public void No_number_is_too_large()
    {
        ConvergenceInput absurd = Usual with { RemainingBytes = long.MaxValue, DeviceBytes = long.MaxValue, BytesPerSecond = 0, UnconvergedRounds = int.MaxValue };
        Assert.Equal(ConvergenceStep.GiveUp, Convergence.Decide(absurd).Step);
        // A year for each of pages and states.
        Assert.Equal(TimeSpan.FromDays(730) + absurd.SwitchoverTime, Convergence.Decide(absurd).ExpectedDowntime);
    }

    [Theory]
    // A guest that rewrites its working set all the time: converges when the link is faster by enough, else gives up.
    [InlineData(1000, 100, 2000, true)]
    [InlineData(1000, 500, 600, true)]
    [InlineData(1000, 900, 800, false)]
    [InlineData(4000, 3000, 100, false)]
    [InlineData(10, 100, 100, true)]
    public void A_steady_guest_converges_or_not(double memory, double dirtyRate, double linkRate, bool converges)
    {
        // MB and MB/s. Each round sends what is dirty; what is dirtied meanwhile is left, up to the working set of a tenth of memory.
        var clock = new ManualClock();
        var history = new ConvergenceHistory(clock);
        double dirty = memory;
        TimeSpan time = TimeSpan.Zero;
        for (int round = 0; round < 1000; round++)
        {
            double found = dirty;
            var roundTime = TimeSpan.FromSeconds(dirty / linkRate);
            clock.Advance(roundTime);
            time += roundTime;
            dirty = Math.Min(dirtyRate * roundTime.TotalSeconds, memory);
            ConvergenceInput input = Usual with
            {
                PrecopyTime = time,
                RoundBytes = (long)(found * 1e6),
                RemainingBytes = (long)(dirty * 1e6),
                DeviceBytes = 0,
                BytesPerSecond = linkRate * 1e6,
                UnconvergedRounds = history.UnconvergedRounds,
                RoundsSinceBest = history.RoundsSinceBest,
                TimeSinceBest = history.TimeSinceBest,
                OutpacedRounds = history.OutpacedRounds,
                OutpacedTime = history.OutpacedTime,
            };
            ConvergenceDecision decision = Convergence.Decide(input);
            history.Add(input, decision);
            if (decision.Step != ConvergenceStep.Continue)
            {
                Assert.Equal(converges ? ConvergenceStep.SwitchOver : ConvergenceStep.GiveUp, decision.Step);
                Assert.True(converges || round < 12, $"it took {round} rounds to see that it will not do");
                return;
            }
        }

        Assert.Fail("no decision in 1000 rounds");
    }

    [Fact]
    public void The_history_counts_what_the_decision_needs()
    {
        var clock = new ManualClock();
        var history = new ConvergenceHistory(clock);
        Add(ConvergenceStep.Continue, 900);
        Add(ConvergenceStep.Continue, 800);
        Assert.Equal((2, 0), (history.UnconvergedRounds, history.RoundsSinceBest));
        clock.Advance(TimeSpan.FromSeconds(3));
        Add(ConvergenceStep.Continue, 850);
        Add(ConvergenceStep.Hold, 800);
        Assert.Equal((3, 2, TimeSpan.FromSeconds(3)), (history.UnconvergedRounds, history.RoundsSinceBest, history.TimeSinceBest));
        Add(ConvergenceStep.Continue, 700);
        Assert.Equal((4, 0, TimeSpan.Zero), (history.UnconvergedRounds, history.RoundsSinceBest, history.TimeSinceBest));

        void Add(ConvergenceStep step, int milliseconds) => history.Add(default, new ConvergenceDecision(step, new DowntimeEstimate { Pages = TimeSpan.FromMilliseconds(milliseconds) }));
    }
}
