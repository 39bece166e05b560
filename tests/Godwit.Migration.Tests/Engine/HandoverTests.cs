using Godwit.Interop.Linux;
using Godwit.Memory;

namespace Godwit.Migration.Tests;

/// <summary>A machine is handed over to another process's: RAM by descriptor, one commit point.</summary>
public sealed class HandoverTests
{
    [Fact]
    public void RAM_goes_over_whole_while_the_guest_writes_and_no_page_is_sent()
    {
        int seed = Random.Shared.Next();
        using Pair pair = Local(running: true);
        pair.SourceMachine.Fill(seed);
        pair.SourceMachine.AddDirtyingVcpu(seed, 2048);
        pair.Source.Parameters = new MigrationParameters { VerifyPages = true };
        ulong[] inodes = [.. pair.SourceMachine.Ram.Blocks.Select(block => stat.Of(block.File).Inode)];

        pair.Migrate();

        MigrationStatus status = pair.Source.Status;
        Assert.True(status.State == MigrationState.Completed, $"seed {seed}: {status.Error}");
        Assert.Equal(MigrationState.Completed, pair.WaitForDestination(MigrationState.Completed, MigrationState.Failed));
        Assert.Equal(inodes, pair.DestinationMachine.Ram.Blocks.Select(block => stat.Of(block.File).Inode));
        Assert.Null(TestMachine.FirstDifference(pair.SourceMachine, pair.DestinationMachine));
        Assert.Equal(0, status.NormalPages + status.ZeroPages);
        Assert.Equal(status.RamTotalBytes, status.RamByFileBytes);
        Assert.Equal(status.RamTotalBytes, pair.Destination.Status.RamByFileBytes);
        Assert.Equal(8 * 256, status.Verification!.PagesCompared);
        Assert.Equal(0, status.Verification.PagesDiffering);
        // 16 bytes a page are the comparison's.
        Assert.True(status.OverheadBytes - (16 * 8 * 256) < 8192, $"{status.OverheadBytes} bytes were sent");
        Assert.False(pair.SourceMachine.Executing);
        Assert.True(pair.DestinationMachine.Executing);
        Assert.True(pair.Source.HandedOver);
        Assert.Equal(["StopForSwitchover", "iommu.Save", "vcpu0.Save", "EnterPostMigrate"], pair.SourceMachine.Calls.Calls);
        Assert.Equal(pair.SourceMachine.States.Select(state => state.State), pair.DestinationMachine.States.Select(state => state.Loaded!));
        Assert.False(pair.SourceMachine.Ram.Dirty.Enabled);
        Assert.False(pair.DestinationMachine.Ram.Dirty.Enabled);
    }

    [Fact]
    public void Who_has_taken_a_machine_over_can_migrate_it_on()
    {
        int seed = Random.Shared.Next();
        using var first = new Pair(new TestMachine(devices: 0, running: true), new TestMachine(devices: 0, running: false), transport: "local") { KeepsDestination = true };
        first.SourceMachine.Fill(seed);
        first.Migrate();
        Assert.True(first.Source.Status.State == MigrationState.Completed, $"seed {seed}: {first.Source.Status.Error}");
        first.WaitForDestination(MigrationState.Completed);
        using var second = new Pair(first.DestinationMachine, new TestMachine(devices: 0, running: false));
        first.DestinationMachine.AddDirtyingVcpu(seed, 512);
        second.Source.Parameters = new MigrationParameters { VerifyPages = true, DowntimeLimit = TimeSpan.FromSeconds(1000) };
        second.Migrate();
        Assert.True(second.Source.Status.State == MigrationState.Completed, $"seed {seed}: {second.Source.Status.Error}");
        Assert.Equal(0, second.Source.Status.Verification!.PagesDiffering);
        Assert.Null(TestMachine.FirstDifference(first.DestinationMachine, second.DestinationMachine));
        Assert.Null(TestMachine.FirstDifference(first.SourceMachine, second.DestinationMachine)); // the same file
    }

    [Fact]
    public void What_loading_writes_is_in_RAM_after_the_commit()
    {
        using Pair pair = Local();
        pair.DestinationMachine.Calls.On("iommu.Load", () => pair.DestinationMachine.Ram.Blocks[1].Write(4096, [42], DirtySource.Vmm));
        pair.Migrate();
        Assert.True(pair.Source.Status.State == MigrationState.Completed, pair.Source.Status.Error);
        byte[] seen = new byte[1];
        pair.SourceMachine.Ram.Blocks[1].Read(4096, seen);
        Assert.Equal([42], seen);
    }

    [Fact]
    public void A_load_that_fails_after_writing_leaves_the_source_its_RAM_and_its_guest()
    {
        using Pair pair = Local(running: true);
        pair.DestinationMachine.Calls.On("vcpu0.Load", () =>
        {
            pair.DestinationMachine.Ram.Blocks[0].Write(0, [42], DirtySource.Vmm);
            throw new InvalidDataException("no such vCPU");
        });
        pair.Migrate();
        Assert.Equal(MigrationState.Failed, pair.Source.Status.State);
        Assert.Contains("loading vcpu0: no such vCPU", pair.Source.Status.Error, StringComparison.Ordinal);
        pair.WaitForDestination(MigrationState.Failed);
        byte[] seen = new byte[1];
        pair.SourceMachine.Ram.Blocks[0].Read(0, seen);
        Assert.Equal([0], seen);
        Assert.True(pair.SourceMachine.Executing);
        Assert.False(pair.DestinationMachine.Arrived);
        Assert.False(pair.Source.HandedOver);
    }

    [Theory]
    [InlineData("cancel")]
    [InlineData("destination")]
    public void What_ends_it_before_the_commit_lets_the_guest_run_on_and_another_one_is_taken(string cause)
    {
        using Pair pair = Local(running: true);
        pair.Source.Parameters = new MigrationParameters { PauseBeforeSwitchover = true };
        pair.Listen();
        pair.Source.Start(pair.Address);
        pair.WaitForSource(MigrationState.PreSwitchover);
        Assert.False(pair.SourceMachine.Executing);
        if (cause == "cancel")
            pair.Source.Cancel();
        else
            pair.Destination.Dispose();
        pair.WaitForSource(MigrationState.Cancelled, MigrationState.Failed);
        Assert.True(pair.SourceMachine.Executing);
        Assert.False(pair.DestinationMachine.Arrived);
        if (cause != "cancel")
            return;
        pair.WaitForDestination(MigrationState.Setup);
        pair.Source.Parameters = new MigrationParameters();
        pair.Migrate();
        Assert.True(pair.Source.Status.State == MigrationState.Completed, pair.Source.Status.Error);
    }

    [Fact]
    public void A_start_that_fails_after_the_commit_leaves_the_source_stopped_for_good()
    {
        using Pair pair = Local(running: true);
        pair.DestinationMachine.Calls.FailAt("StartAfterLoad(True)");
        pair.Migrate();
        Assert.Equal(MigrationState.Failed, pair.Source.Status.State);
        Assert.Contains("injected at StartAfterLoad", pair.Source.Status.Error, StringComparison.Ordinal);
        Assert.Contains("this side cannot run on", pair.Source.Status.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("(cont)", pair.Source.Status.Error, StringComparison.Ordinal);
        Assert.True(pair.Source.HandedOver);
        Assert.True(pair.SourceMachine.PostMigrate);
        Assert.False(pair.SourceMachine.Executing);
    }

    [Fact]
    public void Reasons_against_are_named_on_both_sides_before_anything_starts()
    {
        using Pair pair = Local(running: true);
        var blocker = new TestBlocker { Subject = "nvme0" };
        pair.SourceMachine.HandoverBlockers.Add(blocker);
        pair.DestinationMachine.HandoverBlockers.Add(blocker);
        Assert.Contains("nvme0", Assert.Throws<MigrationBlockedException>(pair.Listen).Message, StringComparison.Ordinal);
        Assert.Equal([blocker], Assert.Throws<MigrationBlockedException>(() => pair.Source.Start(pair.ListenUri)).Blockers);
        // What speaks against sending pages is another matter.
        pair.SourceMachine.HandoverBlockers.Clear();
        pair.DestinationMachine.HandoverBlockers.Clear();
        pair.SourceMachine.Blockers.Add(blocker);
        pair.Migrate();
        Assert.True(pair.Source.Status.State == MigrationState.Completed, pair.Source.Status.Error);
    }

    [Theory]
    [InlineData("unix", "local")]
    [InlineData("local", "unix")]
    public void Both_sides_must_mean_a_handover(string from, string to)
    {
        using Pair pair = new(new TestMachine(devices: 0), new TestMachine(devices: 0, running: false), transport: to);
        pair.Listen();
        pair.Source.Start($"{from}:{pair.Address[(pair.Address.IndexOf(':', StringComparison.Ordinal) + 1)..]}");
        pair.WaitForSource(MigrationState.Failed, MigrationState.Completed);
        Assert.Contains("stream.transfer", pair.Source.Status.Error, StringComparison.Ordinal);
        Assert.True(pair.SourceMachine.Executing);
    }

    [Fact]
    public void Only_a_process_of_the_same_user_gets_RAM()
    {
        Assert.True(HandoverChannel.MayHaveRam(1000, 1000));
        Assert.False(HandoverChannel.MayHaveRam(1001, 1000));
        Assert.False(HandoverChannel.MayHaveRam(0, 1000));
        Assert.False(HandoverChannel.MayHaveRam(1000, 0));
    }

    private static Pair Local(bool running = false) =>
        new(new TestMachine(mebibytes: 8, devices: 0, running: running, twoBlocks: true), new TestMachine(mebibytes: 8, devices: 0, running: false, twoBlocks: true), transport: "local");

    private sealed record TestBlocker : MigrationBlocker
    {
        public override string Code => "test";

        public override string Reason => "no";

        public override string WayOut => "none";
    }
}
