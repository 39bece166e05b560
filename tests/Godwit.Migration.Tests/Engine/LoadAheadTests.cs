using System.Buffers;

namespace Godwit.Migration.Tests;

/// <summary>A destination whose load is slow, by a clock that stands still otherwise: the limit is kept, or it is said why it cannot be.</summary>
public sealed class LoadAheadTests
{
    private static readonly TimeSpan Limit = TimeSpan.FromMilliseconds(100);

    [Fact]
    public void The_switchover_waits_until_most_of_the_load_is_done_ahead()
    {
        var clock = new ManualClock();
        using Pair pair = Create(clock);
        int loads = 0;
        // As with a vIOMMU: the first load installs everything, each later one half of what is left.
        pair.DestinationMachine.Calls.On("iommu.Load", () => clock.Advance(TimeSpan.FromMilliseconds(800 >> loads++)));
        pair.Migrate();

        MigrationStatus status = pair.Source.Status;
        Assert.True(status.State == MigrationState.Completed, status.Error);
        Assert.Equal(MigrationState.Completed, pair.WaitForDestination(MigrationState.Completed, MigrationState.Failed));
        Assert.True(loads > 4, $"{loads} loads"); // 800, 400, 200, 100: with 5 ms to stop and 5 to start, the next is the first that will do
        Assert.Equal(TimeSpan.FromMilliseconds(50), status.Expected.Load);
        Assert.Equal(TimeSpan.FromMilliseconds(25), status.Downtime!.Load);
        Assert.True(status.Downtime.Total <= Limit, $"{status.Downtime}");
        Assert.Equal(pair.SourceMachine.States.Select(state => state.State), pair.DestinationMachine.States.Select(state => state.Loaded!));
        // The rounds of the list say what was known after each.
        Assert.Equal([800, 400, 200, 100, 50], status.Rounds.SkipLast(1).Select(round => round.DestinationLoadTime.TotalMilliseconds).Distinct());
        // What was loaded ahead is not in the rate of the link, nor in its latency.
        Assert.Equal(RateEstimator.Unknown, status.BytesPerSecond);
        Assert.Equal(TimeSpan.Zero, status.Expected.Commit);
    }

    [Fact]
    public void A_destination_that_stays_slow_is_named()
    {
        var clock = new ManualClock();
        using Pair pair = Create(clock);
        pair.DestinationMachine.Calls.On("iommu.Load", () => clock.Advance(TimeSpan.FromMilliseconds(800)));
        pair.Migrate();
        MigrationStatus status = pair.Source.Status;
        Assert.Equal(MigrationState.Failed, status.State);
        Assert.Contains("the destination needs 800 ms to load and 5 ms to start, an expected downtime of 810 ms where 100 ms are allowed", status.Error, StringComparison.Ordinal);
        Assert.Contains("Loading and starting on the destination alone take longer", status.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("StopForSwitchover", pair.SourceMachine.Calls.Calls);
        Assert.True(pair.SourceMachine.Executing);
    }

    [Fact]
    public void A_downtime_that_may_be_raised_is()
    {
        var clock = new ManualClock();
        using Pair pair = Create(clock);
        pair.DestinationMachine.Calls.On("iommu.Load", () => clock.Advance(TimeSpan.FromMilliseconds(300)));
        pair.Source.Parameters = pair.Source.Parameters with { OnStall = StallAction.RaiseDowntime };
        pair.Migrate();
        MigrationStatus status = pair.Source.Status;
        Assert.True(status.State == MigrationState.Completed, status.Error);
        Assert.Equal(Limit * 4, status.DowntimeLimit);
        Assert.Equal(TimeSpan.FromMilliseconds(300), status.Downtime!.Load);
    }

    [Fact]
    public void A_device_that_takes_its_state_slowly_is_waited_for()
    {
        var clock = new ManualClock();
        using Pair pair = Create(clock);
        FakeDevice source = SlowlyTaken(pair, clock, size: 24 << 20, precopy: 2 << 20);
        pair.Source.PassStarted += _ => source.Precopy = Math.Min(source.Precopy + (2 << 20), source.State.Length - (512 << 10));
        pair.Migrate();
        MigrationStatus status = pair.Source.Status;
        Assert.True(status.State == MigrationState.Completed, status.Error);
        // At the link's rate 11 MiB were few enough; at the device's, a little less than 1.
        Assert.Equal(50, status.Expected.State.TotalMilliseconds, tolerance: 1);
        Assert.True(status.Downtime!.Total <= Limit, $"{status.Downtime}");
        Assert.Equal(source.State, pair.DestinationMachine.Devices[0].Loaded);
    }

    [Fact]
    public void A_device_that_takes_the_rest_of_its_state_too_slowly_is_named()
    {
        var clock = new ManualClock();
        using Pair pair = Create(clock);
        SlowlyTaken(pair, clock, size: 6 << 20, precopy: 3 << 20);
        pair.Migrate();
        MigrationStatus status = pair.Source.Status;
        Assert.Equal(MigrationState.Failed, status.State);
        Assert.Contains("3.1 MB of device state (the destination's devices take 10.5 MB/s) remain", status.Error, StringComparison.Ordinal);
        Assert.Contains("The state of the devices alone takes longer", status.Error, StringComparison.Ordinal);
        Assert.True(pair.SourceMachine.Executing);
    }

    [Fact]
    public void What_devices_take_to_judge_their_state_and_to_start_is_expected()
    {
        var clock = new ManualClock();
        using Pair pair = Create(clock, devices: 2);
        pair.DestinationMachine.Devices[0].Rehearsal = new DeviceRehearsal(TimeSpan.FromMilliseconds(30), TimeSpan.FromMilliseconds(7));
        pair.DestinationMachine.Devices[1].Rehearsal = new DeviceRehearsal(TimeSpan.FromMilliseconds(11), TimeSpan.FromMilliseconds(9));
        pair.Migrate();
        MigrationStatus status = pair.Source.Status;
        Assert.True(status.State == MigrationState.Completed, status.Error);
        // 5 ms for what starts beside them.
        Assert.Equal((41, 21), (status.Expected.Load.TotalMilliseconds, status.Expected.Start.TotalMilliseconds));
    }

    [Fact]
    public void A_pause_during_one_of_its_turns_is_not_taken_for_the_devices()
    {
        var clock = new ManualClock();
        using Pair pair = Create(clock);
        TimeSpan slow = TimeSpan.FromSeconds(3), first = TimeSpan.FromMilliseconds(8), later = TimeSpan.FromMilliseconds(4);
        FakeDevice device = pair.DestinationMachine.Devices[0];
        device.Rehearsals.Enqueue(new DeviceRehearsal(first, first));
        device.Rehearsals.Enqueue(new DeviceRehearsal(later, slow));
        device.Rehearsals.Enqueue(new DeviceRehearsal(slow, later));
        pair.Migrate();
        Assert.Equal((4, 9), (pair.Source.Status.Expected.Load.TotalMilliseconds, pair.Source.Status.Expected.Start.TotalMilliseconds));
    }

    [Fact]
    public void A_device_that_was_not_rehearsed_is_assumed_to_start_as_fast_as_the_rest()
    {
        var clock = new ManualClock();
        using Pair pair = Create(clock);
        pair.DestinationMachine.Devices[0].Rehearsal = null;
        pair.Migrate();
        Assert.Equal((0, 10), (pair.Source.Status.Expected.Load.TotalMilliseconds, pair.Source.Status.Expected.Start.TotalMilliseconds));
    }

    [Fact]
    public void A_device_that_does_not_take_its_own_state_ends_it_before_anything_is_sent()
    {
        using var pair = new Pair(Machine(), Machine(running: false));
        pair.DestinationMachine.Calls.FailAt("nvme0.Rehearse");
        pair.Migrate();
        Assert.Equal(MigrationState.Failed, pair.Source.Status.State);
        Assert.Contains("rehearsing the load of nvme0 with its own state: injected at nvme0.Rehearse", pair.Source.Status.Error, StringComparison.Ordinal);
        Assert.Empty(pair.Source.Status.Rounds);
        pair.WaitForDestination(MigrationState.Setup);
        pair.DestinationMachine.Calls.Clear();
        pair.Migrate();
        Assert.True(pair.Source.Status.State == MigrationState.Completed, pair.Source.Status.Error);
    }

    [Fact]
    public void What_was_loaded_ahead_is_taken_back_and_the_next_migration_comes()
    {
        using var pair = new Pair(Machine(), Machine(running: false));
        pair.SourceMachine.Calls.FailAt("log0.Sync");
        pair.Migrate();
        Assert.Equal(MigrationState.Failed, pair.Source.Status.State);
        pair.WaitForDestination(MigrationState.Setup);
        Assert.Equal(
            ["iommu.Load", "iommu.Load(own)"],
            pair.DestinationMachine.Calls.Calls.Where(call => call.StartsWith("iommu.Load", StringComparison.Ordinal)).TakeLast(2));
        Assert.DoesNotContain("vcpu0.Load", pair.DestinationMachine.Calls.Calls);

        pair.SourceMachine.Calls.Clear();
        pair.Migrate();
        Assert.True(pair.Source.Status.State == MigrationState.Completed, pair.Source.Status.Error);
        Assert.Equal(MigrationState.Completed, pair.WaitForDestination(MigrationState.Completed, MigrationState.Failed));
    }

    [Fact]
    public void A_destination_that_cannot_take_it_back_is_lost_and_says_so()
    {
        using var pair = new Pair(Machine(), Machine(running: false));
        pair.DestinationMachine.Calls.On("iommu.Load", () => pair.DestinationMachine.Calls.FailAt("iommu.Load(own)"));
        pair.SourceMachine.Calls.FailAt("log0.Sync");
        pair.Migrate();
        Assert.Equal(MigrationState.Failed, pair.Source.Status.State);
        pair.WaitForDestination(MigrationState.Failed);
        Assert.Contains("taking back what was loaded ahead failed: injected at iommu.Load(own)", pair.Destination.Status.Error, StringComparison.Ordinal);
        Assert.Null(pair.Destination.ListeningAt);
    }

    [Theory]
    [InlineData(4, "rehearsal in microseconds")]
    [InlineData(12, "load time in microseconds")]
    [InlineData(20, "start time in microseconds")]
    public void A_time_beyond_an_hour_is_refused(int offset, string field)
    {
        var payload = new ArrayBufferWriter<byte>();
        var ack = new RoundAckMessage(7, TimeSpan.FromMilliseconds(1), new DestinationNeeds(TimeSpan.FromHours(1), TimeSpan.FromHours(9), ulong.MaxValue));
        ack.Write(payload);
        byte[] bytes = payload.WrittenSpan.ToArray();
        var header = new FrameHeader(FrameType.RoundAck, bytes.Length, 0, 0);
        Assert.Equal(ack with { Needs = ack.Needs with { Start = TimeSpan.FromHours(1) } }, RoundAckMessage.Read(header, bytes));
        BitConverter.TryWriteBytes(bytes.AsSpan(offset), 1UL << 63);
        MigrationStreamException e = Assert.Throws<MigrationStreamException>(() => RoundAckMessage.Read(header, bytes));
        Assert.Equal(field, e.Field);
        BitConverter.TryWriteBytes(bytes.AsSpan(offset), 3_600_000_001UL);
        Assert.Throws<MigrationStreamException>(() => RoundAckMessage.Read(header, bytes));
    }

    /// <summary>Two machines whose vIOMMU loads ahead; each round but the last takes four seconds.</summary>
    private static Pair Create(ManualClock clock, int devices = 1)
    {
        var pair = new Pair(Machine(devices: devices), Machine(running: false, devices), clock);
        pair.Source.Parameters = new MigrationParameters { DowntimeLimit = Limit };
        pair.Source.PassStarted += _ =>
        {
            if (!pair.SourceMachine.Calls.Calls.Contains("StopForSwitchover"))
                clock.Advance(TimeSpan.FromSeconds(4));
        };
        return pair;
    }

    /// <summary>Gives the source's device so much state, of which some comes before the stop, and has the destination's take 100 ms for each MiB.</summary>
    private static FakeDevice SlowlyTaken(Pair pair, ManualClock clock, int size, int precopy)
    {
        FakeDevice source = pair.SourceMachine.Devices[0];
        source.State = new byte[size];
        source.Precopy = precopy;
        source.CountsPending = true;
        pair.DestinationMachine.Devices[0].Taking = bytes => clock.Advance(TimeSpan.FromMilliseconds(100.0 * bytes / (1 << 20)));
        return source;
    }

    private static TestMachine Machine(bool running = true, int devices = 1)
    {
        var machine = new TestMachine(running: running, devices: devices);
        machine.States[0].LoadsAhead = true;
        foreach (FakeDevice device in machine.Devices)
        {
            device.Pending = 0;
            device.Precopy = 0;
            device.State = [1, 2, 3];
        }

        return machine;
    }
}
