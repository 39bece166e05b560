using Godwit.Memory;
using Godwit.Migration;
using Godwit.Pci;

namespace Godwit.Vfio.Tests;

/// <summary>What speaks against following a device's writes: each reason appears with its cause, names the way out, and goes with its cause.</summary>
public sealed class TrackingBlockerTests : IDisposable
{
    private readonly ModelBoard _board = new();

    public void Dispose() => _board.Dispose();

    [Theory]
    [InlineData(DirtyTrackingMode.Off, true, typeof(DirtyTrackingOffBlocker), "dirty-tracking-off", DirtyTrackingMode.Auto)]
    [InlineData(DirtyTrackingMode.Auto, false, typeof(NoDirtySourceBlocker), "no-dirty-source", DirtyTrackingMode.Pessimistic)]
    [InlineData(DirtyTrackingMode.Device, false, typeof(DeviceWithoutDirtyLoggingBlocker), "device-without-dma-logging", DirtyTrackingMode.Pessimistic)]
    [InlineData(DirtyTrackingMode.Iommu, true, typeof(NoHostIommuTrackingBlocker), "no-host-iommu-tracking", DirtyTrackingMode.Auto)]
    public void WithoutASourceItIsBlockedAndTheWayOutIsAnotherMode(DirtyTrackingMode mode, bool logs, Type type, string code, DirtyTrackingMode wayOut)
    {
        using (VfioPciFunction function = Plug(new SeamBackend { LogsDma = logs }, mode))
        {
            MigrationBlocker blocker = AssertOnly(type, code, function);
            Assert.Contains($"dirty-tracking={wayOut.ToString().ToLowerInvariant()}", blocker.WayOut, StringComparison.Ordinal);
            Assert.Equal(DirtySourceKind.None, function.DirtyTracking.Source);
            _board.Ram.Dirty.Start();
            Assert.Throws<DirtyLogLostException>(((IDirtyTracker)function).Start); // if somebody comes past the blocker all the same
            _board.Ram.Dirty.Stop();
        }

        using VfioPciFunction again = Plug(new SeamBackend { LogsDma = logs }, wayOut, slot: 4);
        Assert.Empty(again.QueryBlockers(1));
    }

    [Fact]
    public void TheHostsIommuLetsADeviceWithoutALogMigrate()
    {
        var device = new SeamBackend { LogsDma = false, Host = new ModelHostIommu(new() { Shape = HostIommuShape.UnmapForgets }, new Random(0)) };
        using VfioPciFunction function = Plug(device);
        Assert.Empty(function.QueryBlockers(1));
        Assert.Equal(DirtySourceKind.HostIommu, function.DirtyTracking.Source);
        var tracker = (IDirtyTracker)function;
        _board.Ram.Dirty.Start();
        tracker.Start();
        _board.Iommu.AnnounceMapped(new Iova(0x100000), 0x4000, new Gpa(ModelBoard.LowGpa << 12), AccessRights.ReadWrite);
        Take();
        Assert.True(device.Host.Dma(0x102));
        Assert.Equal(1, tracker.Sync(final: false).Reports);
        Assert.Equal([2UL], Take());
        tracker.Stop();
    }

    [Fact]
    public void AVIommuModelThatCannotMoveIsABlockerWhileItIsThatModel()
    {
        using VfioPciFunction function = Plug(new SeamBackend());
        IommuAttributes usual = _board.Iommu.Is;
        _board.Iommu.Is = usual with { NotMigratable = "its event log is not saved" };
        MigrationBlocker blocker = AssertOnly(typeof(IommuNotMigratableBlocker), "iommu-not-migratable", function);
        Assert.Contains("its event log is not saved", blocker.Reason, StringComparison.Ordinal);
        _board.Iommu.Is = usual;
        Assert.Empty(function.QueryBlockers(1));
    }

    [Fact]
    public void NestedTranslationBlocksTheDevicesLogAndNothingElse()
    {
        IommuAttributes flat = _board.Iommu.Is;
        _board.Iommu.Is = flat with { IsNested = true };
        using (VfioPciFunction function = Plug(new SeamBackend()))
        {
            AssertOnly(typeof(NestedTranslationBlocker), "nested-translation-with-device-log", function);
            _board.Iommu.Is = flat;
            Assert.Empty(function.QueryBlockers(1));
        }

        _board.Iommu.Is = flat with { IsNested = true };
        using VfioPciFunction behindHost = Plug(new SeamBackend { Host = new ModelHostIommu(new() { Shape = HostIommuShape.UnmapForgets }, new Random(0)) }, slot: 4);
        Assert.Empty(behindHost.QueryBlockers(1));
        Assert.Equal(DirtySourceKind.HostIommu, behindHost.DirtyTracking.Source);
        using VfioPciFunction pessimistic = Plug(new SeamBackend(), DirtyTrackingMode.Pessimistic, slot: 5);
        Assert.Empty(pessimistic.QueryBlockers(1));
    }

    [Fact]
    public void WithoutAnEndOfTheApertureALogThatTakesNoRangeIsABlocker()
    {
        _board.Iommu.Is = new IommuAttributes(true, null);
        using (VfioPciFunction function = Plug(new SeamBackend(new ModelDeviceTraits { LongestRange = 0 })))
        {
            MigrationBlocker blocker = AssertOnly(typeof(IommuWithoutApertureBlocker), "iommu-without-aperture", function);
            Assert.Contains("address-width limit", blocker.WayOut, StringComparison.Ordinal);
            _board.Iommu.Is = new IommuAttributes(false, null); // the guest cannot translate any more
            Assert.DoesNotContain(function.QueryBlockers(1), b => b is IommuWithoutApertureBlocker);
        }

        _board.Iommu.Is = new IommuAttributes(true, null);
        using VfioPciFunction follows = Plug(new SeamBackend(new ModelDeviceTraits { LongestRange = 1000 }), slot: 4);
        Assert.Empty(follows.QueryBlockers(1)); // coverage by use
    }

    [Fact]
    public void ALogThatDoesNotTakeTheApertureIsToldWhenTheDeviceIsPlugged()
    {
        using VfioPciFunction function = Plug(new SeamBackend(new ModelDeviceTraits { MaxRanges = 3, MaxSpan = 1024 }));
        List<string> notices = [];
        function.Notice += notices.Add;
        Assert.Empty(function.QueryBlockers(1));
        Assert.Equal(3, function.DirtyTracking.Limits?.MaxRanges);
        Assert.Contains("logs 3 ranges of 4 KiB to 4 MiB together", Assert.Single(notices), StringComparison.Ordinal);
    }

    [Fact]
    public void MemoryLargerThanOneBitmapOfTheHostsIommu()
    {
        using VfioPciFunction function = Plug(new SeamBackend { LogsDma = false, Host = new ModelHostIommu(new() { MaxBitmapBits = ModelBoard.BlockPages }, new Random(0)) });
        Assert.Empty(function.QueryBlockers(1));
        RamBlock large = _board.Ram.Add("large", (ModelBoard.BlockPages + 512) << 12);
        var region = new RamRegion("large", large);
        _board.Topology.Add(_board.Topology.SystemRoot, new BusAddress(1UL << 33), region);
        var blocker = (HostIommuBitmapLimitBlocker)AssertOnly(typeof(HostIommuBitmapLimitBlocker), "host-iommu-bitmap-limit", function);
        Assert.Equal((ModelBoard.BlockPages << 12, (ModelBoard.BlockPages + 512) << 12), (blocker.Limit, blocker.Needed));
        _board.Topology.Remove(region);
        Assert.Empty(function.QueryBlockers(1));
    }

    [Fact]
    public void Type1IsLimitedTo8TiBBy4KiBAndIommufdByNothing()
    {
        var type1 = new HostIommuTraits { Shape = HostIommuShape.UnmapWithBitmap, MaxBitmapBits = (1UL << 31) - 1 };
        Assert.Equal((1UL << 31) - 1, HostIommuTracker.LargestMapping(type1));
        Assert.Equal(((1UL << 31) - 1) * 16, HostIommuTracker.LargestMapping(type1 with { PageBytes = 65536 }));
        Assert.Equal(IovaPages.SpacePages, HostIommuTracker.LargestMapping(new HostIommuTraits { Shape = HostIommuShape.UnmapForgets }));
    }

    [Fact]
    public void ADevicePluggedDuringAMigrationBlocksUntilThatIsOver()
    {
        _board.Ram.Dirty.Start();
        using VfioPciFunction function = Plug(new SeamBackend());
        AssertOnly(typeof(PluggedDuringMigrationBlocker), "plugged-during-migration", function);
        _board.Ram.Dirty.Stop();
        Assert.Empty(function.QueryBlockers(1));
        _board.Ram.Dirty.Start(); // the next one has it
        ((IDirtyTracker)function).Start();
        Assert.Empty(function.QueryBlockers(1));
        ((IDirtyTracker)function).Stop();
        _board.Ram.Dirty.Stop();
    }

    private static MigrationBlocker AssertOnly(Type type, string code, VfioPciFunction function)
    {
        MigrationBlocker blocker = Assert.Single(function.QueryBlockers(1));
        Assert.IsType(type, blocker);
        Assert.Equal((code, "dev0"), (blocker.Code, blocker.Subject));
        return blocker;
    }

    private List<ulong> Take()
    {
        var words = new ulong[ModelBoard.RamPages / 64];
        _board.Ram.Dirty.Drain(default, words);
        return [.. Enumerable.Range(0, words.Length * 64).Where(p => (words[p / 64] >> (p % 64) & 1) != 0).Select(p => (ulong)p)];
    }

    /// <summary>Plugged behind the board's vIOMMU.</summary>
    private VfioPciFunction Plug(SeamBackend device, DirtyTrackingMode mode = DirtyTrackingMode.Auto, byte slot = 3)
    {
        var bridge = new PciHostBridge(_board.Topology, new Gpa(0xB000_0000UL + ((ulong)slot << 24)), 16);
        bridge.RootBus.SetIommu(new BoardIommu(_board));
        VfioPciFunction function = VfioPciFunction.Create(
            new VfioDeviceOptions { Id = "dev0", Socket = "seam", DirtyTracking = mode }, device, null, _board.Topology, _board.Ram);
        bridge.RootBus.Attach(function, new DevFn(slot, 0));
        return function;
    }
}
