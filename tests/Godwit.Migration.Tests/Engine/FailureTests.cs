using System.Collections.Concurrent;

namespace Godwit.Migration.Tests;

/// <summary>Failures injected into every call on each side: who runs afterwards, what was undone, in which order.</summary>
public sealed class FailureTests
{
    private static readonly string[] Nothing = [];

    /// <summary>The failing call, and what the source calls from it on.</summary>
    public static TheoryData<string, string[]> SourceFailures => new()
    {
        { "log0.Start", [] },
        { "log1.Start", ["log0.Stop"] },
        { "nvme0.BeginSave", ["nvme0.Recover", "log1.Stop", "log0.Stop"] },
        { "nvme1.BeginSave", ["nvme1.Recover", "nvme0.Recover", "log1.Stop", "log0.Stop"] },
        { "log0.Sync", ["nvme1.Recover", "nvme0.Recover", "log1.Stop", "log0.Stop"] },
        { "log1.Sync", ["nvme1.Recover", "nvme0.Recover", "log1.Stop", "log0.Stop"] },
        { "StopForSwitchover", ["nvme1.Recover", "nvme0.Recover", "log1.Stop", "log0.Stop", "ResumeAfterFailure"] },
        { "nvme0.Quiesce", ["nvme1.Recover", "nvme0.Recover", "log1.Stop", "log0.Stop", "ResumeAfterFailure"] },
        { "nvme1.Quiesce", ["nvme1.Recover", "nvme0.Recover", "log1.Stop", "log0.Stop", "ResumeAfterFailure"] },
        { "nvme1.StopAndCopy", ["nvme1.Recover", "nvme0.Recover", "log1.Stop", "log0.Stop", "ResumeAfterFailure"] },
        { "log1.Sync(final)", ["nvme1.Recover", "nvme0.Recover", "log1.Stop", "log0.Stop", "ResumeAfterFailure"] },
        { "nvme0.ReadState(end)", ["nvme1.Recover", "nvme0.Recover", "log1.Stop", "log0.Stop", "ResumeAfterFailure"] },
        { "iommu.Save", ["nvme1.Recover", "nvme0.Recover", "log1.Stop", "log0.Stop", "ResumeAfterFailure"] },
        { "vcpu0.Save", ["nvme1.Recover", "nvme0.Recover", "log1.Stop", "log0.Stop", "ResumeAfterFailure"] },
    };

    [Theory]
    [MemberData(nameof(SourceFailures))]
    public void A_failure_on_the_source_takes_everything_back(string call, string[] undone)
    {
        using var pair = new Pair(new TestMachine(devices: 2), new TestMachine(devices: 2, running: false));
        TestMachine source = pair.SourceMachine;
        source.Calls.FailAt(call);
        pair.Migrate();

        MigrationStatus status = pair.Source.Status;
        Assert.Equal(MigrationState.Failed, status.State);
        Assert.StartsWith("Source, ", status.Error, StringComparison.Ordinal);
        Assert.Contains($"injected at {call}", status.Error, StringComparison.Ordinal);
        Assert.Equal(undone, source.Calls.Calls.SkipWhile(name => name != call).Skip(1).Where(name => !name.Contains("BeginSave", StringComparison.Ordinal)));
        AssertSourceAsBefore(pair);
        AssertDestinationDidNotRun(pair);
        // The destination has learnt the reason, not only that the connection is gone.
        pair.WaitForDestination(MigrationState.Setup, MigrationState.Failed);
        Assert.Contains($"injected at {call}", pair.Destination.Status.Error, StringComparison.Ordinal);
        MigrateAgain(pair);
    }

    [Theory]
    [InlineData("nvme0.BeginLoad", "giving nvme0 its state")]
    [InlineData("nvme1.WriteState(first)", "giving nvme1 its state")]
    [InlineData("iommu.Load", "loading iommu")]
    [InlineData("vcpu0.Load", "loading vcpu0")]
    [InlineData("nvme0.EndLoad", "loading nvme0")]
    [InlineData("nvme1.EndLoad", "loading nvme1")]
    public void A_failure_on_the_destination_before_the_commit_leaves_the_source_running(string call, string phase)
    {
        using var pair = new Pair(new TestMachine(devices: 2), new TestMachine(devices: 2, running: false));
        pair.DestinationMachine.Calls.FailAt(call);
        pair.Migrate();

        MigrationStatus status = pair.Source.Status;
        Assert.Equal(MigrationState.Failed, status.State);
        Assert.Contains($"Destination, {phase}: injected at {call}", status.Error, StringComparison.Ordinal);
        AssertSourceAsBefore(pair);
        Assert.Equal(MigrationState.Failed, pair.WaitForDestination(MigrationState.Completed, MigrationState.Failed, MigrationState.Setup));
        AssertDestinationDidNotRun(pair);
        Assert.Contains($"injected at {call}", Assert.Single(WaitForIncomingFailure(pair)), StringComparison.Ordinal);
        Assert.False(File.Exists(pair.ListenUri["unix:".Length..]), "a lost destination must not listen");
        MigrateAgain(pair);
    }

    [Theory]
    [InlineData("nvme0.Start(PeerToPeer)")]
    [InlineData("nvme1.Start(Running)")]
    [InlineData("StartAfterLoad(True)")]
    public void A_failure_after_the_commit_never_brings_the_source_back(string call)
    {
        using var pair = new Pair(new TestMachine(devices: 2), new TestMachine(devices: 2, running: false));
        pair.DestinationMachine.Calls.FailAt(call);
        pair.Migrate();

        MigrationStatus status = pair.Source.Status;
        Assert.Equal(MigrationState.Failed, status.State);
        Assert.Contains("after the commit", status.Error, StringComparison.Ordinal);
        Assert.Contains($"injected at {call}", status.Error, StringComparison.Ordinal);
        Assert.False(pair.SourceMachine.Executing);
        Assert.True(pair.SourceMachine.PostMigrate);
        Assert.DoesNotContain("ResumeAfterFailure", pair.SourceMachine.Calls.Calls);
        Assert.False(pair.SourceMachine.Ram.Dirty.Enabled);
        Assert.Equal(MigrationState.Failed, pair.WaitForDestination(MigrationState.Completed, MigrationState.Failed, MigrationState.Setup));
        Assert.False(pair.DestinationMachine.Executing);
        Assert.Single(WaitForIncomingFailure(pair));

        // The operator looks at both sides and decides.
        Assert.Throws<InvalidOperationException>(() => pair.Source.Start(pair.ListenUri));
        pair.Source.TakeBack();
        pair.SourceMachine.TakeBack();
        MigrateAgain(pair);
    }

    [Theory]
    [InlineData("EnterPostMigrate")]
    [InlineData("nvme0.EndSave")]
    [InlineData("log0.Stop")]
    public void Trouble_with_letting_go_does_not_undo_a_migration(string call)
    {
        using var pair = new Pair(new TestMachine(devices: 2), new TestMachine(devices: 2, running: false));
        pair.SourceMachine.Calls.FailAt(call);
        pair.Migrate();
        MigrationStatus status = pair.Source.Status;
        Assert.Equal(MigrationState.Completed, status.State);
        Assert.Contains($"injected at {call}", status.Error, StringComparison.Ordinal);
        Assert.Equal(
            ["EnterPostMigrate", "nvme0.EndSave", "nvme1.EndSave", "log1.Stop", "log0.Stop"], pair.SourceMachine.Calls.Calls.TakeLast(5));
        Assert.Equal(MigrationState.Completed, pair.WaitForDestination(MigrationState.Completed, MigrationState.Failed));
        Assert.False(pair.SourceMachine.Executing);
        Assert.True(pair.DestinationMachine.Executing);
    }

    [Fact]
    public void Everything_is_tried_when_taking_back_fails()
    {
        using var pair = new Pair(new TestMachine(devices: 2), new TestMachine(devices: 2, running: false));
        TestMachine source = pair.SourceMachine;
        source.Calls.FailAt("iommu.Save");
        source.Calls.FailAt("nvme1.Recover");
        source.Calls.FailAt("log0.Stop");
        pair.Migrate();
        string error = pair.Source.Status.Error!;
        Assert.Contains("injected at iommu.Save", error, StringComparison.Ordinal);
        Assert.Contains("recovering nvme1 failed: injected at nvme1.Recover", error, StringComparison.Ordinal);
        Assert.Contains("log0 failed: injected at log0.Stop", error, StringComparison.Ordinal);
        Assert.Equal(["nvme1.Recover", "nvme0.Recover", "log1.Stop", "log0.Stop", "ResumeAfterFailure"], source.Calls.Calls.TakeLast(5));
        Assert.True(source.Executing);
        Assert.False(source.Ram.Dirty.Enabled);
    }

    [Fact]
    public void Every_difference_of_the_machines_is_listed_before_anything_starts()
    {
        using var source = new TestMachine(mebibytes: 4, devices: 1);
        using var destination = new TestMachine(mebibytes: 6, devices: 2, running: false);
        source.Description["pci.00:03.0.id"] = "1b36:0010";
        destination.Description["pci.00:04.0.id"] = "1b36:0010";
        destination.Description["iommu.aw-bits"] = "48";
        using var pair = new Pair(source, destination);
        pair.Migrate();
        string[] expected =
        [
            "iommu.aw-bits: source 39, destination 48",
            "pci.00:03.0.id: source 1b36:0010, destination has none",
            "pci.00:04.0.id: source has none, destination 1b36:0010",
            "stream.ram.000: source main, 4194304 bytes, destination main, 6291456 bytes",
            "stream.device.001: source has none, destination nvme1",
        ];
        Assert.Equal(MigrationState.Failed, pair.Source.Status.State);
        Assert.All(expected, text => Assert.Contains(text, pair.Source.Status.Error, StringComparison.Ordinal));
        Assert.Equal(Nothing, source.Calls.Calls);
        Assert.True(source.Executing);
        Assert.Equal(MigrationState.Setup, pair.WaitForDestination(MigrationState.Setup, MigrationState.Failed));
        Assert.All(expected, text => Assert.Contains(text, pair.Destination.Status.Error, StringComparison.Ordinal));
        Assert.Equal(Nothing, destination.Calls.Calls);
    }

    [Fact]
    public void A_failed_attempt_that_left_no_traces_can_be_repeated_at_the_same_address()
    {
        using var pair = new Pair(new TestMachine(devices: 1), new TestMachine(devices: 1, running: false));
        // Fails when RAM has been received, before any device state: the pages of the first attempt must not survive as garbage.
        pair.SourceMachine.Devices[0].Precopy = 0;
        pair.SourceMachine.Fill(7);
        pair.SourceMachine.Calls.FailAt("nvme0.Quiesce");
        pair.Migrate();
        Assert.Equal(MigrationState.Failed, pair.Source.Status.State);
        Assert.Equal(MigrationState.Setup, pair.WaitForDestination(MigrationState.Setup, MigrationState.Failed));
        Assert.NotNull(TestMachine.FirstDifference(new TestMachine(devices: 1), pair.DestinationMachine));

        pair.SourceMachine.Calls.Clear();
        byte[] zeros = new byte[pair.SourceMachine.Ram.Blocks[0].Size];
        pair.SourceMachine.Ram.Blocks[0].Write(0, zeros, Memory.DirtySource.Vcpu);
        pair.Source.Parameters = new MigrationParameters { VerifyPages = true };
        pair.Migrate();
        Assert.True(pair.Source.Status.State == MigrationState.Completed, pair.Source.Status.Error);
        Assert.Equal(MigrationState.Completed, pair.WaitForDestination(MigrationState.Completed, MigrationState.Failed));
        Assert.Null(TestMachine.FirstDifference(pair.SourceMachine, pair.DestinationMachine));
        Assert.Empty(pair.IncomingFailures);
    }

    [Fact]
    public void Blockers_refuse_at_once_and_again_after_the_handshake()
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        pair.Listen();
        pair.SourceMachine.Blockers.Add(new TestBlocker { Subject = "nvme0" });
        MigrationBlockedException refused = Assert.Throws<MigrationBlockedException>(() => pair.Source.Start(pair.Address));
        Assert.Equal("nvme0", Assert.Single(refused.Blockers).Subject);
        Assert.Equal("nvme0: It may not move [test]. Allow it", refused.Blockers[0].ToString());
        Assert.Equal(MigrationState.None, pair.Source.Status.State);
        Assert.Equal(Nothing, pair.SourceMachine.Calls.Calls);
        pair.SourceMachine.Blockers.Clear();
        pair.Migrate();
        Assert.Equal(MigrationState.Completed, pair.Source.Status.State);
    }

    [Fact]
    public void A_reason_that_comes_during_pre_copy_ends_it_before_the_guest_is_stopped()
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        TestMachine source = pair.SourceMachine;
        source.Calls.On("log0.Sync", () => source.Blockers.Add(new TestBlocker { Subject = "late0" }));
        pair.Migrate();
        Assert.Equal(MigrationState.Failed, pair.Source.Status.State);
        Assert.Contains("asking once more for reasons against: Migration is blocked: late0: It may not move", pair.Source.Status.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("StopForSwitchover", source.Calls.Calls);
        Assert.True(source.Executing);
    }

    /// <summary>One look at a guest that runs is a sample: for what it may end by itself there is another round, but not for ever.</summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_reason_that_may_pass_costs_a_round_and_fails_when_it_stays(bool passes)
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        TestMachine source = pair.SourceMachine;
        int syncs = 0;
        source.Calls.On("log0.Sync", () =>
        {
            syncs++;
            if (syncs == 1)
                source.Blockers.Add(new TestBlocker { Subject = "late0", Passes = true });
            else if (passes)
                source.Blockers.Clear();
        });
        pair.Migrate();
        if (passes)
        {
            Assert.True(pair.Source.Status.State == MigrationState.Completed, pair.Source.Status.Error);
            return;
        }

        Assert.Equal(MigrationState.Failed, pair.Source.Status.State);
        Assert.Contains("Migration is blocked: late0: It may not move", pair.Source.Status.Error, StringComparison.Ordinal);
        Assert.True(syncs > 2);
        Assert.True(source.Executing);
    }

    [Fact]
    public void Something_that_goes_on_writing_while_stopped_fails_the_migration()
    {
        var clock = new ManualClock();
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false), clock);
        TestMachine source = pair.SourceMachine;
        void Scribble() => source.Ram.Blocks[0].Write(4096, [1], Memory.DirtySource.Vmm);
        source.Calls.On("vcpu0.Save", Scribble);
        // A snapshot of the status is due when a late page has been sent, that is, after the marks were drained: then there is another mark.
        pair.Source.PassStarted += pass => clock.Advance(TimeSpan.FromSeconds(pass > 2 ? 1 : 0));
        source.Devices[0].Asked = () =>
        {
            if (source.Calls.Calls.Contains("vcpu0.Save"))
                Scribble();
        };
        pair.Migrate();
        Assert.Equal(MigrationState.Failed, pair.Source.Status.State);
        Assert.Contains("something still runs", pair.Source.Status.Error, StringComparison.Ordinal);
        Assert.True(source.Executing);
    }

    [Theory]
    [InlineData("unix")]
    [InlineData("tcp")]
    public void What_the_destination_says_arrives_although_the_source_is_in_the_middle_of_a_flood(string transport)
    {
        using var source = new TestMachine(mebibytes: 64, devices: 1);
        source.Fill(1);
        using var pair = new Pair(source, new TestMachine(mebibytes: 64, devices: 1, running: false), transport: transport);
        pair.DestinationMachine.Calls.FailAt("nvme0.BeginLoad"); // with the first piece of RAM
        pair.Migrate();
        Assert.Contains("giving nvme0 its state: injected at nvme0.BeginLoad", pair.Source.Status.Error, StringComparison.Ordinal);
        Assert.True(source.Executing);
    }

    [Theory]
    [InlineData("iommu.Load", false)]
    [InlineData("StartAfterLoad(True)", true)]
    public void A_destination_that_hangs_does_not_keep_the_guest_standing_for_ever(string call, bool committed)
    {
        var clock = new ManualClock();
        var times = new MigrationTimes { SilentPeer = TimeSpan.FromDays(1) };
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false), clock, times: times);
        using var release = new ManualResetEventSlim();
        pair.DestinationMachine.Calls.On(call, () => Assert.True(release.Wait(Pair.Patience)));
        pair.Listen();
        pair.Source.Start(pair.Address);
        Assert.True(SpinWait.SpinUntil(() => pair.DestinationMachine.Calls.Calls.Contains(call), Pair.Patience));
        // The source's wait may begin a moment after the call has.
        Assert.True(SpinWait.SpinUntil(
            () =>
            {
                clock.Advance(times.Answer);
                return MigrationProgress.IsOver(pair.Source.Status.State);
            },
            Pair.Patience));
        release.Set();
        Assert.Equal(MigrationState.Failed, pair.WaitForSource(MigrationState.Failed, MigrationState.Completed));
        Assert.Contains("has not answered for 120 s", pair.Source.Status.Error, StringComparison.Ordinal);
        Assert.Equal(!committed, pair.SourceMachine.Executing);
        Assert.Equal(committed, pair.SourceMachine.PostMigrate);
        Assert.Equal(
            committed ? MigrationState.Completed : MigrationState.Failed, pair.WaitForDestination(MigrationState.Completed, MigrationState.Failed));
        Assert.Equal(committed, pair.DestinationMachine.Executing);
    }

    private static void AssertSourceAsBefore(Pair pair)
    {
        TestMachine source = pair.SourceMachine;
        Assert.True(source.Executing);
        Assert.False(source.PostMigrate);
        Assert.False(source.Ram.Dirty.Enabled);
        Assert.All(source.Devices, device => Assert.Equal("running", device.StateName));
    }

    private static void AssertDestinationDidNotRun(Pair pair)
    {
        Assert.False(pair.DestinationMachine.Executing);
        Assert.False(pair.DestinationMachine.Arrived);
        Assert.DoesNotContain(pair.DestinationMachine.Calls.Calls, call => call.Contains("Start", StringComparison.Ordinal));
    }

    private static ConcurrentQueue<string> WaitForIncomingFailure(Pair pair)
    {
        Assert.True(SpinWait.SpinUntil(() => !pair.IncomingFailures.IsEmpty, Pair.Patience), "no IncomingFailed");
        return pair.IncomingFailures;
    }

    /// <summary>After a failure the same source migrates to a fresh destination.</summary>
    private static void MigrateAgain(Pair pair)
    {
        pair.SourceMachine.Calls.Clear();
        using var destination = new TestMachine(devices: 2, running: false);
        using var controller = new MigrationController(destination, TimeProvider.System);
        controller.Listen($"unix:{pair.TempFile("again.sock")}");
        pair.Source.Parameters = new MigrationParameters { VerifyPages = true };
        pair.Source.Start(controller.ListeningAt!);
        MigrationState end = pair.WaitForSource(MigrationState.Completed, MigrationState.Failed);
        Assert.True(end == MigrationState.Completed, pair.Source.Status.Error);
        Assert.True(destination.Executing);
        Assert.False(pair.SourceMachine.Executing);
        Assert.Null(TestMachine.FirstDifference(pair.SourceMachine, destination));
    }

    private sealed record TestBlocker : MigrationBlocker
    {
        public override string Code => "test";

        public override string Reason => "It may not move";

        public override string WayOut => "Allow it";

        public bool Passes { get; init; }

        public override bool MayPass => Passes;
    }
}
