using Godwit.Memory;

namespace Godwit.Migration.Tests;

public sealed class CompletedMigrationTests
{
    [Theory]
    [InlineData("unix")]
    [InlineData("tcp")]
    [InlineData("tcp6")]
    [InlineData("localhost")]
    public void Everything_arrives_while_the_guest_writes(string transport)
    {
        int seed = Random.Shared.Next();
        using var source = new TestMachine(mebibytes: 32, devices: 2, twoBlocks: true);
        source.Fill(seed);
        using var pair = new Pair(source, new TestMachine(mebibytes: 32, devices: 2, running: false, twoBlocks: true), transport: transport);
        pair.Source.Parameters = new MigrationParameters { VerifyPages = true, MinimumPrecopy = TimeSpan.FromMilliseconds(150), DowntimeLimit = TimeSpan.FromSeconds(1000) };
        source.AddDirtyingVcpu(seed, 256);
        source.AddDirtyingVcpu(seed + 1, 8192);

        pair.Migrate();

        MigrationStatus status = pair.Source.Status;
        Assert.True(status.State == MigrationState.Completed, $"seed {seed}: {status.Error}");
        Assert.Equal(MigrationState.Completed, pair.WaitForDestination(MigrationState.Completed, MigrationState.Failed));
        Assert.False(source.Executing);
        Assert.True(pair.DestinationMachine.Executing);
        Assert.Equal(source.Devices.Select(device => device.State), pair.DestinationMachine.Devices.Select(device => device.Loaded));
        Assert.Equal(source.States.Select(state => state.State), pair.DestinationMachine.States.Select(state => state.Loaded!));
        Assert.Null(TestMachine.FirstDifference(source, pair.DestinationMachine));
        Assert.Equal(0, status.Verification!.PagesDiffering);
        Assert.Equal(32 * 256, status.Verification.PagesCompared);
    }

    [Fact]
    public void Calls_are_made_in_the_order_of_the_contract()
    {
        using var pair = new Pair(new TestMachine(devices: 2), new TestMachine(devices: 2, running: false));
        // On a machine that is slow to load, a second round would come before it stops.
        pair.Source.Parameters = new MigrationParameters { DowntimeLimit = TimeSpan.FromSeconds(2000) };
        pair.Migrate();
        Assert.Equal(MigrationState.Completed, pair.WaitForDestination(MigrationState.Completed, MigrationState.Failed));

        Assert.Equal(
            [
                "log0.Start", "log1.Start",
                "nvme0.BeginSave", "nvme1.BeginSave",
                "log0.Sync", "log1.Sync",
                "StopForSwitchover",
                "nvme0.Quiesce", "nvme1.Quiesce",
                "nvme0.StopAndCopy", "nvme1.StopAndCopy",
                "log0.Sync(final)", "log1.Sync(final)",
                "nvme0.ReadState(end)", "nvme1.ReadState(end)",
                "iommu.Save", "vcpu0.Save",
                "EnterPostMigrate",
                "nvme0.EndSave", "nvme1.EndSave",
                "log1.Stop", "log0.Stop",
            ],
            pair.SourceMachine.Calls.Calls);
        Assert.Equal(
            [
                "iommu.Save", "vcpu0.Save", "iommu.Load(own)", "vcpu0.Load(own)", "iommu.Load(own)", "vcpu0.Load(own)",
                "nvme0.Rehearse", "nvme0.Rehearse", "nvme0.Rehearse", "nvme1.Rehearse", "nvme1.Rehearse", "nvme1.Rehearse",
                "nvme0.BeginLoad", "nvme0.WriteState(first)", "nvme1.BeginLoad", "nvme1.WriteState(first)",
                "iommu.Load", "vcpu0.Load",
                "nvme0.EndLoad", "nvme1.EndLoad",
                "nvme0.Start(PeerToPeer)", "nvme1.Start(PeerToPeer)",
                "nvme0.Start(Running)", "nvme1.Start(Running)",
                "StartAfterLoad(True)",
            ],
            pair.DestinationMachine.Calls.Calls);
        Assert.False(pair.SourceMachine.Ram.Dirty.Enabled);
        Assert.Equal(3, pair.DestinationMachine.States[0].LoadedVersion);
    }

    [Fact]
    public void A_paused_guest_arrives_paused_with_its_devices_stopped()
    {
        using var pair = new Pair(new TestMachine(running: false), new TestMachine(running: false));
        pair.SourceMachine.Devices[0].MakeStopped();
        pair.Migrate();
        Assert.Equal(MigrationState.Completed, pair.WaitForDestination(MigrationState.Completed, MigrationState.Failed));
        Assert.False(pair.SourceMachine.Executing);
        Assert.False(pair.DestinationMachine.Executing);
        Assert.Contains("StartAfterLoad(False)", pair.DestinationMachine.Calls.Calls);
        Assert.Equal("stop", pair.DestinationMachine.Devices[0].StateName);
        Assert.Equal(pair.SourceMachine.Devices[0].State, pair.DestinationMachine.Devices[0].Loaded);
    }

    [Fact]
    public void A_machine_without_devices_moves()
    {
        using var pair = new Pair(new TestMachine(devices: 0), new TestMachine(devices: 0, running: false));
        pair.Migrate();
        Assert.Equal(MigrationState.Completed, pair.WaitForDestination(MigrationState.Completed, MigrationState.Failed));
    }

    [Fact]
    public void Zeros_overwrite_what_the_destination_had_and_touch_nothing_else()
    {
        using var pair = new Pair(new TestMachine(devices: 0), new TestMachine(devices: 0, running: false));
        RamBlock block = pair.DestinationMachine.Ram.Blocks[0];
        block.Write(5 * RamPage.Size, [1, 2, 3], DirtySource.Vmm);
        ulong untouched = 2 << 20;
        pair.Source.Parameters = new MigrationParameters { VerifyPages = true };
        pair.Migrate();
        Assert.Equal(MigrationState.Completed, pair.WaitForDestination(MigrationState.Completed, MigrationState.Failed));
        Assert.Equal(0, pair.Source.Status.NormalPages);
        Assert.Equal(1024, pair.Source.Status.Verification!.PagesCompared);
        Assert.Equal(1024, pair.Source.Status.ZeroPages);
        // Asked before anything reads the memory, which would allocate it.
        Assert.Equal(block.Size, RamHoles.NextData(block, untouched));
        Assert.Equal(block.Size, RamHoles.NextData(pair.SourceMachine.Ram.Blocks[0], 0));
        Assert.Null(TestMachine.FirstDifference(pair.SourceMachine, pair.DestinationMachine));
    }

    [Fact]
    public void The_bandwidth_limit_is_kept()
    {
        using var source = new TestMachine(mebibytes: 8);
        source.Fill(1);
        using var pair = new Pair(source, new TestMachine(mebibytes: 8, running: false));
        const long Limit = 20_000_000;
        pair.Source.Parameters = new MigrationParameters { MaxBandwidth = Limit, DowntimeLimit = TimeSpan.FromSeconds(1000) };
        pair.Migrate();
        MigrationRound first = pair.Source.Status.Rounds[0];
        Assert.True(first.PagesSent > 1000);
        // At least so long: what is left in the writer's buffer and in the bucket is not waited for.
        double least = (first.BytesSent - (512 << 10)) / (double)Limit;
        Assert.True(first.Duration.TotalSeconds >= least - 0.02, $"{first.BytesSent} bytes in {first.Duration}");
        Assert.True(first.BytesPerSecond < Limit * 1.2, $"{first.BytesPerSecond}");
    }

    [Fact]
    public void The_status_adds_up()
    {
        using var source = new TestMachine(mebibytes: 8);
        source.Fill(1);
        using var pair = new Pair(source, new TestMachine(mebibytes: 8, running: false));
        var passes = new List<int>();
        pair.Source.PassStarted += passes.Add;
        pair.Source.Parameters = new MigrationParameters { VerifyPages = true, DowntimeLimit = TimeSpan.FromSeconds(2000) };
        pair.Migrate();
        MigrationStatus status = pair.Source.Status;
        pair.WaitForDestination(MigrationState.Completed);

        Assert.Null(status.Error);
        Assert.False(status.Incoming);
        Assert.Equal(8 << 20, status.RamTotalBytes);
        Assert.Equal(0, status.RamRemainingBytes);
        Assert.Equal(status.NormalPages * 4096, status.RamTransferredBytes);
        Assert.Equal(2048, status.NormalPages + status.ZeroPages);
        Assert.Equal(300_000, status.DeviceStateBytes);
        Assert.Equal(source.States.Sum(state => state.State.Length), status.MachineStateBytes);
        Assert.True(status.OverheadBytes is > 0 and < 100_000 + (2048 * 16), $"{status.OverheadBytes}");
        Assert.Equal([1, 2], passes);
        Assert.Equal([1, 2], status.Rounds.Select(round => round.Number));
        Assert.Equal(status.NormalPages, status.Rounds.Sum(round => round.PagesSent));
        Assert.Equal(7, status.MappingsLive);
        Assert.Equal(2, status.LogReports);
        Assert.Equal("stop", status.DeviceStates["nvme0"]);
        DowntimeParts parts = status.Downtime!;
        TimeSpan[] each =
        [
            parts.StopVcpus, parts.StopDevices, parts.FinalSync, parts.FinalPages, parts.DeviceState, parts.MachineState, parts.Load,
            parts.Commit, parts.Start,
        ];
        Assert.All(each, part => Assert.True(part >= TimeSpan.Zero));
        Assert.Equal(each.Aggregate((sum, part) => sum + part), parts.Total);
        Assert.True(parts.Total + parts.Verification <= status.TotalTime);

        MigrationStatus there = pair.Destination.Status;
        Assert.True(there.Incoming);
        Assert.Equal(status.NormalPages, there.NormalPages);
        Assert.Equal(status.ZeroPages, there.ZeroPages);
        Assert.Equal(status.DeviceStateBytes, there.DeviceStateBytes);
        Assert.Equal(status.MachineStateBytes, there.MachineStateBytes);
        Assert.Equal(0, there.Verification!.PagesDiffering);
    }

    [Fact]
    public void The_downtime_is_the_time_from_the_stop_to_the_answer()
    {
        var clock = new ManualClock();
        using var pair = new Pair(new TestMachine(devices: 1), new TestMachine(devices: 1, running: false), clock);
        TestMachine source = pair.SourceMachine;
        TestMachine destination = pair.DestinationMachine;
        pair.Source.Parameters = new MigrationParameters { VerifyPages = true };
        source.Calls.On("StopForSwitchover", () => clock.Advance(TimeSpan.FromMilliseconds(1)));
        source.Calls.On("nvme0.Quiesce", () => clock.Advance(TimeSpan.FromMilliseconds(2)));
        source.Calls.On("nvme0.StopAndCopy", () => clock.Advance(TimeSpan.FromMilliseconds(4)));
        source.Calls.On("log0.Sync(final)", () => clock.Advance(TimeSpan.FromMilliseconds(8)));
        source.Calls.On("nvme0.ReadState(end)", () => clock.Advance(TimeSpan.FromMilliseconds(16)));
        source.Calls.On("iommu.Save", () => clock.Advance(TimeSpan.FromMilliseconds(32)));
        destination.Calls.On("iommu.Load", () => clock.Advance(TimeSpan.FromMilliseconds(64)));
        destination.Calls.On("StartAfterLoad(True)", () => clock.Advance(TimeSpan.FromMilliseconds(128)));
        pair.Migrate();
        DowntimeParts parts = pair.Source.Status.Downtime!;
        Assert.Equal(
            new DowntimeParts
            {
                StopVcpus = TimeSpan.FromMilliseconds(1),
                StopDevices = TimeSpan.FromMilliseconds(6),
                FinalSync = TimeSpan.FromMilliseconds(8),
                DeviceState = TimeSpan.FromMilliseconds(16),
                MachineState = TimeSpan.FromMilliseconds(32),
                Load = TimeSpan.FromMilliseconds(64),
                Start = TimeSpan.FromMilliseconds(128),
            },
            parts);
        Assert.Equal(TimeSpan.FromMilliseconds(255), parts.Total);
    }

    [Fact]
    public void Pages_written_while_states_are_saved_are_sent_too()
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        TestMachine source = pair.SourceMachine;
        source.Calls.On("vcpu0.Save", () => source.Ram.Blocks[0].Write(8192, [9, 9, 9], DirtySource.Vmm));
        pair.Source.Parameters = new MigrationParameters { VerifyPages = true };
        pair.Migrate();
        Assert.Equal(MigrationState.Completed, pair.WaitForDestination(MigrationState.Completed, MigrationState.Failed));
        Assert.Null(TestMachine.FirstDifference(source, pair.DestinationMachine));
    }

    [Fact]
    public void The_destination_is_a_source_afterwards_and_the_source_is_not()
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        pair.Migrate();
        Assert.Equal(MigrationState.Completed, pair.WaitForDestination(MigrationState.Completed, MigrationState.Failed));
        Assert.False(File.Exists(pair.ListenUri["unix:".Length..]));
        Assert.Null(pair.Destination.ListeningAt);
        Assert.Contains("migrated away", Assert.Throws<InvalidOperationException>(() => pair.Source.Start(pair.ListenUri)).Message);

        using var third = new TestMachine(running: false);
        using var thirdController = new MigrationController(third, TimeProvider.System);
        using var arrived = new ManualResetEventSlim();
        thirdController.StateChanged += state =>
        {
            if (state == MigrationState.Completed)
                arrived.Set();
        };
        thirdController.Listen($"unix:{pair.TempFile("third.sock")}");
        pair.Destination.Start(thirdController.ListeningAt!);
        Assert.True(arrived.Wait(Pair.Patience), $"{pair.Destination.Status.Error}");
        Assert.True(third.Executing);
        Assert.False(pair.Destination.Status.Incoming);
    }
}
