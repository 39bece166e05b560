using Godwit.Interop.Linux;
using Godwit.Migration;
using Godwit.VfioUser;

namespace Godwit.Vfio.Tests;

/// <summary>Migration and DMA logging of a kernel device through the features of vfio.h.</summary>
public sealed class KernelMigrationTests
{
    private static readonly FakeDeviceTraits Full = new()
    {
        Migration = MigrationSupport.StopCopy | MigrationSupport.P2P | MigrationSupport.PreCopy,
        LogsDma = true,
    };

    [Theory]
    [InlineData(MigrationSupport.StopCopy, HostIommuKind.Type1)]
    [InlineData(MigrationSupport.StopCopy | MigrationSupport.P2P, HostIommuKind.Iommufd)]
    [InlineData(MigrationSupport.StopCopy | MigrationSupport.PreCopy, HostIommuKind.Type1)]
    [InlineData(MigrationSupport.StopCopy | MigrationSupport.P2P | MigrationSupport.PreCopy, HostIommuKind.Iommufd)]
    public void The_state_goes_over_whole(MigrationSupport support, HostIommuKind kind)
    {
        using var from = new FakeHost(Full with { Migration = support }, iommufd: true);
        using var to = new FakeHost(Full with { Migration = support }, iommufd: true);
        using (VfioPciFunction source = from.Plug(kind), target = to.Plug(kind))
        {
            target.BeginLoad();
            source.BeginSave();
            Carry(source, target);
            source.Quiesce();
            Carry(source, target);
            source.StopAndCopy();
            Assert.Equal("stop-copy", source.StateName);
            Carry(source, target);
            source.EndSave();
            target.EndLoad();
            target.Start(StartPhase.PeerToPeer);
            target.Start(StartPhase.Running);
            Assert.Equal(FakeMigration.Image, to.Device.Migration.Loaded);
            Assert.Equal((DeviceMigrationState.Stop, DeviceMigrationState.Running), (from.Device.Migration.State, to.Device.Migration.State));
            Assert.DoesNotContain("migration data", from.Kernel.Open);
            Assert.DoesNotContain("migration data", to.Kernel.Open);
        }

        from.Kernel.AssertClean("the source");
        to.Kernel.AssertClean("the destination");
    }

    [Fact]
    public void A_save_that_is_given_up_leaves_no_stream_open()
    {
        using var host = new FakeHost(Full);
        using VfioPciFunction function = host.Plug();
        function.BeginSave();
        Assert.Contains("migration data", host.Kernel.Open);
        function.Recover();
        Assert.Equal("running", function.StateName);
        Assert.DoesNotContain("migration data", host.Kernel.Open);
    }

    [Fact]
    public void A_guests_reset_in_the_middle_ends_the_session()
    {
        using var host = new FakeHost(Full);
        using VfioPciFunction function = host.Plug();
        function.BeginSave();
        function.Reset();
        Assert.Contains("reset", Assert.Throws<IOException>(() => function.ReadState(new byte[64])).Message, StringComparison.Ordinal);
        Assert.DoesNotContain("migration data", host.Kernel.Open);
    }

    [Theory]
    [InlineData(true, true, (ulong)(FakeMigration.InitialBytes + FakeMigration.FinalBytes))]
    [InlineData(true, false, (ulong)FakeMigration.FinalBytes)]
    [InlineData(false, true, (ulong)(FakeMigration.InitialBytes + FakeMigration.FinalBytes))]
    [InlineData(false, false, null)]
    public void What_is_left_is_asked_where_it_can_be(bool dataSize, bool precopyInfo, ulong? left)
    {
        using var host = new FakeHost(Full with { MigDataSize = dataSize, PrecopyInfo = precopyInfo });
        using VfioPciFunction function = host.Plug();
        function.BeginSave();
        Assert.Equal(left, function.PendingBytes);
        function.StopAndCopy();
        Assert.Equal(dataSize ? (ulong)FakeMigration.FinalBytes : null, function.PendingBytes);
    }

    [Theory]
    [InlineData(HostIommuKind.Type1)]
    [InlineData(HostIommuKind.Iommufd)]
    public void The_log_brings_exactly_what_the_device_wrote(HostIommuKind kind)
    {
        using var host = new FakeHost(Full, iommufd: true, guestIommu: true);
        using VfioPciFunction function = host.Plug(kind);
        FakeHost.Boot(function);
        Assert.Empty(function.QueryBlockers(1));
        Assert.False(host.Device.Log.Armed); // the probe left nothing
        host.Map(0x100, ModelBoard.LowGpa + 3, 8);
        host.Board.Ram.Dirty.Start();
        ((IDirtyTracker)function).Start();
        host.Dirty();
        Assert.True(host.Device.Write(0x10_2FFC, new byte[8]));
        Assert.True(host.Device.Write(0x10_5000, [1]));
        ((IDirtyTracker)function).Sync(final: false);
        Assert.Equal([5UL, 6UL, 8UL], host.Dirty());
        // What was unmapped is asked for by the next round.
        Assert.True(host.Device.Write(0x10_7000, [1]));
        host.Unmap(0x107);
        ((IDirtyTracker)function).Sync(final: true);
        Assert.Equal([10UL], host.Dirty());
        ((IDirtyTracker)function).Stop();
        Assert.False(host.Device.Log.Armed);
    }

    /// <summary>The kernel's own limits come back as refusals, named.</summary>
    [Fact]
    public void The_kernels_limits_of_a_log_hold()
    {
        using var host = new FakeHost(Full);
        using KernelBackend device = host.Open();
        var many = new IovaPages[257];
        for (int i = 0; i < many.Length; i++)
            many[i] = new IovaPages((ulong)i * 2, 1);
        Assert.Equal(Errno.E2BIG, Assert.Throws<DeviceRefusedException>(() => device.StartDmaLogging(4096, many)).Errno);
        Assert.Equal(4096UL, device.StartDmaLogging(4096, many.AsSpan(0, 256)));
        Assert.Equal(Errno.EINVAL, Assert.Throws<DeviceRefusedException>(() => device.StartDmaLogging(4096, many.AsSpan(0, 1))).Errno);
        device.StopDmaLogging();
        Assert.Equal(Errno.EINVAL, Assert.Throws<DeviceRefusedException>(device.StopDmaLogging).Errno);
        Assert.Throws<ArgumentException>(() => device.ReportDmaLog(new IovaPages(0, 129), 4096, new ulong[2]));
    }

    [Fact]
    public void A_driver_without_migration_or_log_offers_none()
    {
        using var host = new FakeHost();
        using KernelBackend device = host.Open();
        Assert.Equal(MigrationSupport.None, device.GetMigrationSupport());
        Assert.False(device.SupportsDmaLogging());
        Assert.Null(device.GetStopCopySize());
    }

    private static void Carry(VfioPciFunction source, VfioPciFunction target)
    {
        var chunk = new byte[777];
        for (int count; (count = source.ReadState(chunk)) > 0;)
            target.WriteState(chunk.AsSpan(0, count));
    }
}
