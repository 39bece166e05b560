using Godwit.Memory;

namespace Godwit.Vfio.Tests;

/// <summary>What happens to the bits of mappings that are gone (dirty-tracking rules 5 and 6).</summary>
public sealed class HarvestTests
{
    private const ulong Low = ModelBoard.LowGpa;
    private const ulong High = ModelBoard.HighGpa;
    private const ulong InHigh = ModelBoard.BlockPages; // RAM page of High

    [Fact]
    public void AnUnmapAsksNothingOfTheDeviceAndTheNextSyncBringsWhatWasWritten()
    {
        using var rig = new Rig();
        rig.Map(0x100, Low + 3, 2);
        rig.StartTracking();
        rig.Device.Dma(0x100);
        rig.Unmap(0x100, 2);
        Assert.Empty(rig.Dirty());
        Assert.Equal(0, rig.Device.Reports);
        DirtyTrackingReport report = rig.Tracker.Explain(DirtyTrackingMode.Auto);
        Assert.Equal((1, 1L), (report.HarvestsPending, report.Harvests));
        rig.Tracker.Sync(final: false);
        Assert.Equal([3UL], rig.Dirty()); // and not the page that nobody wrote
        Assert.Equal(0, rig.Tracker.Explain(DirtyTrackingMode.Auto).HarvestsPending);
        rig.Tracker.Sync(final: false);
        Assert.Empty(rig.Dirty());
    }

    [Fact]
    public void APageWrittenWhileItIsBeingUnmappedIsDirtyToo()
    {
        using var rig = new Rig();
        rig.Map(0x100, Low + 3);
        rig.StartTracking();
        rig.Device.Meanwhile = () => rig.Device.Dma(0x100); // right up to the moment when the host lets go
        rig.Unmap(0x100);
        rig.Tracker.Sync(final: true);
        Assert.Equal([3UL], rig.Dirty());
    }

    [Fact]
    public void AnIovaThatIsReusedKeepsBothPages()
    {
        using var rig = new Rig();
        rig.Map(0x100, Low + 3);
        rig.StartTracking();
        rig.Device.Dma(0x100);
        rig.Board.Iommu.Announce(l =>
        {
            l.Unmapped(new Iova(0x100 << 12), 4096);
            l.Mapped(new Iova(0x100 << 12), 4096, new Gpa((Low + 8) << 12), AccessRights.ReadWrite);
        });
        rig.Device.Dma(0x100);
        rig.Tracker.Sync(final: false);
        Assert.Equal([3UL, 8UL], rig.Dirty());
        Assert.Equal(1, rig.Device.Reports);
    }

    /// <summary>The log says nothing of who had the IOVA when. Who had it before the depth of the queue counts as written at once.</summary>
    [Fact]
    public void AnIovaThatIsReusedManyTimesKeepsAllPages()
    {
        using var rig = new Rig();
        rig.StartTracking();
        for (ulong i = 0; i < 20; i++)
        {
            rig.Map(0x100, Low + i);
            rig.Device.Dma(0x100);
            rig.Unmap(0x100);
        }

        Assert.Equal(Enumerable.Range(HarvestQueue.Depth, 20 - HarvestQueue.Depth).Select(i => (ulong)i), rig.Dirty());
        rig.Tracker.Sync(final: true);
        Assert.Equal(Enumerable.Range(0, HarvestQueue.Depth).Select(i => (ulong)i), rig.Dirty());
        Assert.Equal(1, rig.Device.Reports);
    }

    [Fact]
    public void TheSamePageAtTheSameIovaWaitsOnce()
    {
        using var rig = new Rig();
        rig.StartTracking();
        for (int i = 0; i < 20; i++)
        {
            rig.Map(0x100, Low + 1);
            rig.Unmap(0x100);
        }

        Assert.Equal(1, rig.Tracker.Explain(DirtyTrackingMode.Auto).HarvestsPending);
        Assert.Empty(rig.Dirty());
    }

    [Fact]
    public void WhatDoesNotFitIntoTheQueueCountsAsWritten()
    {
        using var rig = new Rig(tracker: (r, shadow, notices, plans) => new OracleTracker("dev0", r.Board.Slots[0], r.Device, shadow, r.Board.Ram.Dirty, notices, plans, Mutation.None, 3));
        for (ulong i = 0; i < 5; i++)
            rig.Map(0x100 + 2 * i, Low + 3 * i);
        rig.StartTracking();
        rig.Unmap(0x100, 10);
        Assert.Equal([9UL, 12UL], rig.Dirty());
        rig.Tracker.Sync(final: true);
        Assert.Empty(rig.Dirty());
    }

    [Fact]
    public void AHarvestIsOneMergedReportWithWhatIsMapped()
    {
        using var rig = new Rig();
        rig.Map(0x1000, Low, ModelBoard.BlockPages);
        rig.Map(0x1000 + ModelBoard.BlockPages, High, ModelBoard.BlockPages);
        rig.Map(0x1800, Low + 100, 3);
        rig.StartTracking();
        rig.Device.Dma(0x1000 + 5);
        rig.Device.Dma(0x1000 + ModelBoard.BlockPages + 6);
        rig.Device.Dma(0x1802);
        rig.Unmap(0x1000, 2 * ModelBoard.BlockPages);
        rig.Tracker.Sync(final: false);
        Assert.Equal([5UL, 102UL, InHigh + 6], rig.Dirty());
        Assert.Equal(1, rig.Device.Reports);
    }

    [Fact]
    public void ReportsCreditNeighboursThatStayMapped()
    {
        using var rig = new Rig();
        rig.Map(0x1010, Low, ModelBoard.BlockPages); // not aligned to a window
        rig.Map(0x1000, High + 1, 3);
        rig.Map(0x1010 + ModelBoard.BlockPages, High + 7);
        rig.StartTracking();
        rig.Device.Dma(0x1002);
        rig.Device.Dma(0x1010 + ModelBoard.BlockPages);
        rig.Unmap(0x1010, ModelBoard.BlockPages);
        rig.Tracker.Sync(final: false);
        Assert.Equal([InHigh + 3, InHigh + 7], rig.Dirty());
    }

    /// <summary>No vCPU waits for a report: what it maps and unmaps meanwhile goes through, and is credited with the bits of that report.</summary>
    [Fact]
    public void TheGuestMapsAndUnmapsWhileAReportIsMade()
    {
        using var rig = new Rig();
        rig.Map(0x100, Low + 3);
        rig.Map(0x101, Low + 4);
        rig.StartTracking();
        rig.Device.Dma(0x100);
        rig.Device.Dma(0x101);
        bool done = false;
        rig.Device.Meanwhile = () =>
        {
            rig.Device.Meanwhile = null;
            // The report has been made, its bits have not been looked at.
            var vcpu = new Thread(() =>
            {
                rig.Unmap(0x100);
                rig.Map(0x100, Low + 9);
            });
            vcpu.Start();
            done = vcpu.Join(TimeSpan.FromSeconds(60));
        };
        rig.Tracker.Sync(final: false);
        Assert.True(done, "the vCPU waited for the report");
        Assert.Equal([3UL, 4UL, 9UL], rig.Dirty()); // 9 for nothing: it came to the IOVA of a set bit
    }

    [Fact]
    public void AQueueThatFillsAndEmptiesAllocatesNothing()
    {
        var queue = new HarvestQueue();
        Round();
        Assert.Equal(0, Allocations.Of(() =>
        {
            for (int i = 0; i < 20; i++)
                Round();
        }));

        void Round()
        {
            for (ulong page = 0; page < 2000; page++)
                Assert.True(queue.TryAdd(new Mapping(new IovaPages(page * 2, 1), new RamPage(page), true), HarvestQueue.DefaultLimit));
            queue.Clear();
        }
    }

    [Fact]
    public void ALostLogMarksWhatWaits()
    {
        using var rig = new Rig(traits: new ModelDeviceTraits { ReportFailsPercent = 100 });
        rig.Map(0x1000, Low, ModelBoard.BlockPages);
        rig.Map(0x1800, High, 100);
        rig.StartTracking();
        rig.Unmap(0x1000, ModelBoard.BlockPages);
        rig.Unmap(0x1800, 50);
        Assert.Empty(rig.Dirty());
        rig.Tracker.Sync(final: false);
        Assert.Equal(612, rig.Dirty().Count);
    }

    /// <summary>A device that counts its words from the start of its region (pds): the region begins on a border of words.</summary>
    [Theory]
    [InlineData(4096UL)]
    [InlineData(16384UL)]
    public void ARegionThatWouldBeginInsideAWordBeginsBeforeIt(ulong pageSize)
    {
        var traits = new ModelDeviceTraits { LogPageSize = pageSize, OneRegion = true, WordsFromStart = true, ClearsWholeWords = true };
        using var rig = new Rig(traits: traits, attributes: new IommuAttributes(false, null)); // RAM by GPA, from page 16 on
        rig.Board.SetPassThrough(true);
        rig.StartTracking();
        // Alone among mapped pages, so that reports end beside it.
        foreach (ulong page in new ulong[] { Low, Low + 47, Low + 48, Low + 63, Low + 64, Low + 511, High, High + 63 })
            Assert.True(rig.Device.Dma(page));
        rig.Tracker.Sync(final: false);
        ulong granule = pageSize >> 12;
        foreach (ulong page in new ulong[] { 0, 47, 48, 63, 64, 511, InHigh, InHigh + 63 })
            Assert.Contains(page, rig.Dirty(keep: true));
        Assert.All(rig.Tracker.Plan.Ranges, r => Assert.Equal(0UL, r.First % (64 * granule)));
    }
}
