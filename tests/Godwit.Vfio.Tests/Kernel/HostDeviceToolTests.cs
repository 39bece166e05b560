using Godwit.VfioUser;

namespace Godwit.Vfio.Tests;

/// <summary>What <c>godwit device list</c> and <c>godwit device check --host</c> say.</summary>
public sealed class HostDeviceToolTests
{
    private static readonly FakeDeviceTraits Full = new()
    {
        Migration = MigrationSupport.StopCopy | MigrationSupport.P2P | MigrationSupport.PreCopy,
        LogsDma = true,
    };

    [Fact]
    public void Every_endpoint_is_told_with_what_to_do_next()
    {
        using var host = new FakeHost(Full);
        host.Kernel.Sysfs.Add("0000:00:1c.0", 2, "pcieport", classCode: 0x060400);
        host.Kernel.Sysfs.Add("0000:3c:00.0", 8, "mlx5_core", 0x15b3, 0x101e, 0x020000);
        host.Kernel.Sysfs.Add("0000:3d:00.0", null, null);
        host.Kernel.Sysfs.Add("0000:3e:00.0", 9, null);
        host.Kernel.Sysfs.Add("0000:3e:00.1", 9, "nvme");
        IReadOnlyList<HostDeviceReport> all = HostDeviceSurvey.All(host.Kernel, host.Kernel.Host);
        Assert.Equal(
            ["0000:3b:00.2", "0000:3c:00.0", "0000:3d:00.0", "0000:3e:00.0", "0000:3e:00.1"],
            all.Select(d => d.Device.Address.ToString()));
        Assert.Equal(
            new HostDeviceFacts(HostIommuKind.Type1, Full.Migration, LogsDma: true, HostTracksDirty: false, CanReset: true, WidestIommu: 48),
            all[0].Facts);
        Assert.Equal(["godwit run --device vfio,host=0000:3b:00.2 …"], all[0].Next);
        Assert.Equal(all[1].Device.BindCommands, all[1].Next);
        Assert.Contains("intel_iommu=on", Assert.Single(all[2].Next), StringComparison.Ordinal);
        Assert.Equal("unbind from the host: 0000:3e:00.1 (nvme)", Assert.Single(all[3].Next));
        host.Kernel.AssertClean("a survey");
    }

    [Fact]
    public void A_device_in_use_is_told_to_be()
    {
        using var host = new FakeHost();
        using KernelBackend user = host.Open();
        HostDeviceReport report = Assert.Single(HostDeviceSurvey.All(host.Kernel, host.Kernel.Host));
        Assert.Null(report.Facts);
        Assert.Contains("in use", Assert.Single(report.Next), StringComparison.Ordinal);
    }

    [Fact]
    public void A_host_narrower_than_any_vIOMMU_is_told()
    {
        using var host = new FakeHost(type1: new FakeType1Traits { Usable = [(0, 0xFFFF_FFFF)] });
        Assert.Null(Assert.Single(HostDeviceSurvey.All(host.Kernel, host.Kernel.Host)).Facts!.WidestIommu);
    }

    [Fact]
    public void A_host_without_PCI_has_no_devices()
    {
        using var kernel = new FakeKernel();
        Assert.Empty(HostDeviceSurvey.All(kernel, kernel.Host));
    }

    [Theory]
    [InlineData(HostIommuKind.Type1)]
    [InlineData(HostIommuKind.Iommufd)]
    public void A_right_device_passes_and_is_left_clean(HostIommuKind kind)
    {
        using var host = new FakeHost(Full, iommufd: true);
        ExaminationReport report = Examine(host, kind);
        Assert.Empty(report.Results.Where(r => r.Outcome != CheckOutcome.Pass && r.Name != "state.damaged").Select(r => $"{r.Name}: {r.Why}"));
        // The fake takes any state, which is what this check is for.
        Assert.Equal(CheckOutcome.Fail, report.Results.Single(r => r.Name == "state.damaged").Outcome);
        host.Kernel.AssertClean("an examination");
    }

    [Theory]
    [InlineData(256 << 10, false)]
    [InlineData(4096, true)]
    public void A_log_with_a_limit_or_one_that_is_stopped_twice_is_right_too(ulong maxBytes, bool takesIdleStop)
    {
        using var host = new FakeHost(Full);
        (host.Device.Log.MaxBytes, host.Device.Log.TakesIdleStop) = (maxBytes, takesIdleStop);
        CheckResult log = Examine(host, HostIommuKind.Type1).Results.Single(r => r.Name == "log.start");
        Assert.True(log.Outcome == CheckOutcome.Pass, log.Why);
    }

    [Fact]
    public void A_log_that_takes_nothing_is_wrong()
    {
        using var host = new FakeHost(Full);
        host.Device.Log.MaxBytes = 0;
        CheckResult log = Examine(host, HostIommuKind.Type1).Results.Single(r => r.Name == "log.start");
        Assert.Equal(CheckOutcome.Fail, log.Outcome);
        Assert.Contains("ENOTSUP", log.Why, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(Scrutiny.AtOnce)]
    [InlineData(Scrutiny.AtEnd)]
    public void A_damaged_state_may_be_refused_when_it_is_written_or_at_its_end(object when)
    {
        using var host = new FakeHost(Full);
        host.Device.Migration.Scrutiny = (Scrutiny)when;
        ExaminationReport report = Examine(host, HostIommuKind.Type1);
        Assert.Empty(report.Results.Where(r => r.Outcome != CheckOutcome.Pass).Select(r => $"{r.Name}: {r.Why}"));
        Assert.Equal(DeviceMigrationState.Running, host.Device.Migration.State);
    }

    [Theory]
    [InlineData(0, "0 bytes")]
    [InlineData(1, "1 bytes")]
    public void A_state_that_has_no_half_is_not_damaged(int bytes, string why)
    {
        using var host = new FakeHost(Full);
        host.Device.Migration.SavedBytes = bytes;
        CheckResult damaged = Examine(host, HostIommuKind.Type1).Results.Single(r => r.Name == "state.damaged");
        Assert.Equal(CheckOutcome.NotOffered, damaged.Outcome);
        Assert.Contains(why, damaged.Why, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(true, false, "log.start")]
    [InlineData(false, true, "log.start", "log.ranges")]
    public void A_log_that_is_wrong_is_stopped_again(bool invents, bool takesAnyStart, params string[] wrong)
    {
        using var host = new FakeHost(Full);
        (host.Device.Log.Invents, host.Device.Log.TakesAnyStart) = (invents, takesAnyStart);
        bool armed = true;
        ExaminationReport report = KernelExaminer.Run(
            new KernelDeviceOptions { Host = FakeHost.Address, Iommu = HostIommuKind.Type1 }, host.Kernel, host.Kernel.Host, _ => armed = host.Device.Log.Armed);
        Assert.Equal(wrong, report.Results.Where(r => r.Outcome == CheckOutcome.Fail && r.Name.StartsWith("log.", StringComparison.Ordinal)).Select(r => r.Name));
        Assert.False(armed);
    }

    [Fact]
    public void A_device_without_migration_and_log_is_not_blamed_for_it()
    {
        using var host = new FakeHost(new FakeDeviceTraits { FunctionReset = false, MsiVectors = 0, MsixVectors = 0 });
        ExaminationReport report = Examine(host, HostIommuKind.Type1);
        Assert.True(report.Passed);
        Assert.Equal(
            ["irq.eventfds", "reset", "state.arcs", "state.save", "state.pre-copy", "state.restore", "state.damaged", "log.start", "log.ranges"],
            report.Results.Where(r => r.Outcome == CheckOutcome.NotOffered).Select(r => r.Name));
        host.Kernel.AssertClean("an examination");
    }

    private static ExaminationReport Examine(FakeHost host, HostIommuKind kind) =>
        KernelExaminer.Run(new KernelDeviceOptions { Host = FakeHost.Address, Iommu = kind }, host.Kernel, host.Kernel.Host);
}
