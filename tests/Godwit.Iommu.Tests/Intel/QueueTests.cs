using Godwit.Memory;
using static Godwit.Iommu.Tests.GuestDriver;

namespace Godwit.Iommu.Tests;

public class QueueTests
{
    private const uint QueueError = 1 << 4;

    [Fact]
    public void TheHeadFollowsAndWraps()
    {
        using var guest = new GuestDriver();
        guest.EnableQueue();
        for (int round = 0; round < 300; round++)
            guest.Invalidate(IotlbGlobal, ContextGlobal);
        Assert.Equal((300 * 3) % 256, guest.Tail);
    }

    [Fact]
    public void AllOfABigQueueRunsAtOnce()
    {
        using var guest = new GuestDriver();
        const ulong Base = 0x100_0000; // 2^15 descriptors, 512 KiB
        for (uint index = 0; index < 0x7FFF; index++)
        {
            guest.Write64(Base + (index * 16), 5u | (1u << 5) | ((ulong)index << 32));
            guest.Write64(Base + (index * 16) + 8, guest.StatusWord);
        }

        guest.WriteRegister64(Iqt, 0x7FFFul << 4); // the tail is there already when the queue is turned on
        guest.WriteRegister64(Iqa, Base | 7);
        guest.Command(Qie);
        Assert.Equal(0x7FFFul << 4, guest.ReadRegister64(Iqh));
        Assert.Equal(0x7FFEul, guest.Read64(guest.StatusWord));
    }

    public static TheoryData<string, ulong, ulong> BadDescriptors => new()
    {
        { "type 0", 0, 0 },
        { "device TLB, which is not offered", 3, 0 },
        { "interrupt entry cache, which is not offered", 4, 0 },
        { "PASID cache", 7, 0 },
        { "type 15", 15, 0 },
        { "type 0x12", 2 | (1 << 9), 0 },
        { "context with granularity 0", 1, 0 },
        { "context with reserved bits", 1 | (1 << 4) | (1ul << 63), 0 },
        { "context with a second word", 1 | (1 << 4), 1 },
        { "IOTLB with granularity 0", 2, 0 },
        { "IOTLB with reserved bits", 2 | (1 << 4) | (1ul << 32), 0 },
        { "IOTLB beyond MAMV", 2 | (3 << 4), 19 },
        { "wait with reserved bits", 5 | (1 << 5) | (1 << 20), 0x1000 },
        { "wait with an unaligned address", 5 | (1 << 5), 0x1001 },
        { "wait for nothing", 5, 0 },
    };

    [Theory]
    [MemberData(nameof(BadDescriptors))]
    public void ABadDescriptorStopsTheQueueUntilTheErrorIsCleared(string what, ulong low, ulong high)
    {
        using var guest = new GuestDriver();
        guest.Write32(Fedata, 0x66);
        guest.Write32(Feaddr, 0xFEE0_0000);
        guest.Write32(Fectl, 0);
        guest.EnableQueue();
        guest.Queued(guest.Wait(1), (low, high), guest.Wait(2));
        guest.Ring();
        Assert.True((guest.Read32(Fsts) & QueueError) != 0, what);
        Assert.Equal(1ul << 4, guest.ReadRegister64(Iqh));
        Assert.Equal(1ul, guest.Read64(guest.StatusWord));
        Assert.Equal(0x66u, Assert.Single(guest.Messages.All).Data);
        guest.Ring(); // still stopped
        Assert.Equal(1ul << 4, guest.ReadRegister64(Iqh));

        // What Linux does: puts a good descriptor in its place and clears the error.
        guest.Write64(guest.Queue + 16, 5u | (1u << 5) | (3ul << 32));
        guest.Write64(guest.Queue + 24, guest.StatusWord);
        guest.Write32(Fsts, QueueError);
        Assert.Equal(3ul << 4, guest.ReadRegister64(Iqh));
        Assert.Equal(2ul, guest.Read64(guest.StatusWord));
        Assert.Equal(0u, guest.Read32(Fsts) & QueueError);
    }

    [Theory]
    [InlineData(0x4000_0000ul, 1u)] // no RAM there
    [InlineData(0xFED9_0000ul, 1u)] // the unit's own registers
    [InlineData(0x100_0000ul, 300u)] // tail behind the end
    public void AQueueThatCannotBeReadIsAnError(ulong address, uint tail)
    {
        using var guest = new GuestDriver();
        guest.WriteRegister64(Iqa, address);
        guest.Command(Qie);
        guest.Write32(Iqt, tail << 4);
        Assert.Equal(QueueError, guest.Read32(Fsts) & QueueError);
        Assert.Equal(0ul, guest.ReadRegister64(Iqh));
        // Off and on again somewhere else.
        guest.Command(0, clear: Qie);
        guest.Write32(Fsts, QueueError);
        guest.EnableQueue();
        guest.Invalidate(IotlbGlobal);
    }

    [Fact]
    public void ACompletionInterruptsOnceUntilCleared()
    {
        using var guest = new GuestDriver();
        guest.Write32(Iedata, 0x77);
        guest.Write32(Ieaddr, 0xFEE0_0000);
        guest.EnableQueue();
        (ulong, ulong) interrupt = (5u | (1u << 4), 0);
        guest.Invalidate(interrupt);
        Assert.Equal(1u, guest.Read32(Ics));
        Assert.Equal(3u << 30, guest.Read32(Iectl)); // masked, pending
        Assert.Empty(guest.Messages.All);
        guest.Write32(Iectl, 0);
        Assert.Equal(0x77u, Assert.Single(guest.Messages.All).Data);
        guest.Invalidate(interrupt);
        Assert.Single(guest.Messages.All);
        guest.Write32(Ics, 1);
        Assert.Equal(0u, guest.Read32(Ics));
        guest.Invalidate(interrupt);
        Assert.Equal(2, guest.Messages.All.Count);
    }

    [Fact]
    public void StatusGoesToRamOnly()
    {
        using var guest = new GuestDriver();
        guest.EnableQueue();
        guest.Invalidate(guest.Wait(0x55, 0xFED9_0020), guest.Wait(0x56, 0x4000_0000), guest.Wait(0x57, 0x9000), (5ul | (1ul << 6), 0ul));
        Assert.Equal(0ul, guest.ReadRegister64(Rtaddr));
        Assert.Equal(0x57ul, guest.Read64(0x9000));
    }

    [Fact]
    public void RegisterInvalidationWorksWithoutTheQueueOnly()
    {
        using var guest = new GuestDriver();
        ulong table = guest.AllocateTable();
        guest.SetContext(guest.Sid(), table, 5);
        guest.Map(table, 0x1000, 0x8000);
        guest.WriteRegister64(Rtaddr, guest.Root);
        guest.Command(Srtp);
        guest.Command(Te);
        Assert.Equal(MemoryResult.Ok, guest.DmaRead(0x1000, out _));
        guest.Unmap(table, 0x1000);
        guest.WriteRegister64(Iva, 0x1000);
        guest.WriteRegister64(IotlbReg, (1UL << 63) | (3UL << 60) | (5UL << 32));
        Assert.Equal(3ul, (guest.ReadRegister64(IotlbReg) >> 57) & 3);
        Assert.Equal(MemoryResult.AccessError, guest.DmaRead(0x1000, out _));
        guest.WriteRegister64(Iva, 19);
        guest.WriteRegister64(IotlbReg, (1UL << 63) | (3UL << 60) | (5UL << 32));
        Assert.Equal(0ul, (guest.ReadRegister64(IotlbReg) >> 57) & 3); // refused
        // By halves: the high one triggers.
        guest.Write32(Ccmd, 0);
        guest.Write32(Ccmd + 4, (1u << 31) | (2u << 29));
        Assert.Equal(2ul, (guest.ReadRegister64(Ccmd) >> 59) & 3);
        guest.EnableQueue();
        guest.WriteRegister64(Ccmd, (1UL << 63) | (1UL << 61));
        Assert.Equal(1ul, guest.ReadRegister64(Ccmd) >> 63);
    }

    /// <summary>Tables that share subtables unfold to 2^36 leaves: each invalidation and each run stays bounded all the same.</summary>
    [Fact]
    public void AliasedTablesDoNotHoldACpu()
    {
        using var guest = new GuestDriver(new Iommu.Intel.IntelIommuOptions { AddressWidth = 48 });
        ulong bottom = guest.AllocateTable();
        ulong previous = bottom;
        for (int level = 2; level <= 4; level++)
        {
            ulong table = guest.AllocateTable();
            for (ulong index = 0; index < 512; index++)
                guest.Write64(table + (index * 8), previous | 3);
            previous = table;
        }

        guest.SetContext(guest.Sid(), previous, 1);
        guest.SetRootAndEnable();
        guest.Functions[0].DmaSpace.AddListener(new Counter());
        for (int index = 0; index < 200; index++)
            guest.Queued(IotlbDomain(1));
        guest.Ring();
        Assert.Equal(QueueError, guest.Read32(Fsts) & QueueError);
        Assert.InRange(guest.ReadRegister64(Iqh) >> 4, 1ul, 50ul);
        Assert.NotEqual(0, guest.Iommu.Churn.Refused);

        // Now with leaves: the record is bounded by RAM too.
        for (ulong index = 0; index < 64; index++)
            guest.Write64(bottom + (index * 8), 0x8000 | 3);
        guest.Command(0, clear: Qie);
        guest.Write32(Fsts, QueueError);
        guest.EnableQueue();
        guest.Invalidate(IotlbDomain(1));
        ulong pages = RamSize >> 12;
        Assert.InRange(guest.Iommu.Churn.Live, 1, (long)(pages * 2) + 0x1_0000);
        // And the guest can mend it.
        for (ulong index = 0; index < 512; index++)
            guest.Write64(previous + (index * 8), 0);
        guest.Invalidate(IotlbDomain(1));
        Assert.Equal(0, guest.Iommu.Churn.Live);
    }

    private sealed class Counter : IMemoryListener, IIommuListener
    {
        public void RegionAdded(in FlatRange range) => (range.Region as IommuRegion)?.AddListener(this, range.Range);

        public void RegionRemoved(in FlatRange range) => (range.Region as IommuRegion)?.RemoveListener(this);

        public void Mapped(Iova iova, ulong length, Gpa target, AccessRights rights)
        {
        }

        public void Unmapped(Iova iova, ulong length)
        {
        }
    }
}
