using Godwit.Devices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>The examiner passes right devices and fails, for each of its checks, one that is wrong in just that.</summary>
public sealed class ExaminerTests
{
    public static TheoryData<string> CheckNames => [.. DeviceExaminer.Checks.Select(check => check.Name)];

    [Fact]
    public void Every_check_has_its_broken_device() => Assert.Equal(
        DeviceExaminer.Checks.Select(check => check.Name).Order(StringComparer.Ordinal), BrokenDevices.ByCheck.Keys.Order(StringComparer.Ordinal));

    [Fact]
    public void Edu_passes_everything_it_has()
    {
        using var first = new ServedDevice(new EduDevice());
        using var second = new ServedDevice(new EduDevice());
        ExaminationReport report = DeviceExaminer.Run(new DeviceExaminerOptions { Socket = first.Path, Second = second.Path, ReplyTimeout = TestServer.Patience });
        AssertPassed(report, "config.msix", "info.mappable", "info.io-fds", "doorbell.room", "doorbell.eventfd", "doorbell.shadow");
    }

    [Fact]
    public void A_device_with_MSIX_and_memory_to_map_passes()
    {
        using var device = new ServedDevice(new MappableDevice());
        ExaminationReport report = DeviceExaminer.Run(new DeviceExaminerOptions { Socket = device.Path, ReplyTimeout = TestServer.Patience });
        AssertPassed(
            report, "config.msi", "dirty.marks", "dirty.once", "dirty.ranges", "dirty.page-sizes", "dirty.restart", "dirty.stopped");
    }

    [Fact]
    public void NVMe_passes_everything_it_has()
    {
        string image = Path.GetTempFileName();
        try
        {
            NvmeOptions options = new() { ImagePath = image, Size = 1 << 20, Serial = "EXAMINED" };
            File.Delete(image);
            using var first = new ServedDevice(NvmeController.Create(options, null));
            using var second = new ServedDevice(NvmeController.Create(options, null));
            ExaminationReport report = DeviceExaminer.Run(new DeviceExaminerOptions { Socket = first.Path, Second = second.Path, ReplyTimeout = TestServer.Patience });
            AssertPassed(report, "config.msi", "info.mappable");
        }
        finally
        {
            File.Delete(image);
        }
    }

    /// <summary>Limits of the log are the device's right; what cannot be looked at within them is not looked at.</summary>
    [Theory]
    [InlineData(1, 0UL, 2UL << 20, 4096UL)]
    [InlineData(256, 1UL << 30, 4UL << 30, 4096UL, "logging.outside", "dirty.ranges")]
    [InlineData(256, 0UL, ulong.MaxValue, 65536UL, "logging.outside", "dirty.ranges")]
    [InlineData(2, 0UL, 65536UL, 4096UL, "logging.report", "dirty.marks", "dirty.once", "dirty.page-sizes", "dirty.restart", "dirty.stopped")]
    public void A_device_whose_log_has_limits_passes(int ranges, ulong least, ulong most, ulong page, params string[] notOffered)
    {
        using var device = new ServedDevice(new EduDevice(), new DmaLogLimits { MaxRanges = ranges, MinSpan = least, MaxSpan = most, PageSize = page });
        Check[] checks = [.. DeviceExaminer.Checks.Where(check => check.Name.Split('.')[0] is "logging" or "dirty")];
        AssertPassed(DeviceExaminer.Run(new DeviceExaminerOptions { Socket = device.Path, ReplyTimeout = TestServer.Patience }, checks), notOffered);
    }

    [Fact]
    public void A_device_that_offers_a_log_and_takes_nothing_fails()
    {
        using var device = new ServedDevice(new EduDevice(), new DmaLogLimits { MinSpan = 8192, MaxSpan = 4096 });
        Check check = DeviceExaminer.Checks.Single(each => each.Name == "logging.start-stop");
        CheckResult result = DeviceExaminer.Run(new DeviceExaminerOptions { Socket = device.Path, ReplyTimeout = TestServer.Patience }, [check]).Results[0];
        Assert.Equal(CheckOutcome.Fail, result.Outcome);
        Assert.Contains("whatever is asked for", result.Why, StringComparison.Ordinal);
    }

    [Theory]
    [MemberData(nameof(CheckNames))]
    public void A_device_that_is_wrong_in_it_fails_the_check(string name)
    {
        Check check = DeviceExaminer.Checks.Single(each => each.Name == name);
        using var right = new ServedDevice(name is "config.msix" or "info.mappable" or "info.io-fds" || name.StartsWith("doorbell.", StringComparison.Ordinal) ? new MappableDevice() : new EduDevice());
        var patient = new DeviceExaminerOptions { Socket = right.Path, ReplyTimeout = TestServer.Patience };
        CheckOutcome good = DeviceExaminer.Run(patient, [check]).Results[0].Outcome;
        Assert.True(good == CheckOutcome.Pass, $"the right device: {good}");
        using var wrong = new SpoiledDevice(right.Path, BrokenDevices.ByCheck[name]());
        CheckResult result = DeviceExaminer.Run(patient with { Socket = wrong.Path }, [check]).Results[0];
        Assert.Equal(CheckOutcome.Fail, result.Outcome);
        Assert.False(string.IsNullOrWhiteSpace(result.Why));
    }

    public static TheoryData<string> Flaws => [.. FurtherBrokenDevices.ByFlaw.Keys];

    [Theory]
    [MemberData(nameof(Flaws))]
    public void A_device_that_is_wrong_in_another_way_fails_the_check(string flaw)
    {
        (string name, string why, Func<Spoil> make) = FurtherBrokenDevices.ByFlaw[flaw];
        Check check = DeviceExaminer.Checks.Single(each => each.Name == name);
        using var right = new ServedDevice(new EduDevice());
        using var wrong = new SpoiledDevice(right.Path, make());
        CheckResult result = DeviceExaminer.Run(new DeviceExaminerOptions { Socket = wrong.Path, ReplyTimeout = TestServer.Patience }, [check]).Results[0];
        Assert.Equal(CheckOutcome.Fail, result.Outcome);
        Assert.Contains(why, result.Why, StringComparison.Ordinal);
    }

    public static TheoryData<string> SecondFlaws => [.. FurtherBrokenDevices.OfSecondInstance.Keys];

    /// <summary>The instance that is looked at is right; the one that is given its state is not.</summary>
    [Theory]
    [MemberData(nameof(SecondFlaws))]
    public void A_second_instance_that_is_wrong_fails_the_restoring(string flaw)
    {
        (string why, Func<Spoil> make) = FurtherBrokenDevices.OfSecondInstance[flaw];
        Check check = DeviceExaminer.Checks.Single(each => each.Name == "state.restore");
        using var first = new ServedDevice(new EduDevice());
        using var second = new ServedDevice(new EduDevice());
        var options = new DeviceExaminerOptions { Socket = first.Path, Second = second.Path, ReplyTimeout = TestServer.Patience };
        Assert.Equal(CheckOutcome.Pass, DeviceExaminer.Run(options, [check]).Results[0].Outcome);
        using var wrong = new SpoiledDevice(second.Path, make());
        CheckResult result = DeviceExaminer.Run(options with { Second = wrong.Path }, [check]).Results[0];
        Assert.Equal(CheckOutcome.Fail, result.Outcome);
        Assert.Contains(why, result.Why, StringComparison.Ordinal);
    }

    [Fact]
    public void A_device_without_migration_or_log_is_not_blamed_for_it()
    {
        using var server = new TestServer(new TestDevice
        {
            Description = new DeviceDescription
            {
                Regions = new Dictionary<int, DeviceRegion> { [PciRegion.Config] = new(256) },
                Irqs = new Dictionary<int, int>(),
                DmaLogging = false,
            },
        });
        ExaminationReport report = DeviceExaminer.Run(new DeviceExaminerOptions { Socket = server.Path, ReplyTimeout = TestServer.Patience });
        Assert.All(
            report.Results.Where(result => result.Name.Split('.')[0] is "migration" or "state" or "logging" or "dirty" or "irq" && result.Name != "irq.info"),
            result => Assert.Equal(CheckOutcome.NotOffered, result.Outcome));
    }

    [Fact]
    public void Nobody_there_is_no_examination() =>
        Assert.Throws<LinuxException>(() => DeviceExaminer.Run(new DeviceExaminerOptions { Socket = "/nowhere/at/all" }));

    [Fact]
    public void A_device_that_hangs_is_soon_left_alone()
    {
        // It takes connections, as the kernel does for a listener, and never says a word.
        string directory = Directory.CreateTempSubdirectory("gwve").FullName;
        string path = Path.Combine(directory, "s");
        using SocketHandle listener = SocketHandle.Listen(path, 128);
        var results = new List<CheckResult>();
        ExaminationReport report = DeviceExaminer.Run(new DeviceExaminerOptions { Socket = path, ReplyTimeout = TimeSpan.FromMilliseconds(10) }, results.Add);
        Directory.Delete(directory, recursive: true);
        Assert.Equal(report.Results, results);
        Assert.Equal(DeviceExaminer.Checks.Count, results.Count);
        Assert.All(results, result => Assert.Equal(CheckOutcome.Fail, result.Outcome));
        Assert.All(results.Take(DeviceExaminer.Patience), result => Assert.Contains("VERSION within", result.Why, StringComparison.Ordinal));
        Assert.All(results.Skip(DeviceExaminer.Patience), result => Assert.StartsWith("not looked at", result.Why, StringComparison.Ordinal));
    }

    [Fact]
    public void What_is_no_socket_is_called_so()
    {
        string file = Path.GetTempFileName();
        LinuxException e = Assert.Throws<LinuxException>(() => DeviceExaminer.Run(new DeviceExaminerOptions { Socket = file }));
        Assert.Equal(Errno.ENOTSOCK, e.Errno);
        File.Delete(file);
    }

    private static void AssertPassed(ExaminationReport report, params string[] notOffered)
    {
        Assert.Equal([], report.Results.Where(result => result.Outcome == CheckOutcome.Fail).Select(result => $"{result.Name}: {result.Why}"));
        Assert.Equal(notOffered.Order(StringComparer.Ordinal), report.Results.Where(result => result.Outcome == CheckOutcome.NotOffered).Select(result => result.Name).Order(StringComparer.Ordinal));
        Assert.True(report.Passed);
    }

    /// <summary>A device with MSI-X whose BAR 0 is memory that clients may map, all but its first page, where it has doorbells.</summary>
    private sealed class MappableDevice : IVfioUserDevice, IDisposable
    {
        private readonly MemFd _memory = MemFd.Create("bar", 0x4000);
        private readonly Registers _inner = new();

        public MappableDevice() => Description = _inner.Description with
        {
            Regions = new Dictionary<int, DeviceRegion>(_inner.Description.Regions) { [0] = new(0x4000, _memory, [new SparseArea(0x1000, 0x3000)], [new DoorbellRange(0x100, 8)]) },
        };

        public DeviceDescription Description { get; }

        public ulong StopCopySize => _inner.StopCopySize;

        public void OnConnected(IDeviceHost host) => _inner.OnConnected(host);

        public void OnDisconnected() => _inner.OnDisconnected();

        public Errno ReadRegion(int region, ulong offset, Span<byte> destination) => _inner.ReadRegion(region, offset, destination);

        public Errno WriteRegion(int region, ulong offset, ReadOnlySpan<byte> data) => _inner.WriteRegion(region, offset, data);

        public void Reset() => _inner.Reset();

        public Errno Transition(DeviceMigrationState from, DeviceMigrationState to) => _inner.Transition(from, to);

        public int ReadMigrationData(Span<byte> destination) => _inner.ReadMigrationData(destination);

        public Errno WriteMigrationData(ReadOnlySpan<byte> data) => _inner.WriteMigrationData(data);

        public void Dispose()
        {
            _inner.Dispose();
            _memory.Dispose();
        }

        private sealed class Registers() : PciDevice(new PciDefinition
        {
            VendorId = 0x1D0D,
            DeviceId = 7,
            Bars = [new PciBar(0, 0x4000) { Is64Bit = true, Prefetchable = true }],
            HasPin = true,
            MsixVectors = 5,
        })
        {
            protected override void ReadBar(int bar, ulong offset, Span<byte> destination)
            {
            }

            protected override void WriteBar(int bar, ulong offset, ReadOnlySpan<byte> data)
            {
            }
        }
    }
}
