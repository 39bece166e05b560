using Godwit.Memory;
using Godwit.Migration;

namespace Godwit.Vfio.Tests;

public sealed class DmaLogTrackerTests
{
    private const ulong Low = ModelBoard.LowGpa;

    [Fact]
    public void ASyncBringsWhatTheDeviceWrote()
    {
        using var rig = new Rig();
        rig.Map(0x100, Low + 3);
        rig.Map(0x101, ModelBoard.HighGpa + 4);
        rig.StartTracking();
        Assert.True(rig.Device.Dma(0x100));
        Assert.True(rig.Device.Dma(0x101));
        DirtySyncReport report = rig.Tracker.Sync(final: false);
        Assert.Equal([3UL, ModelBoard.BlockPages + 4], rig.Dirty());
        Assert.Equal(new DirtySyncReport(1, 2, 2), report);
        Assert.Equal(new DirtySyncReport(1, 0, 2), rig.Tracker.Sync(final: true));
        Assert.Equal((2, 2), (rig.Tracker.Reports, rig.Tracker.PagesReported));
    }

    [Fact]
    public void TheWholeApertureAndTheRamAboveAreArmedInOneStart()
    {
        using var rig = new Rig();
        rig.Device.Calls = [];
        rig.StartTracking();
        Assert.Equal($"start {new IovaPages(0, ModelBoard.AperturePages)} {new IovaPages(ModelBoard.HighGpa, ModelBoard.BlockPages)}", Assert.Single(rig.Device.Calls));
    }

    [Fact]
    public void ADeviceInPassThroughIsTrackedAboveTheAperture()
    {
        using var rig = new Rig();
        rig.Board.SetPassThrough(true);
        rig.StartTracking();
        Assert.True(rig.Device.Dma(ModelBoard.HighGpa + 9));
        rig.Tracker.Sync(final: false);
        Assert.Equal([ModelBoard.BlockPages + 9], rig.Dirty());
    }

    [Fact]
    public void ReadOnlyMappingsNeedNoHarvestAndNoReport()
    {
        using var rig = new Rig();
        rig.Map(0x100, Low + 3, 1, AccessRights.Read);
        rig.StartTracking();
        Assert.Equal(0, rig.Tracker.Sync(final: false).Reports);
        rig.Unmap(0x100);
        Assert.Empty(rig.Dirty());
        Assert.Equal(0, rig.Tracker.Harvests);
    }

    [Fact]
    public void APageBehindHundredsOfIovasIsDirtyWhicheverIsWritten()
    {
        using var rig = new Rig();
        for (ulong i = 0; i < 500; i++)
            rig.Map(0x1000 + 3 * i, Low + 5);
        rig.StartTracking();
        foreach (ulong i in new ulong[] { 0, 250, 499 })
        {
            rig.Device.Dma(0x1000 + 3 * i);
            rig.Tracker.Sync(final: false);
            Assert.Equal([5UL], rig.Dirty());
        }

        Assert.Equal(3, rig.Device.Reports);
    }

    /// <summary>A device that joins ranges counts the gaps (mlx5): fewer ranges are asked of it until it takes them.</summary>
    [Fact]
    public void ADeviceThatJoinsRangesIsAskedForFewer()
    {
        using var rig = new Rig(traits: new ModelDeviceTraits { MaxSpan = 1024, CombinesTo = 2, RoundsSpanUp = true });
        foreach (ulong page in new ulong[] { 0x200, 0x900, 0x1000, 0x1100, 0x2800 })
            rig.Map(page, Low + (page >> 8));
        rig.StartTracking();
        Assert.True(rig.Tracker.Plan.ByUse);
        Assert.NotEmpty(rig.Tracker.Plan.Ranges);
        Assert.True(rig.Device.Dma(0x1100));
        rig.Tracker.Sync(final: false);
        Assert.Contains(0x11UL, rig.Dirty());
    }

    [Fact]
    public void NothingIsHarvestedWhileNothingIsTracked()
    {
        using var rig = new Rig();
        rig.Map(0x100, Low + 3);
        rig.Device.Dma(0x100);
        rig.Unmap(0x100);
        Assert.Equal(0, rig.Tracker.Harvests);
        Assert.Equal(0, rig.Device.Reports);
    }

    [Theory]
    [InlineData(16384UL)]
    [InlineData(65536UL)]
    [InlineData(1UL << 21)]
    public void ACoarserLogIsTakenOutward(ulong pageSize)
    {
        using var rig = new Rig(traits: new ModelDeviceTraits { LogPageSize = pageSize });
        ulong granule = pageSize >> 12;
        // Two mappings share a tracking page; one write counts for both, and for nothing else.
        rig.Map(granule * 3, Low + 1);
        rig.Map(granule * 3 + 1, Low + 5);
        rig.Map(granule * 4, Low + 9);
        rig.StartTracking();
        rig.Device.Dma(granule * 3);
        rig.Tracker.Sync(final: false);
        Assert.Equal([1UL, 5UL], rig.Dirty());
    }

    /// <summary>A word of such a log is more than is looked at in one go: each of its bits counts, and the sync ends.</summary>
    [Theory]
    [InlineData(8UL << 20, 0UL)]
    [InlineData(8UL << 20, 31UL)]
    [InlineData(8UL << 20, 32UL)]
    [InlineData(8UL << 20, 63UL)]
    [InlineData(1UL << 30, 0UL)]
    [InlineData(1UL << 30, 5UL)]
    public void AVeryCoarseLogIsReadToItsEnd(ulong pageSize, ulong bit)
    {
        ulong granule = pageSize >> 12;
        using var rig = new Rig(traits: new ModelDeviceTraits { LogPageSize = pageSize }, aperturePages: granule * 128);
        ulong page = (granule * bit) + 0x1000; // clear of the interrupt window
        rig.Map(page, Low + 1);
        rig.StartTracking();
        rig.Device.Dma(page);
        Exception? failed = null;
        var sync = new Thread(() => failed = Record.Exception(() => rig.Tracker.Sync(final: false))) { IsBackground = true };
        sync.Start();
        Assert.True(sync.Join(TimeSpan.FromSeconds(90)), "the sync does not end");
        Assert.Null(failed);
        Assert.Equal([1UL], rig.Dirty());
    }

    [Fact]
    public void AFinerLogIsAskedByOurPages()
    {
        using var rig = new Rig(traits: new ModelDeviceTraits { LogPageSize = 1024 });
        rig.Map(0x100, Low + 3);
        rig.StartTracking();
        rig.Device.Dma(0x100);
        rig.Tracker.Sync(final: false);
        Assert.Equal([3UL], rig.Dirty());
    }

    [Theory]
    [InlineData(0UL)]
    [InlineData(12345UL)]
    [InlineData(1UL << 40)]
    public void AnImpossiblePageSizeFailsTheStartAndStopsTheLog(ulong pageSize)
    {
        using var rig = new Rig(traits: new ModelDeviceTraits { LogPageSize = pageSize });
        rig.Board.Ram.Dirty.Start();
        rig.Device.Calls = [];
        Assert.Contains($"pages of {pageSize} bytes", Assert.Throws<DirtyLogLostException>(rig.Tracker.Start).Message, StringComparison.Ordinal);
        Assert.Equal("stop", rig.Device.Calls[^1]);
    }

    [Fact]
    public void WhatIsMappedOutsideCoverageCountsAsDirtyAtEverySync()
    {
        // The device takes the aperture only; RAM above it stays uncovered.
        using var rig = new Rig(traits: new ModelDeviceTraits { LongestRange = ModelBoard.AperturePages }, attributes: new IommuAttributes(true, new Iova((ModelBoard.AperturePages << 12) - 1)));
        rig.Board.SetPassThrough(true);
        rig.StartTracking();
        IEnumerable<ulong> high = Enumerable.Range((int)ModelBoard.BlockPages, (int)ModelBoard.BlockPages).Select(p => (ulong)p);
        rig.Tracker.Sync(final: false);
        Assert.Empty(rig.Dirty()); // both ranges were taken
        rig.Tracker.Stop();
        rig.Board.Ram.Dirty.Stop();

        using var limited = new Rig(tracker: (r, shadow, notices, plans) => new DmaLogTracker("dev0", r.Device, shadow, new DirtyMarker(r.Board.Ram.Dirty), () => [plans()[1]], notices));
        limited.Board.SetPassThrough(true);
        limited.StartTracking();
        for (int i = 0; i < 2; i++)
        {
            limited.Tracker.Sync(final: false);
            Assert.Equal(high, limited.Dirty());
        }
    }

    /// <summary>Rule 9: whatever the page size of the log, no report ends at 2^64, and what lies there counts as dirty.</summary>
    [Theory]
    [InlineData(4096UL)]
    [InlineData(1UL << 21)]
    public void TheTopOfA64BitApertureIsUncovered(ulong pageSize)
    {
        using var rig = new Rig(traits: new ModelDeviceTraits { LogPageSize = pageSize }, attributes: new IommuAttributes(true, new Iova(ulong.MaxValue)), listen: false);
        ulong granule = pageSize >> 12;
        ulong top = IovaPages.SpacePages - 2 * granule;
        rig.Shadow.GuestMapped(new Iova(top << 12), 4096, new Gpa(Low << 12), AccessRights.ReadWrite);
        rig.Shadow.GuestMapped(new Iova(ulong.MaxValue - 4095), 4096, new Gpa((Low + 1) << 12), AccessRights.ReadWrite);
        rig.Shadow.Commit();
        rig.StartTracking();
        rig.Device.Calls = [];
        rig.Tracker.Sync(final: false);
        Assert.Equal([1UL], rig.Dirty());
        Assert.True(rig.Device.Dma(top));
        rig.Tracker.Sync(final: false);
        Assert.Equal([0UL, 1UL], rig.Dirty());
        rig.Shadow.GuestUnmapped(new Iova(ulong.MaxValue - 4095), 4096);
        rig.Shadow.Commit();
        Assert.Equal([1UL], rig.Dirty());
    }

    [Fact]
    public void ADeviceThatRefusesTheApertureHasEverythingMappedForWritingDirty()
    {
        using var rig = new Rig(traits: new ModelDeviceTraits { LongestRange = 0 });
        Assert.Null(rig.Tracker.Probe(out DeviceRefusedException? refusal));
        Assert.NotNull(refusal);
        rig.Map(0x100, Low + 3, 2);
        rig.Map(0x200, Low + 9, 1, AccessRights.Read);
        rig.StartTracking();
        Assert.Contains("everything mapped for writing counts as dirty", Assert.Single(rig.Notices), StringComparison.Ordinal);
        rig.Tracker.Sync(final: false);
        Assert.Equal([3UL, 4UL], rig.Dirty());
        rig.Unmap(0x100, 2);
        Assert.Equal([3UL, 4UL], rig.Dirty());
        rig.Tracker.Sync(final: true);
        Assert.Empty(rig.Dirty());
        rig.Tracker.Stop();
    }

    [Fact]
    public void WithoutAVIommuARefusalFailsTheStart()
    {
        using var rig = new Rig(traits: new ModelDeviceTraits { LongestRange = 100 }, attributes: new IommuAttributes(false, null));
        rig.Board.Ram.Dirty.Start();
        Assert.Contains("guest RAM", Assert.Throws<DirtyLogLostException>(rig.Tracker.Start).Message, StringComparison.Ordinal);
        rig.Tracker.Stop(); // harmless
    }

    [Fact]
    public void ProbeLeavesTheLogOff()
    {
        using var rig = new Rig();
        Assert.NotNull(rig.Tracker.Probe(out _));
        rig.StartTracking(); // would be refused by a log that is on
        Assert.Equal(2, rig.Tracker.Plan.Ranges.Length);
    }

    [Fact]
    public void ALostLogIsStartedAgainAndEverythingWritableIsDirtyOnce()
    {
        var traits = new ModelDeviceTraits { ReportFailsPercent = 100 };
        using var rig = new Rig(traits: traits);
        rig.Map(0x100, Low + 3);
        rig.Map(0x200, Low + 4, 1, AccessRights.Read);
        rig.StartTracking();
        rig.Device.Dma(0x100);
        rig.Device.Calls = [];
        rig.Tracker.Sync(final: false);
        Assert.Equal([3UL], rig.Dirty());
        Assert.Equal(["report", "stop", "start"], rig.Device.Calls.Select(c => c.Split(' ')[0]));
        Assert.Contains("EIO", Assert.Single(rig.Notices), StringComparison.Ordinal);

        // The second time the migration fails, with the cause.
        var lost = Assert.Throws<DirtyLogLostException>(() => rig.Tracker.Sync(final: false));
        Assert.Contains("second time", lost.Message, StringComparison.Ordinal);
        Assert.IsType<DeviceRefusedException>(lost.InnerException);
        rig.Tracker.Stop();
    }

    [Fact]
    public void ALogLostAtTheSwitchoverMarksEverythingAndNeedsNoNewStart()
    {
        using var rig = new Rig(traits: new ModelDeviceTraits { ReportFailsPercent = 100 });
        rig.Map(0x100, Low + 3);
        rig.StartTracking();
        rig.Device.Dma(0x100);
        rig.Device.Calls = [];
        rig.Tracker.Sync(final: true);
        Assert.Equal([3UL], rig.Dirty());
        Assert.Equal(["report"], rig.Device.Calls.Select(c => c.Split(' ')[0]));
    }

    [Fact]
    public void StopAndStartAgainAfterACancel()
    {
        using var rig = new Rig();
        rig.Map(0x100, Low + 3);
        for (int i = 0; i < 3; i++)
        {
            rig.StartTracking();
            rig.Device.Dma(0x100);
            rig.Tracker.Stop();
            rig.Tracker.Stop();
            rig.Board.Ram.Dirty.Stop();
        }

        rig.StartTracking();
        rig.Tracker.Sync(final: true);
        Assert.Empty(rig.Dirty());
    }

    [Fact]
    public void ADeviceThatHasGoneFailsTheSyncAndNotTheStop()
    {
        using var rig = new Rig();
        rig.Map(0x100, Low + 3);
        rig.StartTracking();
        rig.Device.Gone = true;
        Assert.Throws<DeviceLostException>(() => rig.Tracker.Sync(final: false));
        rig.Shadow.Abandon();
        Assert.Throws<DeviceLostException>(() => rig.Tracker.Sync(final: false));
        rig.Tracker.Stop();
        Assert.Throws<DeviceLostException>(rig.Tracker.Start);
    }

    [Fact]
    public void OutOfOrderCallsAreRefused()
    {
        using var rig = new Rig();
        Assert.Throws<InvalidOperationException>(() => rig.Tracker.Sync(final: false));
        rig.StartTracking();
        Assert.Throws<InvalidOperationException>(rig.Tracker.Start);
    }

    [Fact]
    public void ASyncAllocatesNothing()
    {
        using var rig = new Rig(tracker: (r, shadow, notices, plans) => new DmaLogTracker("dev0", new EveryOtherPage(), shadow, new DirtyMarker(r.Board.Ram.Dirty), plans, notices));
        for (ulong i = 0; i < 200; i++)
            rig.Map(0x100 + 7 * i, Low + i, 1 + i % 4);
        rig.StartTracking();
        rig.Tracker.Sync(final: false);
        Assert.NotEmpty(rig.Dirty());
        Assert.Equal(0, Allocations.Of(() =>
        {
            for (int i = 0; i < 100; i++)
                rig.Tracker.Sync(final: false);
        }));
    }

    /// <summary>A report clears the log, so what it said must not go with a sync that ends badly.</summary>
    [Fact]
    public void WhatWasFoundIsMarkedHoweverASyncEnds()
    {
        var log = new EveryOtherPage { MaxReportBytes = 64, ReportsLeft = 1 };
        using var rig = new Rig(tracker: (r, shadow, notices, plans) => new DmaLogTracker("dev0", log, shadow, new DirtyMarker(r.Board.Ram.Dirty), plans, notices));
        rig.Map(0x100, Low); // one run with the next: what was found in its words is gathered
        rig.Map(0x101, Low + 1);
        rig.Map(0x1000, Low + 2); // too far for the same report
        rig.StartTracking();
        Assert.Throws<DeviceLostException>(() => rig.Tracker.Sync(final: false));
        Assert.Equal([0UL], rig.Dirty());
    }

    private sealed class EveryOtherPage : IDmaLog
    {
        /// <summary>Until the device goes.</summary>
        public int ReportsLeft { get; set; } = int.MaxValue;

        public int MaxReportBytes { get; init; } = 1 << 16;

        public bool SupportsDmaLogging() => true;

        public ulong StartDmaLogging(ulong pageSize, ReadOnlySpan<IovaPages> ranges) => pageSize;

        public void StopDmaLogging()
        {
        }

        public void ReportDmaLog(IovaPages range, ulong pageSize, Span<ulong> bitmap)
        {
            if (ReportsLeft-- == 0)
                throw new DeviceLostException("gone");
            bitmap.Fill(0x5555_5555_5555_5555);
        }
    }
}
