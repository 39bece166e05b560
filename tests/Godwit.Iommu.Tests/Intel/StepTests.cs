using Godwit.Iommu.Intel;
using Godwit.Memory;
using static Godwit.Iommu.Tests.GuestDriver;

namespace Godwit.Iommu.Tests;

/// <summary>Long invalidations are made in steps: none holds the unit's lock for more than some thousand leaves, and the end is the same.</summary>
public class StepTests
{
    private const int Pages = 40_000;

    [Theory]
    [InlineData(TableKind.Legacy)]
    [InlineData(TableKind.ScalableFirst)]
    public void ADomainSwitchIsManySteps(TableKind kind)
    {
        using GuestDriver guest = Start(kind, out ulong table, out Counter user);
        ulong other = guest.AllocateTable();
        Fill(guest, other, 0x80_0000);
        guest.Invalidate(IotlbDomain(1));
        Assert.Equal(Pages, user.Live);
        user.Reset();

        guest.SetContext(guest.Sid(), other, 2);
        guest.Invalidate(ContextDevice(guest.Sid()), IotlbDomain(2));
        Assert.Equal(Pages, user.Live);
        Assert.Equal(Pages, user.Mapped);
        Assert.InRange(user.MostInOneBatch, 1, IntelDmaRegion.LeavesPerStep * 2); // each leaf is an unmap and a map
        Assert.Equal(0, guest.Iommu.Churn.Refused);
        user.Reset();

        // All gone: one event for each step at most, as neighbours go together.
        guest.ClearContext(guest.Sid());
        guest.Invalidate(ContextDevice(guest.Sid()));
        Assert.Equal(0, user.Live);
        Assert.InRange(user.Batches, Pages / IntelDmaRegion.LeavesPerStep, 40);
        Assert.Equal(0, guest.Iommu.Churn.Live);
        _ = table;
    }

    /// <summary>A 1 GiB page in place of 40,000 small ones, and back: whole announcements are replaced, over all steps.</summary>
    [Fact]
    public void ALargePageTakesThePlaceOfManySmallOnes()
    {
        using GuestDriver guest = Start(TableKind.Legacy, out ulong table, out Counter user);
        ulong entry = guest.EntryOf(table, 0, level: 3);
        ulong small = guest.Read64(entry);
        guest.Write64(entry, 0x4000_0000 | 0x83);
        user.Reset();
        guest.Invalidate(IotlbPages(1, 0x12_3000, 0)); // one page of it is enough
        Assert.Equal((1, 1), (user.Live, user.Mapped));
        Assert.InRange(user.MostInOneBatch, 1, 2);
        guest.Write64(entry, small);
        guest.Invalidate(IotlbPages(1, 0x12_3000, 0));
        Assert.Equal(Pages, user.Live);
        Assert.InRange(user.MostInOneBatch, 1, IntelDmaRegion.LeavesPerStep + 1);
    }

    /// <summary>Empty tables cost steps too: what was mapped before them and behind them is withdrawn all the same.</summary>
    [Fact]
    public void ManyEmptyTablesAreManySteps()
    {
        using GuestDriver guest = Start(TableKind.Legacy, out ulong table, out Counter user);
        ulong empty = guest.AllocateTable(), middle = guest.AllocateTable();
        for (ulong index = 0; index < 512; index++)
            guest.Write64(middle + (index * 8), empty | 3);
        for (ulong index = 0; index < 12; index++)
            guest.Write64(table + (index * 8), middle | 3); // 12 x 512 empty tables where the pages were
        guest.Map(table, 0x20_0000_0000, 0x8000);
        guest.Invalidate(IotlbDomain(1));
        Assert.Equal(0, user.Live);
        Assert.Equal(1, guest.Iommu.Churn.Live); // above the interrupt window, where this listener does not look
        Assert.Equal(0, guest.Iommu.Churn.Refused);
    }

    private static GuestDriver Start(TableKind kind, out ulong table, out Counter user)
    {
        var guest = new GuestDriver(new IntelIommuOptions { AddressWidth = kind == TableKind.Legacy ? 39 : 48, ScalableMode = kind != TableKind.Legacy }, kind: kind);
        table = guest.AllocateTable();
        Fill(guest, table, 0);
        guest.SetContext(guest.Sid(), table, 1);
        guest.SetRootAndEnable();
        user = new Counter();
        guest.Functions[0].DmaSpace.AddListener(user);
        return guest;
    }

    private static void Fill(GuestDriver guest, ulong table, ulong gpa)
    {
        for (ulong page = 0; page < Pages; page++)
            guest.Map(table, page << 12, gpa + ((page % 1000) << 12));
    }

    private sealed class Counter : IMemoryListener, IIommuListener
    {
        private int _inBatch;

        internal int Live { get; private set; }

        internal int Mapped { get; private set; }

        internal int Batches { get; private set; }

        internal int MostInOneBatch { get; private set; }

        internal void Reset() => (Mapped, Batches, MostInOneBatch) = (0, 0, 0);

        public void RegionAdded(in FlatRange range)
        {
            if (range.Region is IommuRegion region && range.Range.First.Value == 0)
                region.AddListener(this, range.Range);
        }

        public void RegionRemoved(in FlatRange range)
        {
            if (range.Region is IommuRegion region && range.Range.First.Value == 0)
                region.RemoveListener(this);
        }

        public void BatchBegin() => _inBatch = 0;

        void IIommuListener.Mapped(Iova iova, ulong length, Gpa target, AccessRights rights)
        {
            Live++;
            Mapped++;
            _inBatch++;
        }

        public void Unmapped(Iova iova, ulong length)
        {
            Live -= length >= 0x3000_0000 ? 1 : (int)(length >> 12);
            _inBatch++;
        }

        public void BatchEnd()
        {
            Batches++;
            MostInOneBatch = Math.Max(MostInOneBatch, _inBatch);
        }
    }
}
