using Godwit.Interop.Linux;
using Godwit.Memory;

namespace Godwit.Vfio.Tests;

public sealed class DmaShadowTests
{
    private const ulong Low = ModelBoard.LowGpa;
    private const ulong High = ModelBoard.HighGpa;

    [Fact]
    public void AGuestMappingIsInTheDeviceWhenTheBatchEnds()
    {
        using var rig = new Rig();
        rig.Map(0x100, Low + 3, 2);
        Assert.Equal([new Mapping(new IovaPages(0x100, 2), new RamPage(3), true)], rig.Device.Mappings);
        Assert.Equal(rig.Device.Mappings, rig.Installed);
        rig.Unmap(0x100, 2);
        Assert.Empty(rig.Device.Mappings);
        Assert.Empty(rig.Installed);
        Assert.Equal((1, 1, 0), (rig.Shadow.MappedCount, rig.Shadow.UnmappedCount, rig.Shadow.LiveCount));
    }

    [Fact]
    public void ATargetAboveAHoleIsTheRamPageAndNotTheGpa()
    {
        using var rig = new Rig();
        rig.Map(0x100, High + 5);
        Assert.Equal(new RamPage(ModelBoard.BlockPages + 5), Assert.Single(rig.Device.Mappings).Ram);
    }

    [Fact]
    public void ReadOnlyIsHonouredFromTheGuestAndFromTheMemory()
    {
        using var rig = new Rig();
        rig.Map(0x100, Low, 1, AccessRights.Read);
        rig.Map(0x200, ModelBoard.RomGpa, 1);
        Assert.All(rig.Device.Mappings, m => Assert.False(m.Writable));
        Assert.Equal(2, rig.Device.Mappings.Count);
    }

    [Fact]
    public void ATargetWithoutRamIsRememberedAndHarmsNothing()
    {
        using var rig = new Rig();
        rig.Map(0x100, ModelBoard.MmioGpa);
        rig.Map(0x110, 0x7_0000_0000); // nothing there
        rig.Map(0x120, (1UL << 52) - 1, 2); // runs out of the GPA space
        Assert.Empty(rig.Device.Mappings);
        lock (rig.Shadow.Gate)
        {
            Assert.Equal(NotInstalledReason.NotRam, rig.Shadow.NotInstalled.Find(0x100));
            Assert.Equal(NotInstalledReason.NotRam, rig.Shadow.NotInstalled.Find(0x110));
            Assert.Equal(NotInstalledReason.NotRam, rig.Shadow.NotInstalled.Find(0x121));
        }

        Assert.Contains("to what is no RAM", Assert.Single(rig.Notices), StringComparison.Ordinal); // once for all of them
        rig.Unmap(0x100);
        rig.Unmap(0x110);
        rig.Unmap(0x120, 2);
        Assert.Equal(0, rig.Shadow.NotInstalledCount);
        Assert.Null(rig.CutOffBecause);
    }

    [Fact]
    public void AMappingAcrossDifferentMemoryIsSplitWhereTheMemoryIs()
    {
        using var rig = new Rig();
        // The last two pages of the low block, then a hole.
        rig.Map(0x1000, Low + ModelBoard.BlockPages - 2, 5);
        Assert.Equal([new Mapping(new IovaPages(0x1000, 2), new RamPage(ModelBoard.BlockPages - 2), true)], rig.Device.Mappings);
        Assert.Equal(1, rig.Shadow.NotInstalledCount);
        // One removal takes all of it.
        rig.Unmap(0x1000, 5);
        Assert.Empty(rig.Device.Mappings);
        Assert.Equal(0, rig.Shadow.NotInstalledCount);
    }

    [Fact]
    public void AHugeMappingOfNothingIsNotWalkedPageByPage()
    {
        using var rig = new Rig();
        rig.Board.Iommu.AnnounceMapped(new Iova(0), (ModelBoard.AperturePages - 1) << 12, new Gpa(0x100_0000_0000), AccessRights.ReadWrite);
        Assert.Equal(2, rig.Shadow.NotInstalledCount);
        Assert.Empty(rig.Device.Mappings);
    }

    [Fact]
    public void OneRemovalTakesSeveralWholeAnnouncements()
    {
        using var rig = new Rig();
        for (ulong i = 0; i < 10; i++)
            rig.Map(0x200 + i, Low + 2 * i);
        rig.Unmap(0x200, 10);
        Assert.Empty(rig.Device.Mappings);
        Assert.Empty(rig.Installed);
    }

    [Fact]
    public void ARemovalThatCutsAMappingLeavesTheRest()
    {
        using var rig = new Rig();
        rig.Map(0x200, Low, 10);
        rig.Unmap(0x203, 4);
        Assert.Equal(
            [new Mapping(new IovaPages(0x200, 3), new RamPage(0), true), new Mapping(new IovaPages(0x207, 3), new RamPage(7), true)],
            rig.Device.Mappings);
        Assert.Equal(rig.Device.Mappings, rig.Installed);
    }

    [Fact]
    public void MapUnmapAndMapAgainInOneBatchEndsWithTheLast()
    {
        using var rig = new Rig();
        rig.Board.Iommu.Announce(l =>
        {
            for (ulong i = 0; i < 5; i++)
            {
                l.Mapped(new Iova(0x5000), 0x1000, new Gpa((Low + i) << 12), AccessRights.ReadWrite);
                if (i < 4)
                    l.Unmapped(new Iova(0x5000), 0x1000);
            }
        });
        Assert.Equal([new Mapping(new IovaPages(5, 1), new RamPage(4), true)], rig.Device.Mappings);
    }

    [Fact]
    public void PassThroughMapsAllRamAndTranslationOnlyWhatIsMapped()
    {
        using var rig = new Rig();
        rig.Map(0x100, Low);
        Assert.Single(rig.Device.Mappings);
        rig.Board.SetPassThrough(true);
        Assert.Equal(
            [
                new Mapping(new IovaPages(Low, ModelBoard.BlockPages), new RamPage(0), true),
                new Mapping(new IovaPages(ModelBoard.RomGpa, 16), new RamPage(ModelBoard.BlockPages), false),
                new Mapping(new IovaPages(High, ModelBoard.BlockPages), new RamPage(ModelBoard.BlockPages), true),
            ],
            rig.Device.Mappings);
        Assert.Equal(0, rig.Board.Iommu.ListenerCount);
        rig.Board.SetPassThrough(false);
        Assert.Equal(2, rig.Board.Iommu.ListenerCount); // the interrupt window splits the region
        Assert.Empty(rig.Device.Mappings); // announced without tables, so the replay has nothing
    }

    [Fact]
    public void WhatIsMappedBeforeTheDeviceListensIsReplayed()
    {
        using var rig = new Rig(listen: false);
        rig.Board.Iommu.Tables[0x10] = (Low, AccessRights.ReadWrite);
        rig.Board.Iommu.Tables[0x2000] = (Low + 1, AccessRights.Read);
        rig.Board.Iommu.Invalidate(0, ModelBoard.AperturePages);
        rig.Board.DeviceSpace.AddListener(rig.Shadow);
        Assert.Equal(
            [new Mapping(new IovaPages(0x10, 1), new RamPage(0), true), new Mapping(new IovaPages(0x2000, 1), new RamPage(1), false)],
            rig.Device.Mappings);
        rig.Board.DeviceSpace.RemoveListener(rig.Shadow);
        Assert.Empty(rig.Device.Mappings);
        Assert.Equal(0, rig.Board.Iommu.ListenerCount);
    }

    [Fact]
    public void RemovalsOfATransactionReachTheDeviceBeforeItsAdditions()
    {
        using var rig = new Rig();
        rig.Map(Low + 1, Low + 7); // the IOVA that pass-through uses for something else
        rig.Device.Calls = [];
        rig.Board.SetPassThrough(true);
        Assert.Equal($"unmap {new IovaPages(Low + 1, 1)}", rig.Device.Calls[0]);
        Assert.Equal("flush", rig.Device.Calls[^1]);
        Assert.Equal(1, rig.Device.Calls.Count(c => c == "flush"));
    }

    [Fact]
    public void ARefusedMapIsToldAndTheGuestRunsOn()
    {
        using var rig = new Rig();
        rig.Device.RefuseMap = iova => iova.First == 0x101 ? Errno.ENOMEM : Errno.None;
        rig.Board.Iommu.Announce(l =>
        {
            for (ulong i = 0; i < 3; i++)
                l.Mapped(new Iova((0x100 + i) << 12), 0x1000, new Gpa((Low + i) << 12), AccessRights.ReadWrite);
        });
        Assert.Equal([0x100UL, 0x102UL], rig.Device.Mappings.Select(m => m.Iova.First));
        Assert.Equal(rig.Device.Mappings, rig.Installed);
        Assert.Contains("refused to map", Assert.Single(rig.Notices), StringComparison.Ordinal);
        Assert.Contains("ENOMEM", rig.Notices[0], StringComparison.Ordinal);
        lock (rig.Shadow.Gate)
            Assert.Equal(NotInstalledReason.Refused, rig.Shadow.NotInstalled.Find(0x101));
        rig.Unmap(0x100, 3);
        Assert.Empty(rig.Device.Mappings);
        Assert.Equal(0, rig.Shadow.NotInstalledCount);
    }

    [Fact]
    public void ARefusedMapThatTheSameBatchReplacesDoesNotTakeTheNewOneAway()
    {
        using var rig = new Rig();
        int maps = 0;
        rig.Device.RefuseMap = _ => maps++ == 0 ? Errno.EBUSY : Errno.None;
        rig.Board.Iommu.Announce(l =>
        {
            l.Mapped(new Iova(0x5000), 0x1000, new Gpa(Low << 12), AccessRights.ReadWrite);
            l.Unmapped(new Iova(0x5000), 0x1000);
            l.Mapped(new Iova(0x5000), 0x1000, new Gpa((Low + 1) << 12), AccessRights.ReadWrite);
        });
        Assert.Equal([new Mapping(new IovaPages(5, 1), new RamPage(1), true)], rig.Device.Mappings);
        Assert.Equal(rig.Device.Mappings, rig.Installed);
        Assert.Equal(0, rig.Shadow.NotInstalledCount);
        Assert.Null(rig.CutOffBecause);
    }

    [Fact]
    public void ADeviceThatDoesNotLetGoOfMemoryIsCutOff()
    {
        using var rig = new Rig();
        rig.Map(0x100, Low);
        rig.Map(0x200, Low + 1);
        rig.Device.RefuseUnmap = _ => Errno.EBUSY;
        rig.Unmap(0x100);
        Assert.Contains("did not let go", rig.CutOffBecause, StringComparison.Ordinal);
        Assert.True(rig.Shadow.IsLost);
        Assert.Empty(rig.Installed);
        rig.Map(0x300, Low + 2); // the guest runs on
        Assert.Empty(rig.Installed);
    }

    [Fact]
    public void TheLimitOfMappingsIsWatchedBeforeTheDeviceMustRefuse()
    {
        using var rig = new Rig(traits: new ModelDeviceTraits { MaxMappings = 3 });
        for (ulong i = 0; i < 5; i++)
            rig.Map(0x100 + i, Low + i);
        Assert.Equal(3, rig.Device.MappingCount);
        Assert.Equal(2, rig.Shadow.NotInstalledCount);
        Assert.Equal(2, rig.Shadow.RefusedCount);
        Assert.Contains("at most 3 DMA mappings", Assert.Single(rig.Notices), StringComparison.Ordinal);
        Assert.Contains("takes at most 3 DMA mappings, and the guest's iova 0x103000-0x104fff is one more", Assert.Throws<IOException>(rig.Shadow.RequireAllInstalled).Message, StringComparison.Ordinal);

        // Where one has gone the next is installed, the lowest, before the guest's removal is over.
        rig.Unmap(0x100);
        Assert.Equal([0x101ul, 0x102ul, 0x103ul], rig.Device.Mappings.SelectMany(Each));
        Assert.Equal(1, rig.Shadow.NotInstalledCount);
        rig.Map(0x100, Low + 9); // one more again
        Assert.Equal((3, 2L), (rig.Device.MappingCount, rig.Shadow.RefusedCount));
        rig.Unmap(0x104); // one that waits
        rig.Unmap(0x101);
        Assert.Equal([0x100ul, 0x102ul, 0x103ul], rig.Device.Mappings.SelectMany(Each));
        Assert.Equal(9ul, rig.Installed.Single(mapping => mapping.Iova.First == 0x100).Ram.Index);
        Assert.Equal((0L, 0L), (rig.Shadow.RefusedCount, rig.Shadow.NotInstalledCount));
        rig.Shadow.RequireAllInstalled();

        static IEnumerable<ulong> Each(Mapping mapping)
        {
            for (ulong page = mapping.Iova.First; page < mapping.Iova.End; page++)
                yield return page;
        }
    }

    [Fact]
    public void PartOfAMappingThatWaitsMayGo()
    {
        using var rig = new Rig(traits: new ModelDeviceTraits { MaxMappings = 1 });
        rig.Map(0x100, Low);
        rig.Map(0x200, Low + 10, 5);
        rig.Unmap(0x202); // the first and the last two still wait, as two
        Assert.Equal((1, 2L), (rig.Device.MappingCount, rig.Shadow.RefusedCount));
        rig.Unmap(0x100);
        Assert.Equal([new Mapping(new IovaPages(0x200, 2), new RamPage(10), true)], rig.Device.Mappings);
    }

    /// <summary>However small the pieces that a guest cuts what waits into.</summary>
    [Fact]
    public void PiecesOfWhatWaitsAreBoundedToo()
    {
        var waiting = new NotInstalled(waiting: 2);
        Assert.True(waiting.AddWaiting(new Mapping(new IovaPages(0x100, 7), new RamPage(0), true)));
        waiting.Remove(new IovaPages(0x101, 1));
        waiting.Remove(new IovaPages(0x103, 1)); // the third piece is one too many
        Assert.Equal((2, 1L, 3L), (waiting.Count, waiting.Forgotten, waiting.Refused));
        waiting.Remove(new IovaPages(0x100, 7));
        Assert.Equal((0, 0L, 0L), (waiting.Count, waiting.Forgotten, waiting.Refused));
    }

    /// <summary>Everything for something else, low before high goes: in the end the device has all of it, if that is as much as it takes.</summary>
    [Fact]
    public void AnExchangeMayPassTheLimitOnTheWay()
    {
        using var rig = new Rig(traits: new ModelDeviceTraits { MaxMappings = 100 });
        for (ulong i = 0; i < 100; i++)
            rig.Map(0x1000 + i, Low + ((i * 7) % 100));
        for (ulong i = 0; i < 100; i++)
            rig.Map(0x100 + i, Low + ((i * 3) % 100));
        Assert.Equal((100, 100L), (rig.Device.MappingCount, rig.Shadow.RefusedCount));
        rig.Unmap(0x1000, 100);
        Assert.Equal((100, 0L), (rig.Device.MappingCount, rig.Shadow.RefusedCount));
        Assert.All(rig.Installed, mapping => Assert.InRange(mapping.Iova.First, 0x100ul, 0x163ul));
        rig.Shadow.RequireAllInstalled();
    }

    /// <summary>More than twice what the device takes, removed page by page: what is left has its turn, and nothing stays counted.</summary>
    [Fact]
    public void WhatWasFarTooMuchCanBeRemovedPieceByPiece()
    {
        using var rig = new Rig(traits: new ModelDeviceTraits { MaxMappings = 1 });
        for (ulong i = 0; i < 4; i++)
            rig.Map(0x100 + (i * 2), Low + i);
        for (ulong i = 0; i < 4; i++)
        {
            Assert.Equal((1, 3L - (long)i), (rig.Device.MappingCount, rig.Shadow.RefusedCount));
            Assert.Equal(0x100 + (i * 2), Assert.Single(rig.Device.Mappings).Iova.First);
            rig.Unmap(0x100 + (i * 2));
        }

        Assert.Equal((0, 0L), (rig.Device.MappingCount, rig.Shadow.RefusedCount));
        rig.Shadow.RequireAllInstalled();
    }

    /// <summary>What is more than can be remembered is known to be missing until the guest has removed all that it may be.</summary>
    [Fact]
    public void RefusalsThatAreNotRememberedCount()
    {
        const ulong First = 0x2000;
        const ulong Remembered = NotInstalled.Limit + 2; // with the one that the device has
        using var rig = new Rig(traits: new ModelDeviceTraits { MaxMappings = 1 }, aperturePages: 1 << 17);
        for (ulong i = 0; i < Remembered + 2; i++)
            rig.Map(First + i, Low + (i % 2));
        Assert.Equal((1, (long)Remembered + 1), (rig.Device.MappingCount, rig.Shadow.RefusedCount));
        Assert.Contains(rig.Notices, notice => notice.Contains("one mapping more than can be remembered", StringComparison.Ordinal));
        rig.Unmap(First, Remembered);
        Assert.Equal((0, 2L), (rig.Device.MappingCount, rig.Shadow.RefusedCount));
        Assert.Contains("has not taken 2 of the guest's mappings", Assert.Throws<IOException>(rig.Shadow.RequireAllInstalled).Message, StringComparison.Ordinal);
        rig.Unmap(First + Remembered, 0x10);
        Assert.Equal(0, rig.Shadow.RefusedCount);
        rig.Shadow.RequireAllInstalled();
    }

    [Fact]
    public void AVIommuThatCannotAnnounceIsToldAndLeavesTheDeviceWithoutMemory()
    {
        using var rig = new Rig(listen: false);
        rig.Board.Iommu.Mute = true;
        rig.Board.DeviceSpace.AddListener(rig.Shadow);
        Assert.Equal("no caching mode", rig.Shadow.ShadowingRefused);
        Assert.Contains("cannot announce", Assert.Single(rig.Notices), StringComparison.Ordinal);
        rig.Board.SetPassThrough(true);
        Assert.Equal(3, rig.Device.MappingCount);
        rig.Board.Iommu.Mute = false;
        rig.Board.SetPassThrough(false);
        Assert.Null(rig.Shadow.ShadowingRefused);
    }

    [Fact]
    public void ADeviceThatGoesInTheMiddleOfABatchLeavesAnEmptyTable()
    {
        using var rig = new Rig();
        rig.Map(0x100, Low);
        rig.Device.Gone = true;
        rig.Unmap(0x100);
        Assert.True(rig.Shadow.IsLost);
        Assert.Equal(0, rig.Shadow.LiveCount);
        rig.Map(0x100, Low);
        rig.Board.SetPassThrough(true);
        Assert.Equal(0, rig.Shadow.LiveCount);
    }

    [Fact]
    public void ALongSeriesIsCutIntoBatchesAndArrivesWhole()
    {
        using var rig = new Rig();
        const ulong Count = DmaShadow.BatchLimit * 2 + 100;
        rig.Device.Calls = [];
        rig.Board.Iommu.Announce(l =>
        {
            for (ulong i = 0; i < Count; i++)
                l.Mapped(new Iova((0x1000 + i) << 12), 0x1000, new Gpa((Low + i % ModelBoard.BlockPages) << 12), AccessRights.ReadWrite);
        });
        Assert.Equal((int)Count, rig.Device.MappingCount);
        Assert.Equal(3, rig.Device.Calls.Count(c => c == "flush"));
    }

    [Fact]
    public void SteadyMapAndUnmapAllocatesNothing()
    {
        using var rig = new Rig();
        var quiet = new QuietMapper();
        var shadow = new DmaShadow("dev0", quiet, _ => { }, rig.Board.Ram, new GpaResolver(rig.Board.Topology.System), new NoticeBoard());
        Churn(1000);
        Assert.Equal(0, Allocations.Of(() => Churn(20_000)));
        Assert.True(quiet.Unmaps >= 21_000, $"only {quiet.Unmaps} unmaps");

        void Churn(int count)
        {
            for (int i = 0; i < count; i++)
            {
                shadow.GuestMapped(new Iova(0x5000), 0x1000, new Gpa(Low << 12), AccessRights.ReadWrite);
                shadow.Commit();
                shadow.GuestUnmapped(new Iova(0x5000), 0x1000);
                shadow.Commit();
            }
        }
    }

    private sealed class QuietMapper : IDmaMapper
    {
        public int Unmaps { get; private set; }

        public int MaxMappings => 100;

        public void QueueMap(IovaPages iova, RamBlock block, ulong offset, bool writable)
        {
        }

        public void QueueUnmap(IovaPages iova) => Unmaps++;

        public void Flush(List<DmaFailure> failures)
        {
        }
    }
}
