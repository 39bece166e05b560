using Godwit.Interop.Linux;
using Godwit.Memory;

namespace Godwit.Vfio.Tests;

/// <summary>The dirty bits of the host's IOMMU: what is asked, in what order, and where the bits go.</summary>
public sealed class HostIommuTrackerTests
{
    private const ulong Gpa = ModelBoard.LowGpa;

    [Fact]
    public void Type1ReturnsTheBitsOfAMappingWithItsUnmap()
    {
        using var rig = new HostRig(new() { Shape = HostIommuShape.UnmapWithBitmap });
        rig.Map(0x100, Gpa + 8, 16);
        rig.StartTracking();
        Assert.True(rig.Host.Dma(0x103));
        rig.Unmap(0x100, 16);
        Assert.Equal(["unmap iova 0x100000-0x10ffff with bitmap"], rig.Calls());
        Assert.Equal([11UL], rig.Dirty());
    }

    [Fact]
    public void Type1MayReturnThemWhileOnlyAPartIsUnmappedAndTheRestComesBack()
    {
        using var rig = new HostRig(new() { Shape = HostIommuShape.UnmapWithBitmap });
        rig.Map(0x100, Gpa, 16);
        rig.StartTracking();
        Assert.True(rig.Host.Dma(0x101));
        Assert.True(rig.Host.Dma(0x10F));
        rig.Unmap(0x108, 4);
        Assert.Equal(
            ["unmap iova 0x100000-0x10ffff with bitmap", "map iova 0x100000-0x107fff rw", "map iova 0x10c000-0x10ffff rw"], rig.Calls());
        Assert.Equal([1UL, 15UL], rig.Dirty());
    }

    [Fact]
    public void IommufdCannotSayWhatWasWrittenUpToAnUnmapSoThatAllOfItCounts()
    {
        using var rig = new HostRig(new() { Shape = HostIommuShape.UnmapForgets });
        rig.Map(0x100, Gpa, 4);
        rig.Map(0x200, Gpa + 8, 4, AccessRights.Read);
        rig.Map(0x400, Gpa, ModelBoard.BlockPages);
        rig.StartTracking();
        rig.Unmap(0x100, 4);
        rig.Unmap(0x200, 4);
        Assert.Equal(["unmap iova 0x100000-0x103fff", "unmap iova 0x200000-0x203fff"], rig.Calls());
        Assert.Equal([0UL, 1UL, 2UL, 3UL], rig.Dirty());
        rig.Unmap(0x400, ModelBoard.BlockPages);
        Assert.Equal(["unmap iova 0x400000-0x5fffff"], rig.Calls());
        Assert.Equal((int)ModelBoard.BlockPages, rig.Dirty().Count);
    }

    [Theory]
    [InlineData(HostIommuShape.UnmapWithBitmap, "query iova 0x100000-0x123fff")]
    [InlineData(HostIommuShape.UnmapForgets, "query iova 0x100000-0x107fff|query iova 0x120000-0x123fff")]
    public void ASyncJoinsMappingsAsFarAsTheKernelLetsIt(object shape, string queries)
    {
        using var rig = new HostRig(new() { Shape = (HostIommuShape)shape });
        rig.Map(0x100, Gpa, 4);
        rig.Map(0x104, Gpa + 100, 4);
        rig.Map(0x110, Gpa + 50, 4, AccessRights.Read);
        rig.Map(0x120, Gpa + 200, 4);
        rig.StartTracking();
        Assert.True(rig.Host.Dma(0x105));
        Assert.True(rig.Host.Dma(0x123));
        Assert.Equal(queries.Split('|').Length, rig.Tracker.Sync(final: false).Reports);
        Assert.Equal(queries.Split('|'), rig.Calls());
        Assert.Equal([101UL, 203UL], rig.Dirty());
        Assert.False(rig.Host.IsDirty(0x105));
    }

    [Fact]
    public void AMappingThatNoBitmapHoldsIsDirtyAtEverySyncAndSaidSo()
    {
        using var rig = new HostRig(new() { Shape = HostIommuShape.UnmapWithBitmap, MaxBitmapBits = 8 });
        rig.Map(0x100, Gpa, 9);
        rig.Map(0x200, Gpa + 20, 8);
        rig.StartTracking();
        for (int i = 0; i < 2; i++)
        {
            rig.Tracker.Sync(final: false);
            Assert.Equal([0UL, 1UL, 2UL, 3UL, 4UL, 5UL, 6UL, 7UL, 8UL], rig.Dirty());
        }

        Assert.Equal(9UL, rig.Tracker.Explain(DirtyTrackingMode.Iommu).UncoveredPages);
        Assert.Equal(["query iova 0x200000-0x207fff", "query iova 0x200000-0x207fff"], rig.Calls());
        rig.Unmap(0x100, 9);
        Assert.Equal(["unmap iova 0x100000-0x108fff"], rig.Calls());
        Assert.Equal(9, rig.Dirty().Count);
    }

    [Fact]
    public void ALargePageOfTheTablesIsNeverCut()
    {
        // One bit stands for 512 pages. Asked about in parts, the first answer would clear it for the rest.
        using var rig = new HostRig(new() { Shape = HostIommuShape.UnmapForgets, LargestIoPage = 512 });
        rig.Map(0x200, Gpa, 512);
        rig.StartTracking();
        Assert.True(rig.Host.Dma(0x300));
        rig.Tracker.Sync(final: false);
        Assert.Equal(["query iova 0x200000-0x3fffff"], rig.Calls());
        Assert.Equal(512, rig.Dirty().Count);
    }

    [Fact]
    public void BitsThatCannotBeReadAreSetAnewOnceAndEverythingIsSentAgain()
    {
        using var rig = new HostRig(new() { Shape = HostIommuShape.UnmapWithBitmap, QueryFailsPercent = 100 });
        rig.Map(0x100, Gpa, 4);
        rig.StartTracking();
        rig.Tracker.Sync(final: false);
        Assert.Equal(["query iova 0x100000-0x103fff", "stop", "start"], rig.Calls());
        Assert.Equal(4, rig.Dirty().Count);
        Assert.Contains("they are set anew and everything mapped for writing is sent again", Assert.Single(rig.Notices), StringComparison.Ordinal);
        var lost = Assert.Throws<DirtyLogLostException>(() => rig.Tracker.Sync(final: false));
        Assert.Contains("cannot be read (a query: EIO) for the second time", lost.Message, StringComparison.Ordinal);
        rig.Tracker.Stop();
    }

    [Fact]
    public void AtTheSwitchoverEverythingMappedIsSentWhenTheBitsCannotBeRead()
    {
        using var rig = new HostRig(new() { Shape = HostIommuShape.UnmapWithBitmap, QueryFailsPercent = 100 });
        rig.Map(0x100, Gpa, 4);
        rig.StartTracking();
        rig.Tracker.Sync(final: true);
        Assert.Equal(4, rig.Dirty().Count);
    }

    [Fact]
    public void AMapThatWasRefusedIsUnmappedWithoutHarm()
    {
        using var rig = new HostRig(new() { Shape = HostIommuShape.UnmapWithBitmap });
        rig.StartTracking();
        rig.Host.RefuseMap = _ => Errno.ENOMEM;
        rig.Board.Iommu.Announce(l =>
        {
            l.Mapped(new Iova(0x100000), 0x4000, new Gpa(Gpa << 12), AccessRights.ReadWrite);
            l.Unmapped(new Iova(0x100000), 0x4000);
        });
        Assert.Null(rig.CutOffBecause);
        Assert.Empty(rig.Dirty());
        Assert.Equal(0, rig.Shadow.LiveCount);
    }

    [Fact]
    public void NothingIsAskedWhileNoMigrationRuns()
    {
        using var rig = new HostRig(new() { Shape = HostIommuShape.UnmapWithBitmap });
        rig.Host.Calls = [];
        rig.Map(0x100, Gpa, 4);
        rig.Unmap(0x100, 4);
        Assert.Equal(["map iova 0x100000-0x103fff rw", "unmap iova 0x100000-0x103fff"], rig.Calls());
        rig.StartTracking();
        rig.Tracker.Stop();
        rig.Tracker.Stop();
        Assert.Equal(["stop"], rig.Calls());
        Assert.Throws<InvalidOperationException>(() => rig.Tracker.Sync(final: false));
    }

    [Fact]
    public void AHostThatSetsNoBitsFailsTheStart()
    {
        using var rig = new HostRig(new() { Shape = HostIommuShape.UnmapWithBitmap });
        rig.Host.StartDirtyTracking(); // somebody else's
        Assert.Contains("does not set dirty bits (EINVAL)", Assert.Throws<DirtyLogLostException>(rig.Tracker.Start).Message, StringComparison.Ordinal);
    }

    [Fact]
    public void WhatItDoesIsExplained()
    {
        using var rig = new HostRig(new() { Shape = HostIommuShape.UnmapWithBitmap });
        rig.Map(0x100, Gpa, 8);
        rig.StartTracking();
        Assert.True(rig.Host.Dma(0x101));
        rig.Tracker.Sync(final: false);
        Assert.True(rig.Host.Dma(0x102));
        rig.Unmap(0x100, 8);
        DirtyTrackingReport report = rig.Tracker.Explain(DirtyTrackingMode.Auto);
        Assert.Equal(DirtySourceKind.HostIommu, report.Source);
        Assert.True(report.Active);
        Assert.Equal((1L, 16L, 2L, 1L, 1L), (report.Reports, report.BitsAsked, report.PagesReported, report.Harvests, report.Syncs));
    }
}
