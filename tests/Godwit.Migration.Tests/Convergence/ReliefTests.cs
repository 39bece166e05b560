namespace Godwit.Migration.Tests;

/// <summary>What is done about a pre-copy that does not converge.</summary>
public sealed class ReliefTests
{
    /// <summary>Twice as much is dirtied as is sent, for three rounds and a second.</summary>
    private static readonly ConvergenceInput Outpaced = new()
    {
        PrecopyTime = TimeSpan.FromSeconds(5),
        RoundBytes = 400_000_000,
        RemainingBytes = 400_000_000,
        DeviceBytes = 0,
        BytesPerSecond = 1e8,
        StopTime = TimeSpan.FromMilliseconds(10),
        Rates = new DirtyRates(20_000, 0, 0),
        UnconvergedRounds = 3,
        RoundsSinceBest = 2,
        TimeSinceBest = TimeSpan.FromSeconds(2),
        OutpacedRounds = 2,
        OutpacedTime = TimeSpan.FromSeconds(1),
        DowntimeLimit = TimeSpan.FromMilliseconds(300),
        MinimumPrecopy = TimeSpan.Zero,
        MaxRounds = 100,
        MaxDowntime = TimeSpan.FromSeconds(1),
        MaxThrottle = 45,
    };

    [Theory]
    [InlineData(StallAction.RaiseDowntime)]
    [InlineData(StallAction.Throttle)]
    public void It_comes_after_rounds_and_time_without_progress_and_not_before(StallAction action)
    {
        ConvergenceInput input = Outpaced with { OnStall = action };
        Assert.NotNull(Convergence.Decide(input).Relief);
        Assert.Equal(ConvergenceStep.Continue, Convergence.Decide(input).Step);
        Assert.Null(Convergence.Decide(input with { OnStall = StallAction.GiveUp }).Relief);
        Assert.Null(Convergence.Decide(input with { OutpacedRounds = 1 }).Relief);
        Assert.Null(Convergence.Decide(input with { OutpacedTime = TimeSpan.FromSeconds(0.9) }).Relief);
        Assert.Null(Convergence.Decide(input with { MinimumPrecopy = TimeSpan.FromSeconds(6) }).Relief);
        Assert.Null(Convergence.Decide(input with { UnconvergedRounds = 100 }).Relief);
        // A stall near the limit, too.
        ConvergenceInput near = input with { RemainingBytes = 40_000_000, OutpacedRounds = 0, RoundsSinceBest = 25, TimeSinceBest = TimeSpan.FromSeconds(30) };
        Assert.NotNull(Convergence.Decide(near).Relief);
    }

    [Fact]
    public void Chance_is_waited_for_only_when_nothing_else_is_left()
    {
        // 410 ms where 300 ms are allowed.
        ConvergenceInput near = Outpaced with { RoundBytes = 40_000_000, RemainingBytes = 40_000_000, OutpacedRounds = 5, OutpacedTime = TimeSpan.FromSeconds(5) };
        Assert.NotNull(Convergence.Decide(near with { OnStall = StallAction.RaiseDowntime }).Relief);
        Assert.Equal(ConvergenceStep.Continue, Convergence.Decide(near).Step);
        Assert.Equal(ConvergenceStep.Continue, Convergence.Decide(near with { OnStall = StallAction.RaiseDowntime, MaxDowntime = near.DowntimeLimit }).Step);
    }

    [Fact]
    public void The_downtime_limit_doubles_up_to_its_limit_and_then_it_gives_up()
    {
        ConvergenceInput input = Outpaced with { OnStall = StallAction.RaiseDowntime };
        Assert.Equal(TimeSpan.FromMilliseconds(600), Convergence.Decide(input).Relief!.Value.DowntimeLimit);
        input = input with { DowntimeLimit = TimeSpan.FromMilliseconds(600) };
        Assert.Equal(TimeSpan.FromSeconds(1), Convergence.Decide(input).Relief!.Value.DowntimeLimit);
        input = input with { DowntimeLimit = TimeSpan.FromSeconds(1), OutpacedRounds = 5, OutpacedTime = TimeSpan.FromSeconds(5) };
        Assert.Equal(ConvergenceStep.GiveUp, Convergence.Decide(input).Step);
        Assert.Contains("1000 ms are allowed", Convergence.Decide(input).Reason, StringComparison.Ordinal);
    }

    [Fact]
    public void The_throttle_grows_up_to_its_limit_and_then_it_gives_up()
    {
        ConvergenceInput input = Outpaced with { OnStall = StallAction.Throttle };
        var steps = new List<int>();
        while (Convergence.Decide(input).Relief is { } relief)
        {
            steps.Add(relief.Throttle);
            Assert.Equal(input.DowntimeLimit, relief.DowntimeLimit);
            input = input with { Throttle = relief.Throttle };
        }

        Assert.Equal([20, 30, 40, 45], steps);
        ConvergenceDecision last = Convergence.Decide(input with { OutpacedRounds = 5, OutpacedTime = TimeSpan.FromSeconds(5) });
        Assert.Equal(ConvergenceStep.GiveUp, last.Step);
        Assert.Contains("300 ms are allowed, although the vCPUs are slowed by 45 %", last.Reason, StringComparison.Ordinal);
    }

    [Fact]
    public void A_guest_is_not_slowed_for_what_is_there_whatever_it_writes()
    {
        ConvergenceInput input = Outpaced with { OnStall = StallAction.Throttle };
        Assert.Null(Convergence.Decide(input with { StopTime = TimeSpan.FromSeconds(1) }).Relief);
        Assert.Null(Convergence.Decide(input with { DeviceBytes = 400_000_000, RoundDeviceBytes = 400_000_000 }).Relief);
        Assert.Null(Convergence.Decide(input with { UncoveredBytes = 400_000_000 }).Relief);
    }

    [Fact]
    public void After_each_step_the_rounds_are_counted_anew()
    {
        var clock = new ManualClock();
        var history = new ConvergenceHistory(clock);
        history.Add(default, new ConvergenceDecision(ConvergenceStep.Continue, new DowntimeEstimate { Pages = TimeSpan.FromSeconds(1) }, new ConvergenceOutlook(2, ConvergenceObstacle.GuestWrites)));
        history.Add(default, new ConvergenceDecision(ConvergenceStep.Continue, new DowntimeEstimate { Pages = TimeSpan.FromSeconds(2) }, new ConvergenceOutlook(3, ConvergenceObstacle.GuestWrites)));
        Assert.Equal((3, 1), (history.OutpacedRounds, history.RoundsSinceBest));
        history.Add(default, new ConvergenceDecision(ConvergenceStep.Continue, new DowntimeEstimate { Pages = TimeSpan.FromSeconds(3) }, new ConvergenceOutlook(4, ConvergenceObstacle.GuestWrites),
            Relief: new Relief(TimeSpan.FromSeconds(1), 20)));
        Assert.Equal((0, 0, 3), (history.OutpacedRounds, history.RoundsSinceBest, history.UnconvergedRounds));
        Assert.Equal(TimeSpan.Zero, history.OutpacedTime);
    }

    [Theory]
    [InlineData(StallAction.Throttle)]
    [InlineData(StallAction.RaiseDowntime)]
    public void A_guest_that_outpaces_the_link_arrives(StallAction action)
    {
        using var pair = new Pair(new TestMachine(mebibytes: 32), new TestMachine(mebibytes: 32, running: false));
        TestMachine source = pair.SourceMachine;
        // All of 16 MiB in every round, unless it is slowed to half: a round of it takes 0.25 s, far above the limit.
        source.Calls.On("log0.Sync", () => WriteAll(source, unlessSlowedBy: 50));
        pair.Source.Parameters = new MigrationParameters
        {
            OnStall = action,
            MaxBandwidth = 64 << 20,
            DowntimeLimit = TimeSpan.FromMilliseconds(50),
            MaxDowntime = TimeSpan.FromSeconds(2000),
            VerifyPages = true,
        };
        pair.Migrate();
        MigrationStatus status = pair.Source.Status;
        Assert.True(status.State == MigrationState.Completed, status.Error);
        Assert.Equal(0, status.Verification!.PagesDiffering);
        Assert.Equal(0, source.Throttle); // whoever continues it here gets all of it
        if (action == StallAction.Throttle)
        {
            Assert.Equal(["ThrottleVcpus(20)", "ThrottleVcpus(30)", "ThrottleVcpus(40)", "ThrottleVcpus(50)"],
                source.Calls.Calls.Where(call => call.StartsWith("Throttle", StringComparison.Ordinal)).Take(4));
            Assert.True(status.ThrottlePercent >= 50);
            Assert.Equal(TimeSpan.FromMilliseconds(50), status.DowntimeLimit);
            Assert.Contains(status.Rounds, round => round.ThrottlePercent == 20);
        }
        else
        {
            Assert.True(status.DowntimeLimit > TimeSpan.FromMilliseconds(50));
            Assert.Equal(0, status.ThrottlePercent);
        }
    }

    [Fact]
    public void A_slowed_guest_that_stays_runs_at_full_speed_again()
    {
        using var pair = new Pair(new TestMachine(mebibytes: 32), new TestMachine(mebibytes: 32, running: false));
        TestMachine source = pair.SourceMachine;
        source.Calls.On("log0.Sync", () => WriteAll(source, unlessSlowedBy: 100));
        source.Calls.On("ThrottleVcpus(20)", pair.Source.Cancel);
        pair.Source.Parameters = new MigrationParameters { OnStall = StallAction.Throttle, MaxBandwidth = 64 << 20, DowntimeLimit = TimeSpan.FromMilliseconds(50) };
        pair.Migrate();
        Assert.True(pair.Source.Status.State == MigrationState.Cancelled, pair.Source.Status.Error);
        Assert.True(source.Executing);
        Assert.Equal(0, source.Throttle);
    }

    /// <summary>A guest's work between two looks at its log.</summary>
    private static void WriteAll(TestMachine machine, int unlessSlowedBy)
    {
        for (ulong page = 0; page < 4096 && machine.Throttle < unlessSlowedBy; page++)
            machine.Ram.Blocks[0].Write(page * 4096, [1, 2, 3, 4, (byte)page], Memory.DirtySource.Vcpu);
    }
}
