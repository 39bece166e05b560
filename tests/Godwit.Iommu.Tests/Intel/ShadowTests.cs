using Godwit.Memory;
using static Godwit.Iommu.Tests.GuestDriver;

namespace Godwit.Iommu.Tests;

public class ShadowTests
{
    [Fact]
    public void AnInvalidationSaysNothingOfWhatIsTheSame()
    {
        using GuestDriver guest = Start(out ulong table, out ShadowUser user);
        guest.Map(table, 0x1000, 0x8000);
        guest.Map(table, 0x2000, 0x9000, AccessRights.Read);
        guest.Invalidate(IotlbPages(1, 0, 4));
        Assert.Equal((2, 0), (user.MapEvents, user.UnmapEvents));
        Assert.Equal((0x1000ul, 0x9000ul, AccessRights.Read), user.Live[0x2000]);
        guest.Invalidate(IotlbPages(1, 0, 4), IotlbDomain(1), IotlbGlobal, ContextGlobal);
        Assert.Equal((2, 0), (user.MapEvents, user.UnmapEvents));
        guest.Map(table, 0x2000, 0x9000); // rights
        guest.Map(table, 0x1000, 0xA000); // target
        guest.Invalidate(IotlbPages(1, 0, 1));
        Assert.Equal((3, 1), (user.MapEvents, user.UnmapEvents)); // 0x2000 lies outside
        guest.Invalidate(IotlbPages(1, 0x2000, 0));
        Assert.Equal((4, 2), (user.MapEvents, user.UnmapEvents));
        Assert.Equal(2, guest.Iommu.Churn.Live);
        Assert.Equal((4, 2), (guest.Iommu.Churn.Mapped, guest.Iommu.Churn.Unmapped));
    }

    [Fact]
    public void OnlyTheDomainNamedIsLookedAt()
    {
        using GuestDriver guest = Start(out ulong table, out ShadowUser user);
        guest.Map(table, 0x1000, 0x8000);
        guest.Invalidate(IotlbPages(2, 0x1000, 0), IotlbDomain(2));
        Assert.Empty(user.Live);
        guest.Invalidate(IotlbDomain(1));
        Assert.Single(user.Live);
    }

    [Fact]
    public void NeighboursGoInOneEvent()
    {
        using GuestDriver guest = Start(out ulong table, out ShadowUser user);
        for (ulong page = 0; page < 64; page++)
            guest.Map(table, 0x10_0000 + (page << 12), 0x20_0000 + (page << 12));
        int batches = user.Batches;
        guest.Invalidate(IotlbPages(1, 0x10_0000, 6));
        // One batch, told to the users of both sides of the window.
        Assert.Equal((64, 0, 2), (user.MapEvents, user.UnmapEvents, user.Batches - batches));
        for (ulong page = 0; page < 64; page++)
        {
            if (page != 10)
                guest.Unmap(table, 0x10_0000 + (page << 12));
        }

        guest.Invalidate(IotlbPages(1, 0x10_0000, 6));
        Assert.Equal(2, user.UnmapEvents);
        Assert.Equal(0x10_A000ul, Assert.Single(user.Live).Key);
    }

    [Fact]
    public void LargePagesSplitAndJoin()
    {
        using GuestDriver guest = Start(out ulong table, out ShadowUser user);
        guest.Map(table, 0x60_0000, 0x80_0000, level: 2);
        guest.Invalidate(IotlbPages(1, 0x60_0000, 9));
        Assert.Equal((0x20_0000ul, 0x80_0000ul, AccessRights.ReadWrite), user.Live[0x60_0000]);
        // Split: small pages where the large one was; one page of it invalidated is enough to see all of it.
        guest.Map(table, 0x60_1000, 0x80_1000);
        guest.Map(table, 0x60_5000, 0x80_5000);
        guest.Map(table, 0x7F_F000, 0x9F_F000);
        guest.Invalidate(IotlbPages(1, 0x60_5000, 0));
        Assert.Equal(
            [(0x60_1000ul, 0x80_1000ul), (0x60_5000ul, 0x80_5000ul), (0x7F_F000ul, 0x9F_F000ul)],
            user.Live.Select(item => (item.Key, item.Value.Target)));
        // Join again, seen from a page in the middle that was not mapped before.
        guest.Map(table, 0x60_0000, 0x80_0000, level: 2);
        guest.Invalidate(IotlbPages(1, 0x68_0000, 0));
        Assert.Equal(0x20_0000ul, Assert.Single(user.Live).Value.Length);
    }

    /// <summary>A 1 GiB page over the interrupt window is announced in two pieces, one to each side's user.</summary>
    [Fact]
    public void ALeafOverTheWindowIsClipped()
    {
        using GuestDriver guest = Start(out ulong table, out ShadowUser user);
        guest.Map(table, 0xC000_0000, 0x40_0000_0000 & ~0x3FFF_FFFFul, level: 3);
        guest.Invalidate(IotlbPages(1, 0xC000_0000, 18));
        Assert.Equal(
            [(0xC000_0000ul, 0x3EE0_0000ul, 0x40_0000_0000ul), (0xFEF0_0000ul, 0x110_0000ul, 0x40_3EF0_0000ul)],
            user.Live.Select(item => (item.Key, item.Value.Length, item.Value.Target)));
        guest.Unmap(table, 0xC000_0000, level: 3);
        guest.Invalidate(IotlbPages(1, 0xC000_0000, 18));
        Assert.Empty(user.Live);
    }

    [Fact]
    public void AWaitCompletesAfterItsUnmapsAndNotAfterLaterOnes()
    {
        using GuestDriver guest = Start(out ulong table, out ShadowUser user);
        guest.Map(table, 0x1000, 0x8000);
        guest.Map(table, 0x2000, 0x9000);
        guest.Invalidate(IotlbDomain(1));
        guest.Unmap(table, 0x1000);
        guest.Unmap(table, 0x2000);
        var seen = new List<(uint First, uint Second, int Live)>();
        ulong first = guest.AllocateTable(), second = guest.AllocateTable();
        user.OnBatchEnd = () => seen.Add(((uint)guest.Read64(first), (uint)guest.Read64(second), user.Live.Count));
        guest.Queued(IotlbPages(1, 0x1000, 0), guest.Wait(1, first), IotlbPages(1, 0x2000, 0), guest.Wait(1, second));
        guest.Ring();
        // Each batch ends for the users of both sides of the window.
        Assert.Equal([(0u, 0u, 1), (0u, 0u, 1), (1u, 0u, 0), (1u, 0u, 0)], seen);
        Assert.Equal((1ul, 1ul), (guest.Read64(first), guest.Read64(second)));
    }

    /// <summary>An access that has its translation and is not done holds the wait up: the guest may free the page only then.</summary>
    [Theory]
    [InlineData("page")]
    [InlineData("domain")]
    [InlineData("context")]
    [InlineData("register")]
    [InlineData("translation off")]
    public void AnInvalidationWaitsForAccessesInProgress(string by)
    {
        using GuestDriver guest = Start(out ulong table, out ShadowUser user);
        guest.Map(table, 0x1000, 0x8000);
        guest.Invalidate(IotlbDomain(1));
        using var slow = new SlowTranslation();
        AddressSpace space = guest.Topology.CreateAddressSpace("slow", slow);
        var device = new Thread(() => space.ReadUInt32(default, out _, TransactionAttributes.Vmm));
        device.Start();
        Assert.True(slow.Entered.Wait(TimeSpan.FromSeconds(60)));
        // Let go shortly before the unit gets to its wait; what follows in the access takes longer than the rest of the invalidation.
        guest.Unmap(table, 0x1000);
        if (by == "register")
            guest.Command(0, clear: Qie);
        slow.Go.Set();
        switch (by)
        {
            case "page":
                guest.Invalidate(IotlbPages(1, 0x1000, 0));
                break;
            case "domain":
                guest.Invalidate(IotlbDomain(1));
                break;
            case "context":
                guest.ClearContext(guest.Sid());
                guest.Invalidate(ContextDevice(guest.Sid()));
                break;
            case "register":
                guest.WriteRegister64(IotlbReg, (1UL << 63) | (1UL << 60));
                break;
            default:
                guest.Command(0, clear: Te);
                break;
        }

        Assert.True(slow.Done);
        Assert.Empty(user.Live);
        Assert.True(device.Join(TimeSpan.FromSeconds(60)));
    }

    [Fact]
    public void MovingToAnotherDomainUnmapsTheOldOneFirst()
    {
        using GuestDriver guest = Start(out ulong table, out ShadowUser user);
        guest.Map(table, 0x1000, 0x8000);
        guest.Map(table, 0x3000, 0x8000);
        guest.Invalidate(IotlbDomain(1));
        ulong other = guest.AllocateTable();
        guest.Map(other, 0x1000, 0xA000);
        guest.Map(other, 0x2000, 0xB000);
        guest.SetContext(guest.Sid(), other, 2);
        guest.Invalidate(ContextDevice(guest.Sid()), IotlbDomain(2));
        Assert.Equal([(0x1000ul, 0xA000ul), (0x2000ul, 0xB000ul)], user.Live.Select(item => (item.Key, item.Value.Target)));
        guest.ClearContext(guest.Sid());
        guest.Invalidate(ContextDevice(guest.Sid()));
        Assert.Empty(user.Live);
        Assert.True(user.Translated);
    }

    [Fact]
    public void TargetsOutsideRamAreAnnouncedToo()
    {
        using GuestDriver guest = Start(out ulong table, out ShadowUser user);
        guest.Map(table, 0x1000, 0xE000_0000);
        guest.Invalidate(IotlbDomain(1));
        Assert.Equal(0xE000_0000ul, Assert.Single(user.Live).Value.Target);
    }

    [Fact]
    public void SeveralUsersOfOneDeviceSeeTheirRanges()
    {
        using GuestDriver guest = Start(out ulong table, out ShadowUser user);
        guest.Map(table, 0x1000, 0x8000);
        guest.Invalidate(IotlbDomain(1));
        var second = new ShadowUser(guest.Functions[0].DmaSpace);
        Assert.Equal(user.Live, second.Live);
        guest.Functions[0].DmaSpace.RemoveListener(user);
        Assert.Empty(user.Live);
        guest.Map(table, 0x2000, 0x9000);
        guest.Invalidate(IotlbDomain(1));
        Assert.Empty(user.Live);
        Assert.Equal([0x1000ul, 0x2000ul], second.Live.Keys);
        guest.Functions[0].DmaSpace.RemoveListener(second);
        Assert.Equal(0, guest.Iommu.Churn.Live);
        Assert.Equal(guest.Iommu.Churn.Mapped, guest.Iommu.Churn.Unmapped);
    }

    /// <summary>What the host has is not known then: no wait completes any more, though the listener would not throw again.</summary>
    [Fact]
    public void AfterAListenerThatThrewNothingIsTold()
    {
        using GuestDriver guest = Start(out ulong table, out ShadowUser user);
        guest.Map(table, 0x1000, 0x8000);
        user.OnBatchEnd = () => throw new InvalidOperationException("the host refused");
        guest.Queued(IotlbDomain(1), guest.Wait(1));
        Assert.Throws<InvalidOperationException>(guest.Ring);
        user.OnBatchEnd = null;
        Assert.Throws<InvalidOperationException>(guest.Ring);
        Assert.Equal(0ul, guest.Read64(guest.StatusWord));
        // No lock is left held.
        var elsewhere = new Thread(() => guest.Iommu.Pause());
        elsewhere.Start();
        Assert.True(elsewhere.Join(TimeSpan.FromSeconds(60)));
    }

    /// <summary>A translation that takes its time, inside the guard of the access.</summary>
    private sealed class SlowTranslation() : IommuRegion("slow", MaxSize), IDisposable
    {
        private bool _done;

        internal ManualResetEventSlim Entered { get; } = new();

        internal ManualResetEventSlim Go { get; } = new();

        internal bool Done => Volatile.Read(ref _done);

        public override IommuAttributes Attributes => default;

        public override IommuTranslation Translate(Iova iova, AccessRights wanted, in TransactionAttributes attributes)
        {
            Entered.Set();
            Go.Wait(TimeSpan.FromSeconds(60));
            for (int spin = 0; spin < 20_000; spin++)
                Thread.SpinWait(1_000);
            Volatile.Write(ref _done, true);
            return default;
        }

        public override void AddListener(IIommuListener listener, BusRange range) => throw new NotSupportedException();

        public override void RemoveListener(IIommuListener listener) => throw new NotSupportedException();

        public void Dispose()
        {
            Entered.Dispose();
            Go.Dispose();
        }
    }

    internal static GuestDriver Start(out ulong table, out ShadowUser user)
    {
        var guest = new GuestDriver();
        table = guest.AllocateTable();
        guest.SetContext(guest.Sid(), table, 1);
        guest.SetRootAndEnable();
        user = new ShadowUser(guest.Functions[0].DmaSpace);
        return guest;
    }
}
