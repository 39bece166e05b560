using Godwit.Interop.Linux;
using Godwit.Memory;
using Godwit.Migration;
using Godwit.VfioUser;

namespace Godwit.Vfio.Tests;

public sealed class SocketMigrationTests
{
    [Fact]
    public void WhatTheDeviceWritesIsFoundByItsOwnLog()
    {
        using var machine = new PassthroughMachine();
        IDirtyTracker tracker = machine.Function;
        machine.Boot();
        machine.Map(0x100, ModelBoard.LowGpa + 3);
        machine.Map(0x4F0, ModelBoard.HighGpa + 4, 3);
        Start(machine);
        machine.Dma(0x100, 1);
        machine.Dma(0x4F1, 2, 2);
        DirtySyncReport report = tracker.Sync(final: false);
        Assert.Equal([3UL, ModelBoard.BlockPages + 5, ModelBoard.BlockPages + 6], machine.Dirty());
        Assert.Equal(new DirtySyncReport(1, 3, 2), report);

        // Read once, it is clear.
        tracker.Sync(final: false);
        Assert.Empty(machine.Dirty());

        // Unmapped, it waits for the next sync.
        machine.Dma(0x100, 3);
        machine.Unmap(0x100);
        tracker.Sync(final: false);
        Assert.Equal([3UL], machine.Dirty());
        tracker.Stop();
        Assert.Equal((3, 4), (machine.Function.Statistics.LogReports, machine.Function.Statistics.PagesReported));
    }

    [Fact]
    public void ALargeUnmapIsHarvestedFromTheDevice()
    {
        using var machine = new PassthroughMachine();
        machine.Boot();
        machine.Board.SetPassThrough(true);
        Start(machine);
        machine.Dma(ModelBoard.HighGpa + 7, 1);
        machine.Dma(ModelBoard.LowGpa + 8, 1);
        machine.Board.SetPassThrough(false);
        ((IDirtyTracker)machine.Function).Sync(final: false);
        Assert.Equal([8UL, ModelBoard.BlockPages + 7], machine.Dirty());
        Assert.Equal(1, machine.Function.Statistics.UnmapHarvests);
        Assert.Equal(0UL, machine.Dma(ModelBoard.LowGpa + 8, 1));
    }

    [Fact]
    public void AnApertureOf48BitsIsLoggedAndOnlyMappedWindowsAreRead()
    {
        using var machine = new PassthroughMachine(attributes: new IommuAttributes(true, new Iova((1UL << 48) - 1)));
        machine.Boot();
        Start(machine);
        machine.Map(0x10, ModelBoard.LowGpa + 1);
        machine.Map(0x3F00, ModelBoard.LowGpa + 2);
        machine.Dma(0x3F00, 5);
        Assert.Equal(1, ((IDirtyTracker)machine.Function).Sync(final: false).Reports);
        Assert.Equal([2UL], machine.Dirty());
    }

    [Fact]
    public void ADeviceMovesWithItsStateAndItsInterrupts()
    {
        using var source = new PassthroughMachine();
        using var destination = new PassthroughMachine();
        source.Boot();
        source.Write(DmaTestDevice.ScratchRegister, 0xCAFE_F00D);
        List<string> states = [];
        source.Function.StateChanged += d => states.Add(d.StateName);

        source.Function.BeginSave();
        Assert.Equal(0x28UL, source.Function.PendingBytes);
        byte[] data = new byte[0x28];
        int read = source.Function.ReadState(data.AsSpan(0, 16)); // some before the switchover
        source.Write(DmaTestDevice.InterruptRegister, 1);
        source.Function.Quiesce();
        source.Function.StopAndCopy();
        Assert.Equal(0x41u, source.TakeInterrupt()); // had been signalled before the stop

        destination.Function.BeginLoad();
        destination.Function.WriteState(data.AsSpan(0, 0)); // an empty chunk is none
        // The test device starts its state anew in every saving state.
        Assert.Equal(16, read);
        for (read = 0; source.Function.ReadState(data.AsSpan(read)) is var n && n > 0;)
        {
            destination.Function.WriteState(data.AsSpan(read, n));
            read += n;
        }

        var configuration = new System.Buffers.ArrayBufferWriter<byte>();
        source.Function.SaveState(configuration);
        destination.Function.LoadState(configuration.WrittenSpan);
        destination.Function.EndLoad();
        destination.Function.Start(StartPhase.PeerToPeer);
        destination.Function.Start(StartPhase.Running);
        source.Function.EndSave();

        Assert.Equal(["pre-copy", "stop-copy", "stop"], states);
        Assert.Equal("running", destination.Function.StateName);
        Assert.Equal(0xCAFE_F00DUL, destination.Read(DmaTestDevice.ScratchRegister));
        destination.Write(DmaTestDevice.InterruptRegister, 3);
        Assert.Equal(0x43u, destination.TakeInterrupt());
    }

    [Fact]
    public void ADeviceThatRefusesItsDataFailsTheLoadByName()
    {
        using var destination = new PassthroughMachine();
        destination.Function.BeginLoad();
        destination.Function.WriteState(new byte[5]); // half a state
        var e = Assert.Throws<MigrationPhaseException>(destination.Function.EndLoad);
        Assert.Contains("dev0: end of load: from resuming to stop", e.Message, StringComparison.Ordinal);
        destination.Function.Recover();
        Assert.Equal("running", destination.Function.StateName);
        Assert.Contains("reset", destination.Device.Events);
    }

    /// <summary>Every arc of the way, refused by a real server: the guest's device runs again and keeps its state.</summary>
    [Theory]
    [InlineData(DeviceMigrationState.PreCopy)]
    [InlineData(DeviceMigrationState.StopCopy)]
    public void ARefusedArcOnTheSourceLeavesTheDeviceRunning(DeviceMigrationState refused)
    {
        var device = new DmaTestDevice { OnTransition = (_, to) => to == refused ? Errno.EBUSY : Errno.None };
        using var machine = new PassthroughMachine(device);
        machine.Boot();
        machine.Write(DmaTestDevice.ScratchRegister, 42);
        var e = Assert.Throws<MigrationPhaseException>(() =>
        {
            machine.Function.BeginSave();
            machine.Function.StopAndCopy();
        });
        Assert.Equal(refused, e.To);
        machine.Function.Recover();
        Assert.Equal("running", machine.Function.StateName);
        Assert.Equal(42UL, machine.Read(DmaTestDevice.ScratchRegister));
        Assert.DoesNotContain("reset", device.Events);
        Assert.Empty(machine.Function.QueryBlockers(1));
    }

    [Fact]
    public void PauseAndGoOn()
    {
        using var machine = new PassthroughMachine();
        machine.Boot();
        machine.Function.SetRunning(false);
        Assert.Equal("stop", machine.Function.StateName);
        machine.Function.SetRunning(true);
        Assert.Equal("running", machine.Function.StateName);
        Assert.Equal(["Running Stop", "Stop Running"], machine.Device.Events.Where(e => !e.StartsWith("config", StringComparison.Ordinal)));
    }

    [Fact]
    public void ADeviceThatDiesInAMigrationFailsItAndIsABlocker()
    {
        using var machine = new PassthroughMachine();
        machine.Boot();
        machine.Map(0x100, ModelBoard.LowGpa);
        Start(machine);
        machine.Function.BeginSave();
        machine.KillDevice();
        machine.AwaitLoss();
        Assert.Throws<DeviceLostException>(() => ((IDirtyTracker)machine.Function).Sync(final: false));
        Assert.Throws<DeviceLostException>(machine.Function.StopAndCopy);
        Assert.Null(machine.Function.PendingBytes);
        ((IDirtyTracker)machine.Function).Stop();
        machine.Function.Recover();
        MigrationBlocker blocker = Assert.Single(machine.Function.QueryBlockers(1));
        Assert.IsType<DeviceLostBlocker>(blocker);
        Assert.Equal("device-lost", blocker.Code);
    }

    [Fact]
    public void MessagesOfTheDeviceGoThroughTheVIommuAndMarkPages()
    {
        using var machine = new PassthroughMachine();
        var relay = new DmaMessageRelay();
        Assert.Equal(Errno.ENODEV, relay.Write(new DmaAddress(0), [1]));
        relay.Attach(machine.Function);
        machine.Board.Iommu.Tables[0x100] = (ModelBoard.LowGpa + 3, AccessRights.ReadWrite);
        machine.Board.Iommu.Tables[0x101] = (ModelBoard.LowGpa + 4, AccessRights.Read);
        machine.Board.Iommu.Invalidate(0, ModelBoard.AperturePages);
        Start(machine);
        Assert.Equal(Errno.EFAULT, relay.Write(new DmaAddress(0x100 << 12), [1, 2])); // no bus mastering
        machine.Boot();
        Assert.Equal(Errno.None, relay.Write(new DmaAddress(0x100 << 12), [1, 2]));
        Assert.Equal(0x0201UL, machine.Ram(3));
        Assert.Equal([3UL], machine.Dirty());
        Assert.Equal(1, machine.Board.Ram.Dirty.MarkedBy(DirtySource.Device));
        byte[] read = new byte[2];
        Assert.Equal(Errno.None, relay.Read(new DmaAddress(0x100 << 12), read));
        Assert.Equal([1, 2], read);
        Assert.NotEqual(Errno.None, relay.Write(new DmaAddress(0x101 << 12), [1]));
        Assert.NotEqual(Errno.None, relay.Write(new DmaAddress(0x200 << 12), [1]));
    }

    [Fact]
    public void WhatTheServerRefusesIsKnownByOperation()
    {
        using var server = new DeviceServer(new DmaTestDevice());
        using var board = new ModelBoard();
        using VfioUserBackend backend = VfioUserBackend.Connect(server.Path, DeviceServer.Patience, new DmaMessageRelay());
        List<DmaFailure> failures = [];
        backend.QueueMap(new IovaPages(1, 1), board.Low, 0, writable: true);
        backend.QueueMap(new IovaPages(1, 2), board.Low, 0, writable: true); // over the first
        backend.QueueMap(new IovaPages(8, 1), board.Low, 0, writable: true);
        backend.QueueUnmap(new IovaPages(1, 1));
        backend.Flush(failures);
        Assert.Equal(1, Assert.Single(failures).Operation);
        failures.Clear();
        backend.QueueMap(new IovaPages(8, 1), board.High, 4096, writable: true);
        backend.Flush(failures);
        Assert.Equal(0, Assert.Single(failures).Operation);
    }

    private static void Start(PassthroughMachine machine)
    {
        machine.Board.Ram.Dirty.Start();
        ((IDirtyTracker)machine.Function).Start();
        machine.Dirty();
    }
}
