using System.Net.Sockets;

namespace Godwit.Migration.Tests;

public sealed class LinkWatchTests
{
    private static readonly TimeSpan Timeout = LinkWatch.DefaultTimeout;

    [Fact]
    public void A_silent_destination_is_given_up_after_the_timeout()
    {
        var clock = new ManualClock();
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false), clock);
        using var deaf = new DeafDestination(StreamDescription.Of(pair.SourceMachine), pair.TempFile("deaf.sock"), answer: false);
        pair.Source.Start(deaf.Address);
        deaf.WaitForSource();
        clock.Advance(Timeout - TimeSpan.FromTicks(1));
        Assert.Equal(MigrationState.Setup, pair.Source.Status.State);
        clock.Advance(TimeSpan.FromTicks(1));
        Assert.Equal(MigrationState.Failed, pair.WaitForSource(MigrationState.Failed, MigrationState.Completed));
        Assert.Contains("Nothing was heard from the destination for 30 s", pair.Source.Status.Error, StringComparison.Ordinal);
        Assert.True(pair.SourceMachine.Executing);
    }

    [Fact]
    public void A_silent_source_is_given_up_after_the_timeout_and_the_destination_listens_again()
    {
        var clock = new ManualClock();
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false), clock);
        pair.Listen();
        using (var source = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified))
        {
            source.Connect(new UnixDomainSocketEndPoint(pair.ListenUri["unix:".Length..]));
            using var stream = new NetworkStream(source);
            var reader = new FrameReader(stream);
            reader.ReadPreface();
            reader.ReadPayload(reader.ReadHeader());
            clock.Advance(Timeout);
            pair.WaitForDestination(MigrationState.Setup);
        }

        Assert.Contains("Nothing was heard from the source for 30 s", pair.Destination.Status.Error, StringComparison.Ordinal);
        pair.Migrate();
        Assert.True(pair.Source.Status.State == MigrationState.Completed, pair.Source.Status.Error);
    }

    [Fact]
    public void A_destination_that_takes_nothing_is_given_up_even_when_it_talks()
    {
        var clock = new ManualClock();
        using var source = new TestMachine(mebibytes: 64, devices: 0);
        source.Fill(4);
        using var pair = new Pair(source, new TestMachine(mebibytes: 64, devices: 0, running: false), clock);
        using var deaf = new DeafDestination(StreamDescription.Of(source), pair.TempFile("deaf.sock"), talk: clock);
        pair.Source.Start(deaf.Address);
        deaf.WaitForSource();
        Assert.True(SpinWait.SpinUntil(
            () =>
            {
                // Each step shows the source a sign of life, and time without progress.
                clock.Advance(TimeSpan.FromSeconds(1));
                return pair.Source.Status.State == MigrationState.Failed;
            },
            Pair.Patience));
        Assert.Contains("has taken no data for 30 s", pair.Source.Status.Error, StringComparison.Ordinal);
        Assert.True(source.Executing);
    }

    [Fact]
    public void Quiet_sides_keep_each_other_alive()
    {
        var clock = new ManualClock();
        (MigrationChannel left, MigrationChannel right) = Connect(clock);
        using MigrationChannel near = left, far = right;
        using var writer = new FrameWriter(left);
        using var watch = new LinkWatch(left, writer, "peer", Timeout, clock);
        var reader = new FrameReader(right);
        writer.WritePreface();
        for (int i = 0; i < 5; i++)
        {
            clock.Advance(Timeout / 6);
            if (i == 0)
                reader.ReadPreface();
            Assert.Equal(FrameType.KeepAlive, reader.ReadHeader().Type);
            Assert.Equal(TimeSpan.Zero, right.QuietFor);
        }

        Assert.Null(left.AbortReason);
        // The watched side has heard nothing all the time.
        clock.Advance(Timeout / 6);
        Assert.Contains("Nothing was heard from the peer", left.AbortReason, StringComparison.Ordinal);
    }

    [Fact]
    public void A_keep_alive_does_not_overtake_the_preface_of_a_side_that_is_slow_to_begin()
    {
        var clock = new ManualClock();
        (MigrationChannel left, MigrationChannel right) = Connect(clock);
        using MigrationChannel near = left, far = right;
        using var writer = new FrameWriter(left);
        using (var watch = new LinkWatch(left, writer, "peer", Timeout, clock))
            clock.Advance(Timeout / 2);
        Assert.Equal(0, writer.Bytes);
        writer.WritePreface();
        writer.Write(FrameType.Accept, default);
        writer.Flush();
        var reader = new FrameReader(right);
        reader.ReadPreface();
        Assert.Equal(FrameType.Accept, reader.ReadHeader().Type);
    }

    private static (MigrationChannel Left, MigrationChannel Right) Connect(TimeProvider clock)
    {
        using var directory = new TempDirectory();
        using MigrationListener listener = MigrationListener.Open(new UnixMigrationUri(directory.File("a")), clock);
        return (MigrationConnector.Connect(listener.Address, clock, default), listener.Accept()!);
    }
}
