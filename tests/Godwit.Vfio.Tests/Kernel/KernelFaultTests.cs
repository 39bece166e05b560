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

    /// <summary>How the device comes in.</summary>
    public enum Way
    {
        Type1,
        Iommufd,

        /// <summary>iommufd, through a descriptor that the process was started with.</summary>
        Descriptor,
    }

    /// <summary>What it lives through.</summary>
    public enum Life
    {
        /// <summary>It is plugged, the guest maps and takes interrupts, and it is unplugged.</summary>
        Work,

        /// <summary>Its state is saved under a log of its DMA, and it is taken back.</summary>
        Save,

        /// <summary>The same, with the dirty bits of the host's IOMMU.</summary>
        SaveByHostIommu,

        /// <summary>Its state is left behind, and the dirty bits of the host's IOMMU are asked for; it is taken back.</summary>
        SaveWithoutState,

        /// <summary>It interrupts by its pin, the guest resets it, which resets its bus, and asks how much state there is.</summary>
        Reset,

        /// <summary>Another device's state is loaded into it.</summary>
        Load,
    }

    private static readonly FakeDeviceTraits Full = new()
    {
        Migration = MigrationSupport.StopCopy | MigrationSupport.P2P | MigrationSupport.PreCopy,
        LogsDma = true,
        HostDirtyTracking = true,
        Pin = 1,
    };

    /// <summary>Errors of ioctl(2) that any driver may return.</summary>
    private static readonly Errno[] Common = [Errno.EINVAL, Errno.EFAULT, Errno.ENOMEM, Errno.ENODEV];

    [Theory]
    [InlineData(Way.Type1)]
    [InlineData(Way.Iommufd)]
    [InlineData(Way.Descriptor)]
    public void Every_error_of_every_call_of_an_attachment_is_undone(Way way)
    {
        Record clean = Trace(way, Life.Work);
        Assert.True(clean.Plugged > 15, $"only {clean.Plugged} calls");
        ForEach(way, Life.Work, clean.Calls, 0, clean.Plugged, (host, call, what) =>
        {
            try
            {
                using VfioPciFunction function = Plug(host, way, Life.Work);
            }
            catch (VfioAttachException e)
            {
                string name = way == Way.Descriptor && call < FirstCallThatNamesTheDevice ? "fd " : FakeHost.Address;
                Assert.Contains(name, e.Message, StringComparison.Ordinal);
                Assert.True(e.Message.Length > name.Length + 40, $"{what}: {e.Message}");
            }
        });
    }

    [Theory]
    [InlineData(Way.Type1, Life.Save)]
    [InlineData(Way.Iommufd, Life.Save)]
    [InlineData(Way.Type1, Life.SaveByHostIommu)]
    [InlineData(Way.Iommufd, Life.SaveByHostIommu)]
    [InlineData(Way.Type1, Life.SaveWithoutState)]
    [InlineData(Way.Iommufd, Life.SaveWithoutState)]
    [InlineData(Way.Type1, Life.Reset)]
    [InlineData(Way.Iommufd, Life.Reset)]
    [InlineData(Way.Type1, Life.Load)]
    [InlineData(Way.Iommufd, Life.Load)]
    public void Every_error_of_every_call_of_a_migration_leaves_a_device_that_runs_or_says_why_not(Way way, Life life)
    {
        Record clean = Trace(way, life);
        Assert.True(clean.Lived > clean.Plugged + (life switch { Life.Load or Life.Reset => 5, Life.SaveWithoutState => 12, _ => 20 }), $"only {clean.Lived - clean.Plugged} calls");
        ForEach(way, life, clean.Calls, clean.Plugged, clean.Lived, (host, _, what) =>
        {
            using VfioPciFunction function = Plug(host, way, life);
            bool told = false;
            try
            {
                Live(host, function, life);
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
        });
    }

    [Theory]
    [InlineData(Way.Type1)]
    [InlineData(Way.Iommufd)]
    [InlineData(Way.Descriptor)]
    public void No_error_of_a_call_of_a_release_keeps_anything(Way way)
    {
        Record clean = Trace(way, Life.Work);
        Assert.True(clean.Calls.Count > clean.Lived, "releasing it makes no call");
        ForEach(way, Life.Work, clean.Calls, clean.Lived, clean.Calls.Count, (host, _, _) =>
        {
            using VfioPciFunction function = Plug(host, way, Life.Work);
            Live(host, function, Life.Work);
        });
    }

    [Theory]
    [InlineData(Way.Type1)]
    [InlineData(Way.Iommufd)]
    [InlineData(Way.Descriptor)]
    public void Two_errors_of_an_attachment_are_undone_too(Way way)
    {
        Record clean = Trace(way, Life.Work);
        ForEachPair(way, Life.Work, clean.Calls, 0, clean.Plugged, host =>
        {
            try
            {
                using VfioPciFunction function = Plug(host, way, Life.Work);
            }
            catch (VfioAttachException e)
            {
                Assert.False(string.IsNullOrWhiteSpace(e.Message));
            }
        });
    }

    [Theory]
    [InlineData(Way.Type1, Life.Save)]
    [InlineData(Way.Iommufd, Life.Save)]
    [InlineData(Way.Type1, Life.SaveByHostIommu)]
    [InlineData(Way.Iommufd, Life.SaveByHostIommu)]
    [InlineData(Way.Type1, Life.SaveWithoutState)]
    [InlineData(Way.Iommufd, Life.SaveWithoutState)]
    [InlineData(Way.Type1, Life.Reset)]
    [InlineData(Way.Iommufd, Life.Reset)]
    [InlineData(Way.Type1, Life.Load)]
    [InlineData(Way.Iommufd, Life.Load)]
    public void Two_errors_of_a_migration_and_its_recovery_leave_nothing_behind(Way way, Life life)
    {
        Record clean = Trace(way, life);
        ForEachPair(way, life, clean.Calls, clean.Plugged, clean.Lived, host =>
        {
            using VfioPciFunction function = Plug(host, way, life);
            try
            {
                Live(host, function, life);
            }
            catch (Exception e) when (e is IOException or DirtyLogLostException)
            {
                Assert.False(string.IsNullOrWhiteSpace(e.Message));
                ((IDirtyTracker)function).Stop();
                function.Recover();
                // One that not even a reset brings back is in ERROR, and that is told.
                Assert.True(function.Lost.IsCompleted || function.StateName is "running" or "stop" || (function.StateName == "error" && !host.Notices.IsEmpty), function.StateName);
            }
        });
    }

    /// <summary>What those above are about: every request of the kernel's VFIO and iommufd that this program knows by its number.</summary>
    [Fact]
    public void No_request_is_left_out()
    {
        var made = new HashSet<string>(StringComparer.Ordinal);
        foreach (Way way in Enum.GetValues<Way>())
        {
            foreach (Life life in Enum.GetValues<Life>())
                made.UnionWith(Trace(way, life).Calls.Where(c => c.StartsWith("VFIO_", StringComparison.Ordinal) || c.StartsWith("IOMMU_", StringComparison.Ordinal)));
        }

        // _IO(';', n) (vfio.h, VFIO_TYPE; iommufd.h, IOMMUFD_TYPE)
        IEnumerable<string> known = new[] { typeof(vfio), typeof(iommufd) }
            .SelectMany(header => header.GetFields())
            .Where(constant => constant.IsLiteral && constant.GetRawConstantValue() is uint and >= ';' << 8 and <= (';' << 8) + 255)
            .Select(constant => constant.Name);
        Assert.Equal(known.Except(NotMade).Order(StringComparer.Ordinal), made.Order(StringComparer.Ordinal));
    }

    /// <summary>A device is detached by closing it, and memory is mapped by its address.</summary>
    private static readonly string[] NotMade = [nameof(vfio.VFIO_DEVICE_DETACH_IOMMUFD_PT), nameof(iommufd.IOMMU_IOAS_MAP_FILE)];

    /// <summary>How many calls after the first error the second one comes: at once, while the first is undone, and later.</summary>
    private static readonly int[] Distances = [1, 2, 3, 4, 5, 7, 11, 16];

    private void ForEachPair(Way way, Life life, IReadOnlyList<string> calls, int first, int end, Action<FakeHost> body)
    {
        int turn = 0;
        for (int call = first; call < end; call++)
        {
            foreach (int distance in Distances)
            {
                Errno[] errors = ErrorsOf(calls[call]);
                Errno errno = errors[turn % errors.Length];
                string? second = null;
                using FakeHost host = Host(life);
                host.Kernel.Fault = (call, errno);
                host.Kernel.SecondFault = (distance, name =>
                {
                    Errno[] others = ErrorsOf(name);
                    Errno other = others[turn / 3 % others.Length];
                    second = $"{name} with {other}";
                    return other;
                }
                );
                turn++;
                string what() => $"{way}, {life}: call {call}, {calls[call]}, failing with {errno}, and {distance} calls later {second ?? "nothing"}";
                try
                {
                    body(host);
                }
                catch (Exception e) when (e is not Xunit.Sdk.IAssertionException)
                {
                    Assert.Fail($"{what()}: {e}");
                }

                Assert.True(host.Kernel.Trace.Count > call, what());
                if (calls[call] != "fstat")
                    host.Kernel.AssertClean(what());
                Assert.True((host.Device.Open is null || calls[call] == "fstat") && host.Group.Open is null && host.Device.Triggers.Count == 0, what());
            }
        }
    }

    /// <summary>fstat and fcntl of a descriptor passed in.</summary>
    private const int FirstCallThatNamesTheDevice = 2;

    /// <summary>Runs <paramref name="body"/> with each call from <paramref name="first"/> up to <paramref name="end"/> failing in each of its ways.</summary>
    private void ForEach(Way way, Life life, IReadOnlyList<string> calls, int first, int end, Action<FakeHost, int, string> body)
    {
        for (int call = first; call < end; call++)
        {
            foreach (Errno errno in ErrorsOf(calls[call]))
            {
                string what = $"{way}, {life}: call {call}, {calls[call]}, failing with {errno}";
                using FakeHost host = Host(life);
                host.Kernel.Fault = (call, errno);
                try
                {
                    body(host, call, what);
                }
                catch (Exception e) when (e is not Xunit.Sdk.IAssertionException)
                {
                    Assert.Fail($"{what}: {e}");
                }

                Assert.True(host.Kernel.Trace.Count > call, $"{what} was never reached");
                if (calls[call] != "fstat") // what cannot be looked at is not ours to close
                    host.Kernel.AssertClean(what);
                Assert.True((host.Device.Open is null || calls[call] == "fstat") && host.Group.Open is null && host.Device.Triggers.Count == 0, what);
            }
        }
    }

    private Record Trace(Way way, Life life)
    {
        using FakeHost host = Host(life);
        int plugged, lived;
        using (VfioPciFunction function = Plug(host, way, life))
        {
            plugged = host.Kernel.Trace.Count;
            Live(host, function, life);
            lived = host.Kernel.Trace.Count;
            Assert.Equal(life == Life.SaveWithoutState, !host.Notices.IsEmpty); // it says what will be lost
        }

        host.Kernel.AssertClean("a run without faults");
        return new Record(host.Kernel.Trace, plugged, lived);
    }

    private FakeHost Host(Life life) => new(
        life switch
        {
            Life.SaveByHostIommu => Full with { LogsDma = false },
            Life.SaveWithoutState => Full with { LogsDma = false, Migration = MigrationSupport.None },
            Life.Reset => Full with { FunctionReset = false, BusNeighbours = [], MigDataSize = false },
            _ => Full,
        },
        iommufd: true, guestIommu: true, sysfs: _sysfs);

    private static VfioPciFunction Plug(FakeHost host, Way way, Life life)
    {
        DirtyTrackingMode tracking = life == Life.SaveByHostIommu ? DirtyTrackingMode.Iommu : DirtyTrackingMode.Auto;
        EnableMigration enable = life == Life.SaveWithoutState ? EnableMigration.Force : EnableMigration.Auto;
        return way switch
        {
            Way.Type1 => host.Plug(HostIommuKind.Type1, tracking, mapBars: true, enable: enable),
            Way.Iommufd => host.Plug(HostIommuKind.Iommufd, tracking, mapBars: true, enable: enable),
            _ => host.PlugInherited(tracking, mapBars: true, enable),
        };
    }

    private static void Live(FakeHost host, VfioPciFunction function, Life life)
    {
        FakeHost.Boot(function);
        if (life == Life.Reset)
        {
            Reset(host, function);
            return;
        }

        function.WriteConfig(function.Config.FindCapability(0x11)!.Value + 2, 0x8000, 2);
        host.Map(0x100, ModelBoard.LowGpa + 3, 4);
        switch (life)
        {
            case Life.Work:
                break; // what is mapped and armed is released by the unplugging
            case Life.Load:
                Load(function);
                break;
            default:
                Save(host, function);
                break;
        }
    }

    /// <summary>A guest that maps and unmaps through a whole save; then the device is taken back, as after a cancelled migration.</summary>
    private static void Save(FakeHost host, VfioPciFunction function)
    {
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

    private static void Reset(FakeHost host, VfioPciFunction function)
    {
        host.Device.SetPin(true);
        if (host.Device.PinMasked) // it has signalled, unless its interrupt was refused
            Assert.True(host.TakeLevel());
        host.Device.SetPin(false);
        host.EndInterrupt();
        function.Reset();
        FakeHost.Boot(function);
        function.BeginSave();
        _ = function.PendingBytes;
        function.Recover();
    }

    private static void Load(VfioPciFunction function)
    {
        function.BeginLoad();
        function.WriteState(FakeMigration.Image.AsSpan(0, 1000));
        function.WriteState(FakeMigration.Image.AsSpan(1000));
        function.EndLoad();
        function.Start(StartPhase.PeerToPeer);
        function.Start(StartPhase.Running);
    }

    /// <summary>The man pages of open(2), mmap(2), read(2) and write(2), and include/uapi/linux/vfio.h and iommufd.h with what their implementations return.</summary>
    private static Errno[] ErrorsOf(string call) => call switch
    {
        _ when call.StartsWith("open ", StringComparison.Ordinal) =>
            [Errno.EACCES, Errno.EPERM, Errno.ENOENT, Errno.ENODEV, Errno.ENXIO, Errno.EBUSY, Errno.EMFILE, Errno.ENFILE, Errno.ENOMEM],
        "fstat" or "fcntl" => [Errno.EBADF, Errno.ENOMEM],
        "mmap" => [Errno.EACCES, Errno.EAGAIN, Errno.EBADF, Errno.EBUSY, Errno.EINVAL, Errno.ENFILE, Errno.ENODEV, Errno.ENOMEM, Errno.EOVERFLOW, Errno.EPERM],
        "pread" or "pwrite" => [Errno.EIO, Errno.EFAULT, Errno.EINVAL, Errno.ENODEV, Errno.EBUSY],
        "read" => [Errno.EIO, Errno.EFAULT, Errno.EINVAL, Errno.ENOMEM, Errno.ENODEV],
        "write" => [Errno.EIO, Errno.EFAULT, Errno.EINVAL, Errno.ENOMEM, Errno.ENODEV, Errno.ENOSPC],
        "VFIO_GROUP_SET_CONTAINER" or "VFIO_SET_IOMMU" => [.. Common, Errno.EBUSY, Errno.EPERM, Errno.EBADF],
        "VFIO_GROUP_GET_DEVICE_FD" => [.. Common, Errno.EBUSY, Errno.EPERM, Errno.EMFILE, Errno.ENFILE],
        "VFIO_IOMMU_MAP_DMA" or "IOMMU_IOAS_MAP" => [.. Common, Errno.EEXIST, Errno.ENOSPC, Errno.EBUSY, Errno.EOVERFLOW, Errno.EPERM],
        "VFIO_IOMMU_UNMAP_DMA" or "IOMMU_IOAS_UNMAP" => [.. Common, Errno.ENOENT, Errno.EBUSY, Errno.EOVERFLOW],
        "VFIO_IOMMU_DIRTY_PAGES" or "IOMMU_HWPT_SET_DIRTY_TRACKING" or "IOMMU_HWPT_GET_DIRTY_BITMAP" =>
            [.. Common, Errno.ENOENT, Errno.ENOTTY, Errno.ENOTSUP, Errno.EBUSY],
        "VFIO_DEVICE_FEATURE" => [.. Common, Errno.ENOTTY, Errno.EIO, Errno.EBUSY, Errno.E2BIG, Errno.EOVERFLOW, Errno.ETIMEDOUT, Errno.ENOTSUP],
        "VFIO_DEVICE_SET_IRQS" => [.. Common, Errno.ENOSPC, Errno.EBUSY, Errno.ENOTTY],
        "VFIO_DEVICE_RESET" => [.. Common, Errno.EIO, Errno.ENOTTY, Errno.EAGAIN],
        "VFIO_DEVICE_BIND_IOMMUFD" or "VFIO_DEVICE_ATTACH_IOMMUFD_PT" => [.. Common, Errno.EBUSY, Errno.EBADF, Errno.EPERM, Errno.ENOENT],
        "IOMMU_HWPT_ALLOC" or "IOMMU_GET_HW_INFO" or "IOMMU_IOAS_ALLOC" => [.. Common, Errno.ENOTSUP, Errno.ENOTTY, Errno.ENOENT, Errno.EBUSY],
        "IOMMU_IOAS_IOVA_RANGES" => [.. Common, Errno.EMSGSIZE, Errno.ENOENT],
        _ => [.. Common, Errno.ENOTTY, Errno.EIO, Errno.EBUSY],
    };

    /// <summary>The calls of a run, and how many of them had been made when the device was plugged, and when it was to go.</summary>
    private sealed record Record(IReadOnlyList<string> Calls, int Plugged, int Lived);
}
