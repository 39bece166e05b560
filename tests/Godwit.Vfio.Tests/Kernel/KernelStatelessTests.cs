using System.Buffers;
using Godwit.Memory;
using Godwit.Migration;
using Godwit.VfioUser;

namespace Godwit.Vfio.Tests;

/// <summary>A device that has no migration states, migrated all the same (enable-migration=force): its state stays behind, no page does.</summary>
public sealed class KernelStatelessTests
{
    [Theory]
    [InlineData(HostIommuKind.Type1)]
    [InlineData(HostIommuKind.Iommufd)]
    public void The_blockers_of_such_a_device_go_when_it_is_forced_and_come_when_it_is_not(HostIommuKind kind)
    {
        using var host = new FakeHost(iommufd: true);
        using (VfioPciFunction function = host.Plug(kind))
            Assert.Equal(["device-without-migration", "no-dirty-source"], function.QueryBlockers(1).Select(b => b.Code));
        using (VfioPciFunction function = host.Plug(kind, slot: 4, enable: EnableMigration.Force))
        {
            Assert.Empty(function.QueryBlockers(1));
            Assert.Empty(function.QueryBlockers(2)); // it writes to no other device while they stop
        }

        using (VfioPciFunction function = host.Plug(kind, DirtyTrackingMode.Off, slot: 5, enable: EnableMigration.Force))
            Assert.Equal(["dirty-tracking-off"], function.QueryBlockers(1).Select(b => b.Code));
        using (VfioPciFunction function = host.Plug(kind, slot: 6, enable: EnableMigration.Off))
            Assert.Contains("device-migration-disabled", function.QueryBlockers(1).Select(b => b.Code));
    }

    [Theory]
    [InlineData(HostIommuKind.Type1, false, DirtySourceKind.HostIommu)]
    [InlineData(HostIommuKind.Iommufd, true, DirtySourceKind.HostIommu)]
    [InlineData(HostIommuKind.Iommufd, false, DirtySourceKind.Pessimistic)]
    public void What_it_writes_is_told_by_the_hosts_IOMMU_or_is_everything(HostIommuKind kind, bool bits, DirtySourceKind source)
    {
        using var host = new FakeHost(new FakeDeviceTraits { HostDirtyTracking = bits }, iommufd: true);
        using VfioPciFunction function = host.Plug(kind, enable: EnableMigration.Force);
        Assert.Equal(source, function.DirtyTracking.Source);
    }

    [Fact]
    public void A_device_with_migration_states_keeps_them()
    {
        using var host = new FakeHost(new FakeDeviceTraits { Migration = MigrationSupport.StopCopy, LogsDma = true });
        using VfioPciFunction function = host.Plug(enable: EnableMigration.Force);
        function.BeginSave();
        function.StopAndCopy();
        Assert.Equal(DeviceMigrationState.StopCopy, host.Device.Migration.State);
        Assert.True(function.ReadState(new byte[64]) > 0);
        function.Recover();
        Assert.Empty(host.Notices);
    }

    [Theory]
    [InlineData(HostIommuKind.Type1)]
    [InlineData(HostIommuKind.Iommufd)]
    public void All_that_is_pinned_is_sent_and_nothing_is_written_after_the_last_look(HostIommuKind kind)
    {
        using var from = new FakeHost(iommufd: true, guestIommu: true);
        using var to = new FakeHost(iommufd: true, guestIommu: true);
        using (VfioPciFunction source = from.Plug(kind, enable: EnableMigration.Force), target = to.Plug(kind, enable: EnableMigration.Force))
        {
            FakeHost.Boot(source);
            source.WriteConfig(FakeVfioDevice.MsixAt + 2, 0x8000, 2);
            from.Map(0x100, ModelBoard.LowGpa + 3, 4);
            from.Map(0x200, ModelBoard.LowGpa + 9, 1, AccessRights.Read);
            from.Board.Ram.Dirty.Start();
            var tracker = (IDirtyTracker)source;
            tracker.Start();
            from.Dirty();
            source.BeginSave();
            Assert.Equal((0, 0UL), (source.ReadState(new byte[64]), source.PendingBytes));
            tracker.Sync(final: false);
            Assert.Equal([3UL, 4UL, 5UL, 6UL], from.Dirty());
            Assert.True(from.Device.Write(0x10_0000, [1])); // it runs
            source.Quiesce();
            Assert.False(from.Device.Write(0x10_0000, [2]));
            source.StopAndCopy();
            Assert.Equal("stop", source.StateName);
            tracker.Sync(final: true);
            Assert.Equal([3UL, 4UL, 5UL, 6UL], from.Dirty());
            Assert.Equal(6u, source.ReadConfig(4, 2)); // the guest has not been told
            Assert.Equal(0, source.ReadState(new byte[64]));

            var state = new ArrayBufferWriter<byte>();
            source.SaveState(state);
            Assert.Equal(1, to.Device.Resets); // when it was attached
            target.BeginLoad();
            target.LoadState(state.WrittenSpan);
            Assert.False(to.Device.BusMaster);
            Assert.Equal(PciIrq.Msix, to.Device.EnabledIrq);
            target.EndLoad();
            target.Start(StartPhase.PeerToPeer);
            target.Start(StartPhase.Running);
            Assert.True(to.Device.BusMaster);
            Assert.Equal("running", target.StateName);

            source.EndSave();
            tracker.Stop();
            Assert.False(from.Device.BusMaster);
            source.SetRunning(true); // an operator goes on here, because the other side did not
            Assert.True(from.Device.BusMaster);
            Assert.All([from, to], host => Assert.Contains("leaves that behind", host.Notices.First(), StringComparison.Ordinal));
        }

        from.Kernel.AssertClean("the source");
        to.Kernel.AssertClean("the destination");
    }

    [Fact]
    public void One_that_is_given_up_goes_on_where_it_was()
    {
        using var host = new FakeHost();
        using VfioPciFunction function = host.Plug(enable: EnableMigration.Force);
        FakeHost.Boot(function);
        function.BeginSave();
        function.Recover();
        Assert.DoesNotContain(host.Notices, n => n.Contains("did not take place", StringComparison.Ordinal)); // nothing was held back
        function.Quiesce();
        function.WriteConfig(4, 6 | (1 << 10), 2);
        Assert.False(host.Device.BusMaster); // whatever is written
        function.Recover();
        Assert.True(host.Device.BusMaster);
        Assert.Equal("running", function.StateName);
        Assert.Contains(host.Notices, n => n.Contains("did not take place", StringComparison.Ordinal));
    }

    [Fact]
    public void A_rehearsal_leaves_it_as_it_was()
    {
        using var host = new FakeHost();
        using VfioPciFunction function = host.Plug(enable: EnableMigration.Force);
        Assert.Equal(TimeSpan.Zero, function.Rehearse()!.Value.EndLoad);
        Assert.Equal("running", function.StateName);
        FakeHost.Boot(function);
        Assert.True(host.Device.BusMaster);
    }

    [Fact]
    public void One_that_does_not_let_go_of_the_bus_does_not_migrate()
    {
        using var host = new FakeHost(new FakeDeviceTraits { KeepsBusMaster = true });
        using VfioPciFunction function = host.Plug(enable: EnableMigration.Force);
        FakeHost.Boot(function);
        function.BeginSave();
        Assert.Contains("Bus Master Enable", Assert.Throws<DeviceRefusedException>(function.Quiesce).Message, StringComparison.Ordinal);
        function.Recover();
        Assert.Equal("running", function.StateName);
    }

    [Fact]
    public void State_of_another_device_is_refused_and_so_is_a_machine_that_does_not_know_of_the_loss()
    {
        using var host = new FakeHost();
        string auto;
        using (VfioPciFunction function = host.Plug())
            auto = function.Describe().Single(e => e.Key == "vfio.dev0.migration").Value;
        using VfioPciFunction forced = host.Plug(slot: 4, enable: EnableMigration.Force);
        Assert.NotEqual(auto, forced.Describe().Single(e => e.Key == "vfio.dev0.migration").Value);
        forced.BeginLoad();
        forced.WriteState([]);
        Assert.Contains("takes no state", Assert.Throws<IOException>(() => forced.WriteState([1])).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void One_that_cannot_be_reset_is_not_left_behind()
    {
        using var host = new FakeHost(new FakeDeviceTraits { FunctionReset = false });
        using VfioPciFunction function = host.Plug(enable: EnableMigration.Force);
        Assert.Equal(["device-cannot-be-forced", "no-dirty-source"], function.QueryBlockers(1).Select(b => b.Code));
        Assert.DoesNotContain(host.Notices, n => n.Contains("leaves that behind", StringComparison.Ordinal));
    }

    /// <summary>The device did not take the end of the first hold, so it is still held; the guest's command must not end it, and the next migration holds anew.</summary>
    [Fact]
    public void A_hold_that_could_not_be_ended_holds()
    {
        using var host = new FakeHost();
        using VfioPciFunction function = host.Plug(enable: EnableMigration.Force);
        FakeHost.Boot(function);
        function.BeginSave();
        function.Quiesce();
        host.Kernel.Fault = (host.Kernel.Trace.Count, Interop.Linux.Errno.EIO);
        function.Recover();
        Assert.Contains(host.Notices, n => n.Contains("cannot be let go on", StringComparison.Ordinal));
        function.WriteConfig(4, 6, 2);
        Assert.False(host.Device.BusMaster);
        function.BeginSave();
        host.Device.Config[4] |= 4; // whatever has set it
        function.Quiesce();
        Assert.False(host.Device.BusMaster);
        function.Recover();
        function.SetRunning(true);
        Assert.True(host.Device.BusMaster);
    }
}
