using System.Net.Sockets;

namespace Godwit.Migration.Tests;

public sealed class CancelTests
{
    [Theory]
    [InlineData("log0.Start")]
    [InlineData("nvme0.BeginSave")]
    [InlineData("log0.Sync")]
    [InlineData("StopForSwitchover")]
    [InlineData("nvme0.Quiesce")]
    [InlineData("nvme0.StopAndCopy")]
    [InlineData("log0.Sync(final)")]
    [InlineData("nvme0.ReadState(end)")]
    [InlineData("iommu.Save")]
    [InlineData("vcpu0.Save")]
    public void A_cancel_while_the_source_is_busy_takes_it_back(string call)
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        pair.SourceMachine.Calls.On(call, pair.Source.Cancel);
        AssertCancelled(pair);
    }

    [Theory]
    [InlineData("nvme0.BeginLoad")]
    [InlineData("iommu.Load")]
    [InlineData("nvme0.EndLoad")]
    public void A_cancel_does_not_wait_for_a_destination_that_hangs(string call)
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        using var release = new ManualResetEventSlim();
        pair.DestinationMachine.Calls.On(call, () =>
        {
            pair.Source.Cancel();
            Assert.True(release.Wait(Pair.Patience), "the source does not end before the destination answers");
        });
        pair.Source.StateChanged += state =>
        {
            if (state == MigrationState.Cancelled)
                release.Set();
        };
        AssertCancelled(pair);
    }

    [Fact]
    public void A_cancel_after_the_commit_has_no_effect()
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        pair.DestinationMachine.Calls.On("nvme0.Start(PeerToPeer)", pair.Source.Cancel);
        pair.Migrate();
        Assert.Equal(MigrationState.Completed, pair.Source.Status.State);
        Assert.False(pair.SourceMachine.Executing);
        Assert.True(pair.DestinationMachine.Executing);
    }

    [Fact]
    public void A_cancel_ends_the_wait_for_the_shortest_precopy()
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        pair.Source.Parameters = new MigrationParameters { MinimumPrecopy = TimeSpan.FromHours(1) };
        int rounds = 0;
        pair.Source.PassStarted += _ =>
        {
            if (++rounds == 3)
                pair.Source.Cancel();
        };
        AssertCancelled(pair);
    }

    [Fact]
    public void A_cancel_ends_the_wait_for_bandwidth()
    {
        using var source = new TestMachine(mebibytes: 16);
        source.Fill(3);
        source.Devices[0].Precopy = 0; // it would be sent before
        using var pair = new Pair(source, new TestMachine(mebibytes: 16, running: false));
        pair.Source.Parameters = new MigrationParameters { MaxBandwidth = 1 };
        source.Calls.On("nvme0.BeginSave", () => new Thread(() =>
        {
            Assert.True(SpinWait.SpinUntil(() => pair.Source.Status.NormalPages > 0, Pair.Patience));
            pair.Source.Cancel();
        }).Start());
        AssertCancelled(pair);
        // It waits after each chunk, and the cancel came in the first wait.
        Assert.InRange(pair.Source.Status.NormalPages, 1, StreamFormat.MaxPagesPerFrame);
    }

    [Fact]
    public void More_bandwidth_is_had_at_once()
    {
        using var source = new TestMachine(mebibytes: 16);
        source.Fill(3);
        source.Devices[0].Precopy = 0; // it would be sent before
        using var pair = new Pair(source, new TestMachine(mebibytes: 16, running: false));
        pair.Source.Parameters = new MigrationParameters { MaxBandwidth = 1 }; // years
        source.Calls.On("nvme0.BeginSave", () => new Thread(() =>
        {
            Assert.True(SpinWait.SpinUntil(() => pair.Source.Status.NormalPages > 0, Pair.Patience));
            pair.Source.Parameters = pair.Source.Parameters with { MaxBandwidth = 0 };
        }).Start());
        pair.Migrate();
        Assert.True(pair.Source.Status.State == MigrationState.Completed, pair.Source.Status.Error);
    }

    [Fact]
    public void A_cancel_breaks_a_write_that_the_destination_does_not_take()
    {
        using var source = new TestMachine(mebibytes: 64, devices: 0);
        source.Fill(4);
        using var pair = new Pair(
            source, new TestMachine(mebibytes: 64, devices: 0, running: false), times: new MigrationTimes { SilentPeer = TimeSpan.FromHours(1) });
        using var deaf = new DeafDestination(StreamDescription.Of(source), pair.TempFile("deaf.sock"));
        pair.Source.Start(deaf.Address);
        // What fits the socket has gone and nothing moves any more.
        deaf.WaitUntilFull();
        pair.Source.Cancel();
        Assert.Equal(MigrationState.Cancelled, pair.WaitForSource(MigrationState.Cancelled, MigrationState.Failed, MigrationState.Completed));
        Assert.True(source.Executing);
        Assert.False(source.Ram.Dirty.Enabled);
    }

    [Fact]
    public void A_write_that_makes_no_progress_is_broken_within_a_hundred_milliseconds_of_the_cancel()
    {
        var clock = new ManualClock();
        using var source = new TestMachine(mebibytes: 64, devices: 0);
        source.Fill(4);
        using var pair = new Pair(source, new TestMachine(mebibytes: 64, devices: 0, running: false), clock);
        using var deaf = new DeafDestination(StreamDescription.Of(source), pair.TempFile("deaf.sock"));
        pair.Source.Start(deaf.Address);
        deaf.WaitUntilFull();
        pair.Source.Cancel();
        // Looked at twice by then: what has just begun when it is looked at for the first time is old enough the second time.
        clock.Advance(TimeSpan.FromMilliseconds(49));
        Assert.False(MigrationProgress.IsOver(pair.Source.Status.State));
        clock.Advance(TimeSpan.FromMilliseconds(51));
        Assert.Equal(MigrationState.Cancelled, pair.WaitForSource(MigrationState.Cancelled, MigrationState.Failed, MigrationState.Completed));
        Assert.True(source.Executing);
    }

    [Fact]
    public void A_cancel_ends_connecting()
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        // A backlog that is full: unix(7) lets the next connect wait.
        string path = pair.TempFile("full.sock");
        using var listener = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(new UnixDomainSocketEndPoint(path));
        listener.Listen(0);
        using var filler = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        filler.Connect(new UnixDomainSocketEndPoint(path));
        pair.Source.Start($"unix:{path}");
        pair.WaitForSource(MigrationState.Setup);
        pair.Source.Cancel();
        Assert.Equal(MigrationState.Cancelled, pair.WaitForSource(MigrationState.Cancelled, MigrationState.Failed));
        Assert.Empty(pair.SourceMachine.Calls.Calls);
    }

    private static void AssertCancelled(Pair pair)
    {
        pair.Migrate();
        Assert.True(pair.Source.Status.State == MigrationState.Cancelled, $"{pair.Source.Status.State}: {pair.Source.Status.Error}");
        Assert.Null(pair.Source.Status.Error);
        Assert.True(pair.SourceMachine.Executing);
        Assert.False(pair.SourceMachine.PostMigrate);
        Assert.False(pair.SourceMachine.Ram.Dirty.Enabled);
        Assert.All(pair.SourceMachine.Devices, device => Assert.Equal("running", device.StateName));
        pair.WaitForDestination(MigrationState.Setup, MigrationState.Failed);
        Assert.False(pair.DestinationMachine.Arrived);
        Assert.False(pair.DestinationMachine.Executing);
    }
}
