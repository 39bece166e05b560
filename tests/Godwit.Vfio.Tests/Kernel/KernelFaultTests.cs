using Godwit.Interop.Linux;
using Godwit.Migration;
using Godwit.VfioUser;

namespace Godwit.Vfio.Tests;

/// <summary>
/// Every call that a run from attach over migration to release makes, failing with every error that the kernel documents for it: nothing is left
/// open, mapped or locked, and whoever asked hears of it in words.
/// </summary>
public sealed class KernelFaultTests : IDisposable
{
    private readonly FakeSysfs _sysfs = new();

    public KernelFaultTests() => FakeHost.Describe(_sysfs);

    public void Dispose() => _sysfs.Dispose();

    private static readonly FakeDeviceTraits Full = new()
    {
        Migration = MigrationSupport.StopCopy | MigrationSupport.P2P | MigrationSupport.PreCopy,
        LogsDma = true,
        HostDirtyTracking = true,
    };

    /// <summary>Errors of ioctl(2) that any driver may return.</summary>
    private static readonly Errno[] Common = [Errno.EINVAL, Errno.EFAULT, Errno.ENOMEM, Errno.ENODEV];

    [Theory]
    [InlineData(HostIommuKind.Type1)]
    [InlineData(HostIommuKind.Iommufd)]
    public void Every_error_of_every_call_of_an_attachment_is_undone(HostIommuKind kind)
    {
        IReadOnlyList<string> clean = Trace(kind, migrate: false, out int afterPlug);
        Assert.True(afterPlug > 15, $"only {afterPlug} calls");
        for (int call = 0; call < afterPlug; call++)
        {
            foreach (Errno errno in ErrorsOf(clean[call]))
            {
                string what = $"{kind}: call {call}, {clean[call]}, failing with {errno}";
                using var host = new FakeHost(Full, iommufd: true, guestIommu: true, sysfs: _sysfs);
                host.Kernel.Fault = (call, errno);
                try
                {
                    using VfioPciFunction function = host.Plug(kind);
                }
                catch (VfioAttachException e)
                {
                    Assert.Contains(FakeHost.Address, e.Message, StringComparison.Ordinal);
                    Assert.True(e.Message.Length > FakeHost.Address.Length + 40, $"{what}: {e.Message}");
                }
                catch (Exception e) when (e is not Xunit.Sdk.XunitException)
                {
                    Assert.Fail($"{what}: {e}");
                }

                Assert.True(host.Kernel.Trace.Count > call, $"{what} was never reached");
                host.Kernel.AssertClean(what);
                AssertReleased(host, what);
            }
        }
    }

    [Theory]
    [InlineData(HostIommuKind.Type1)]
    [InlineData(HostIommuKind.Iommufd)]
    public void Every_error_of_every_call_of_a_migration_leaves_a_device_that_runs_or_says_why_not(HostIommuKind kind)
    {
        IReadOnlyList<string> clean = Trace(kind, migrate: true, out int afterPlug);
        Assert.True(clean.Count > afterPlug + 20, $"only {clean.Count - afterPlug} calls");
        for (int call = afterPlug; call < clean.Count; call++)
        {
            foreach (Errno errno in ErrorsOf(clean[call]))
            {
                string what = $"{kind}: call {call}, {clean[call]}, failing with {errno}";
                using var host = new FakeHost(Full, iommufd: true, guestIommu: true, sysfs: _sysfs);
                host.Kernel.Fault = (call, errno);
                using (VfioPciFunction function = host.Plug(kind))
                {
                    bool told = false;
                    try
                    {
                        Migrate(host, function);
                    }
                    catch (Exception e) when (e is IOException or DirtyLogLostException)
                    {
                        told = true;
                        Assert.False(string.IsNullOrWhiteSpace(e.Message), what);
                        ((IDirtyTracker)function).Stop();
                        function.Recover();
                    }

                    bool lost = function.Lost.IsCompleted;
                    Assert.True(lost || function.StateName is "running" or "stop", $"{what}: {function.StateName}");
                    // Either somebody heard of it, or it did no harm: everything the guest has mapped is there.
                    Assert.True(told || lost || !host.Notices.IsEmpty || function.Statistics.NotInstalled == 0, what);
                }

                host.Kernel.AssertClean(what);
                AssertReleased(host, what);
            }
        }
    }

    private IReadOnlyList<string> Trace(HostIommuKind kind, bool migrate, out int afterPlug)
    {
        using var host = new FakeHost(Full, iommufd: true, guestIommu: true, sysfs: _sysfs);
        int count;
        IReadOnlyList<string> trace;
        using (VfioPciFunction function = host.Plug(kind))
        {
            afterPlug = host.Kernel.Trace.Count;
            if (migrate)
                Migrate(host, function);
            trace = host.Kernel.Trace;
            count = trace.Count;
            Assert.Empty(host.Notices);
        }

        host.Kernel.AssertClean("a run without faults");
        Assert.True(count >= afterPlug);
        return trace;
    }

    /// <summary>A guest that maps and unmaps through a whole save; then the device is taken back, as after a cancelled migration.</summary>
    private static void Migrate(FakeHost host, VfioPciFunction function)
    {
        FakeHost.Boot(function);
        function.WriteConfig(function.Config.FindCapability(0x11)!.Value + 2, 0x8000, 2);
        host.Map(0x100, ModelBoard.LowGpa + 3, 4);
        var tracker = (IDirtyTracker)function;
        host.Board.Ram.Dirty.Start();
        tracker.Start();
        function.BeginSave();
        host.Unmap(0x101);
        host.Map(0x101, ModelBoard.LowGpa + 9);
        _ = function.PendingBytes;
        var chunk = new byte[1024];
        while (function.ReadState(chunk) > 0)
        {
        }

        tracker.Sync(final: false);
        function.Quiesce();
        function.StopAndCopy();
        tracker.Sync(final: true);
        while (function.ReadState(chunk) > 0)
        {
        }

        tracker.Stop();
        function.Recover();
        host.Unmap(0x100, 4);
    }

    /// <summary>Somebody else can have the device now.</summary>
    private static void AssertReleased(FakeHost host, string what)
    {
        Assert.True(host.Device.Open is null && host.Group.Open is null && host.Device.Triggers.Count == 0, what);
    }

    /// <summary>The man pages of open(2) and read(2), and include/uapi/linux/vfio.h and iommufd.h with what their implementations return.</summary>
    private static Errno[] ErrorsOf(string call) => call switch
    {
        _ when call.StartsWith("open ", StringComparison.Ordinal) =>
            [Errno.EACCES, Errno.EPERM, Errno.ENOENT, Errno.ENODEV, Errno.ENXIO, Errno.EBUSY, Errno.EMFILE, Errno.ENFILE, Errno.ENOMEM],
        "pread" or "pwrite" => [Errno.EIO, Errno.EFAULT, Errno.EINVAL, Errno.ENODEV, Errno.EBUSY],
        "read" => [Errno.EIO, Errno.EFAULT, Errno.EINVAL, Errno.ENOMEM, Errno.ENODEV],
        "VFIO_GROUP_SET_CONTAINER" or "VFIO_SET_IOMMU" => [.. Common, Errno.EBUSY, Errno.EPERM, Errno.EBADF],
        "VFIO_GROUP_GET_DEVICE_FD" => [.. Common, Errno.EBUSY, Errno.EPERM, Errno.EMFILE, Errno.ENFILE],
        "VFIO_IOMMU_MAP_DMA" or "IOMMU_IOAS_MAP" => [.. Common, Errno.EEXIST, Errno.ENOSPC, Errno.EBUSY, Errno.EOVERFLOW, Errno.EPERM],
        "VFIO_IOMMU_UNMAP_DMA" or "IOMMU_IOAS_UNMAP" => [.. Common, Errno.ENOENT, Errno.EBUSY, Errno.EOVERFLOW],
        "VFIO_DEVICE_FEATURE" => [.. Common, Errno.ENOTTY, Errno.EIO, Errno.EBUSY, Errno.E2BIG, Errno.EOVERFLOW, Errno.ETIMEDOUT, Errno.ENOTSUP],
        "VFIO_DEVICE_SET_IRQS" => [.. Common, Errno.ENOSPC, Errno.EBUSY, Errno.ENOTTY],
        "VFIO_DEVICE_RESET" => [.. Common, Errno.EIO, Errno.ENOTTY, Errno.EAGAIN],
        "VFIO_DEVICE_BIND_IOMMUFD" or "VFIO_DEVICE_ATTACH_IOMMUFD_PT" => [.. Common, Errno.EBUSY, Errno.EBADF, Errno.EPERM, Errno.ENOENT],
        "IOMMU_HWPT_ALLOC" or "IOMMU_GET_HW_INFO" or "IOMMU_IOAS_ALLOC" => [.. Common, Errno.ENOTSUP, Errno.ENOTTY, Errno.ENOENT, Errno.EBUSY],
        "IOMMU_IOAS_IOVA_RANGES" => [.. Common, Errno.EMSGSIZE, Errno.ENOENT],
        _ => [.. Common, Errno.ENOTTY, Errno.EIO, Errno.EBUSY],
    };
}
