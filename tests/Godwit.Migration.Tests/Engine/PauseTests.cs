namespace Godwit.Migration.Tests;

/// <summary>The pause before the switchover, and trying again.</summary>
public sealed class PauseTests
{
    [Fact]
    public void The_guest_is_stopped_and_nothing_more_is_done_until_it_is_continued()
    {
        using Pair pair = Pausing();
        Assert.Throws<InvalidOperationException>(pair.Source.Continue);
        Pause(pair);
        Assert.False(pair.SourceMachine.Executing);
        Assert.DoesNotContain("nvme0.Quiesce", pair.SourceMachine.Calls.Calls);
        pair.Source.Continue();
        pair.WaitForSource(MigrationState.Device);
        pair.WaitForSource(MigrationState.Completed);
        pair.WaitForDestination(MigrationState.Completed);
        Assert.True(pair.DestinationMachine.Executing);
        Assert.False(pair.SourceMachine.Executing);
        DowntimeParts parts = pair.Source.Status.Downtime!;
        Assert.True(parts.Pause > TimeSpan.Zero);
        Assert.Equal(parts.StopVcpus + parts.StopDevices + parts.FinalSync + parts.FinalPages + parts.DeviceState + parts.MachineState
            + parts.Load + parts.Commit + parts.Start, parts.Total);
        Assert.Throws<InvalidOperationException>(pair.Source.Continue);
    }

    [Theory]
    [InlineData("cancel")]
    [InlineData("destination")]
    public void What_ends_the_pause_otherwise_lets_the_guest_run_on(string cause)
    {
        using Pair pair = Pausing();
        Pause(pair);
        if (cause == "cancel")
            pair.Source.Cancel();
        else
            pair.Destination.Dispose();
        MigrationState expected = cause == "cancel" ? MigrationState.Cancelled : MigrationState.Failed;
        Assert.Equal(expected, pair.WaitForSource(MigrationState.Cancelled, MigrationState.Failed, MigrationState.Completed));
        Assert.True(pair.SourceMachine.Executing);
        Assert.False(pair.SourceMachine.Ram.Dirty.Enabled);
        Assert.False(pair.DestinationMachine.Arrived);
    }

    [Fact]
    public void A_failed_migration_is_tried_again_and_a_completed_one_is_not()
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        Assert.Throws<InvalidOperationException>(() => pair.Source.Retry(null));
        // Nobody listens yet.
        pair.Source.Start(pair.ListenUri);
        pair.WaitForSource(MigrationState.Failed);
        pair.Listen();
        pair.Source.Retry(null);
        pair.WaitForSource(MigrationState.Completed, MigrationState.Failed);
        Assert.True(pair.Source.Status.State == MigrationState.Completed, pair.Source.Status.Error);
        Assert.Throws<InvalidOperationException>(() => pair.Source.Retry(null));
    }

    [Fact]
    public void A_destination_that_waits_for_the_commit_says_what_it_knows()
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        pair.Listen();
        using var proxy = new FrameProxy(pair.ListenUri["unix:".Length..], (type, payload, send) =>
        {
            if (type == FrameType.Commit)
                throw new IOException("cut");
            send(type, payload);
        });
        pair.Source.Start(proxy.Address);
        pair.WaitForSource(MigrationState.Failed);
        pair.WaitForDestination(MigrationState.Failed);
        Assert.Contains("no commit has arrived, so this side never runs", pair.Destination.Status.Error, StringComparison.Ordinal);
        Assert.Contains("the destination reports after the commit: Destination, waiting for the commit", pair.Source.Status.Error, StringComparison.Ordinal);
        Assert.False(pair.SourceMachine.Executing || pair.DestinationMachine.Executing);
    }

    private static Pair Pausing()
    {
        var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        pair.Source.Parameters = new MigrationParameters { PauseBeforeSwitchover = true };
        return pair;
    }

    private static void Pause(Pair pair)
    {
        pair.Listen();
        pair.Source.Start(pair.Address);
        pair.WaitForSource(MigrationState.PreSwitchover);
    }
}
