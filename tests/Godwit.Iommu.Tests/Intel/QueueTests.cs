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
        { "host-permission-table cache, which is not offered", 10, 0 },
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
        Assert.Equal(0x66, Assert.Single(guest.Events.All).Vector);
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

    public static TheoryData<string, ulong, ulong, int> BadWideDescriptors => new()
    {
        { "type 0", 0, 0, 3 },
        { "device TLB, which is not offered", 3, 0, 3 },
        { "interrupt entry cache, which is not offered", 4, 0, 3 },
        { "PASID-based device TLB, which is not offered", 8, 0, 3 },
        { "page-group response, which is not offered", 9, 0, 3 },
        { "PASID cache with granularity 2", 7 | (2 << 4), 0, 4 },
        { "PASID cache with reserved bits", 7 | (1ul << 52), 0, 4 },
        { "PASID cache with a second word", 7, 1, 4 },
        { "PASID-based IOTLB with granularity 0", 6, 0, 4 },
        { "PASID-based IOTLB with granularity 1", 6 | (1 << 4), 0, 4 },
        { "PASID-based IOTLB with reserved bits", 6 | (2 << 4) | (1 << 6), 0, 4 },
        { "PASID-based IOTLB with reserved bits in the second word", 6 | (2 << 4), 1 << 7, 4 },
        { "IOTLB with granularity 0", 2, 0, 4 },
        { "wait with PD, which is not offered", 5 | (1 << 5) | (1 << 7), 0x1000, 4 },
    };

    [Theory]
    [MemberData(nameof(BadWideDescriptors))]
    public void ABadWideDescriptorIsToldByIqei(string what, ulong low, ulong high, int info)
    {
        using var guest = Scalable(deviceIotlb: false);
        guest.Queued(guest.Wait(1), (low, high), guest.Wait(2));
        guest.Ring();
        Assert.True((guest.Read32(Fsts) & QueueError) != 0, what);
        Assert.Equal((ulong)info, guest.ReadRegister64(0xB0) & 0xF);
        Assert.Equal(1ul << 5, guest.ReadRegister64(Iqh));
        guest.Write64(guest.Queue + 32, PasidCache(3, 0, 0).Item1);
        guest.Write64(guest.Queue + 40, 0);
        guest.Write32(Fsts, QueueError);
        Assert.Equal(2ul, guest.Read64(guest.StatusWord));
        Assert.Equal(3ul << 5, guest.ReadRegister64(Iqh));
    }

    /// <summary>
    /// Of each type a descriptor that does nothing wrong, and the bits that the specification reserves, written out a second time (VT-d 6.5.2.1 to
    /// 6.5.2.9; PFSID too, as ECAP.DIT is 0, and PD, as ECAP.PDS is 0).
    /// </summary>
    public static TheoryData<int, ulong, ulong, ulong, ulong> Descriptors => new()
    {
        { 1, 1 << 4, 0, 0xFFFC_0000_0000_F1C0, ulong.MaxValue },
        { 2, 1 << 4, 0, 0xFFFF_FFFF_0000_F100, 0xF80 },
        { 3, 0, 0, 0xFFFF_0000_FFE0_F1F0, 0xFFE },
        { 4, 0, 0, 0xFFFF_0000_07FF_F1E0, ulong.MaxValue },
        { 5, 0, 0, 0x0000_0000_FFFF_F180, 0x3 },
        { 6, 2 << 4, 0, 0xFFF0_0000_0000_F1C0, 0xF80 },
        { 7, 3 << 4, 0, 0xFFF0_0000_0000_F1C0, ulong.MaxValue },
        { 8, 0, 0, 0xFFF0_0000_0000_F000, 0x7FE },
    };

    [Theory]
    [MemberData(nameof(Descriptors))]
    public void EachBitOfADescriptorIsWhatTheSpecificationSays(int type, ulong low, ulong high, ulong reservedLow, ulong reservedHigh)
    {
        const ulong TypeBits = 0xE0F;
        ulong granularity = type is 3 or 4 or 5 or 8 ? 0ul : 3 << 4;
        using var guest = new GuestDriver(
            new Iommu.Intel.IntelIommuOptions { AddressWidth = 48, ScalableMode = true, DeviceIotlb = true, InterruptRemapping = true }, kind: TableKind.ScalableSecond);
        guest.SetRootAndEnable();
        for (int bit = 0; bit < 128; bit++)
        {
            ulong one = 1UL << (bit % 64);
            if (bit < 64 && ((TypeBits | granularity) & one) != 0)
                continue; // another type, or perhaps a granularity that is none
            guest.Command(0, clear: Qie);
            guest.Write32(Fsts, uint.MaxValue);
            guest.EnableQueue();
            guest.Queued(((uint)type | low | (bit < 64 ? one : 0), high | (bit < 64 ? 0 : one)));
            guest.Ring();
            bool reserved = ((bit < 64 ? reservedLow : reservedHigh) & one) != 0;
            Assert.Equal((bit, reserved), (bit, (guest.Read32(Fsts) & QueueError) != 0));
            Assert.True(!reserved || (guest.ReadRegister64(0xB0) & 0xF) == 4);
            Assert.Equal((bit, reserved ? 0ul : 1ul << 5), (bit, guest.ReadRegister64(Iqh)));
        }
    }

    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public void TheUpperHalfOfAWideDescriptorIsZero(int word)
    {
        using var guest = Scalable(deviceIotlb: false);
        guest.Queued(IotlbGlobal, guest.Wait(1));
        guest.Write64(guest.Queue + ((ulong)word * 8), 1);
        guest.Ring();
        Assert.Equal(QueueError, guest.Read32(Fsts) & QueueError);
        Assert.Equal(4ul, guest.ReadRegister64(0xB0) & 0xF);
        Assert.Equal(0ul, guest.ReadRegister64(Iqh));
    }

    [Fact]
    public void TheTailOfAWideQueueIsAligned()
    {
        using var guest = Scalable(deviceIotlb: false);
        guest.Write32(Iqt, 0x10);
        Assert.Equal(QueueError, guest.Read32(Fsts) & QueueError);
        Assert.Equal(6ul, guest.ReadRegister64(0xB0) & 0xF);
    }

    [Fact]
    public void ATableModeThatIsReservedStopsTheQueue()
    {
        using var guest = new GuestDriver();
        guest.WriteRegister64(Rtaddr, guest.Root | (2 << 10));
        guest.Command(Srtp);
        guest.EnableQueue();
        guest.Queued(guest.Wait(1));
        guest.Ring();
        Assert.Equal(7ul, guest.ReadRegister64(0xB0) & 0xF);
        guest.WriteRegister64(Rtaddr, guest.Root);
        guest.Command(Srtp);
        guest.Write32(Fsts, QueueError);
        Assert.Equal(1ul, guest.Read64(guest.StatusWord));
    }

    /// <summary>A device that is there answers, one that is not does not: the time-out stops the queue behind the descriptor until it is cleared.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void ADeviceTlbThatIsNotThereIsATimeout(bool pasid)
    {
        using var guest = Scalable(deviceIotlb: true);
        const uint Timeout = 1 << 6;
        Assert.False(guest.Functions[0].DmaSpace.IsSystemMemory); // the unit has met it
        (ulong, ulong) Of(ushort sid) => pasid ? (8u | ((ulong)sid << 16), 1u << 11) : (3u | ((ulong)sid << 32), 0x7FFF_F001);
        guest.Invalidate(Of(guest.Sid()));
        guest.Queued(Of(0x4321), guest.Wait(0x99));
        guest.Ring();
        Assert.Equal(Timeout, guest.Read32(Fsts) & (Timeout | QueueError));
        Assert.Equal(0x4321ul, guest.ReadRegister64(0xB0) >> 32);
        Assert.NotEqual(0x99ul, guest.Read64(guest.StatusWord));
        guest.Write32(Fsts, Timeout);
        Assert.Equal(0x99ul, guest.Read64(guest.StatusWord));
        Assert.Equal(0u, guest.Read32(Fsts) & Timeout);
        Assert.Equal(0u, guest.Read32(Fsts) & (1 << 5)); // ICE never
    }

    /// <summary>Which widths and types each table mode has (VT-d 6.5.2.11, table 26).</summary>
    [Theory]
    [InlineData(0, false, 2, 0)]
    [InlineData(0, true, 2, 0)]
    [InlineData(0, true, 7, 3)]  // PASIDs are not of legacy mode
    [InlineData(0, true, 6, 3)]
    [InlineData(1, true, 7, 0)]
    [InlineData(1, false, 2, 5)]
    [InlineData(3, true, 2, 0)]
    [InlineData(3, true, 7, 0)]
    [InlineData(3, false, 2, 5)] // nor is there a narrow queue in abort-DMA mode
    [InlineData(2, true, 2, 7)]
    public void EachTableModeHasItsWidthAndTypes(int mode, bool wide, int type, int info)
    {
        using var guest = new GuestDriver(new Iommu.Intel.IntelIommuOptions { AddressWidth = 48, ScalableMode = true });
        guest.WriteRegister64(Rtaddr, guest.Root | ((ulong)mode << 10));
        guest.Command(Srtp);
        guest.Write64(guest.Queue, (uint)type | (type == 2 ? 1u << 4 : type == 6 ? 2u << 4 : 3u << 4)); // all, or PASID 0 of domain 0
        guest.WriteRegister64(Iqa, guest.Queue | (wide ? 1u << 11 : 0));
        guest.Command(Qie);
        guest.Write32(Iqt, wide ? 0x20u : 0x10u);
        Assert.Equal(info != 0, (guest.Read32(Fsts) & QueueError) != 0);
        Assert.Equal((ulong)info, guest.ReadRegister64(0xB0) & 0xF);
        Assert.Equal(info != 0, guest.ReadRegister64(Iqh) == 0);
    }

    private static GuestDriver Scalable(bool deviceIotlb)
    {
        var guest = new GuestDriver(
            new Iommu.Intel.IntelIommuOptions { AddressWidth = 48, ScalableMode = true, DeviceIotlb = deviceIotlb }, kind: TableKind.ScalableSecond);
        guest.SetRootAndEnable();
        return guest;
    }

    [Theory]
    [InlineData(0x4000_0000ul, 1u, 2)] // no RAM there
    [InlineData(0xFED9_0000ul, 1u, 2)] // the unit's own registers
    [InlineData(0x100_0000ul, 300u, 1)] // tail behind the end
    [InlineData(0x100_0000ul, 256u, 1)] // at the end
    public void AQueueThatCannotBeReadIsAnError(ulong address, uint tail, int info)
    {
        using var guest = new GuestDriver();
        guest.WriteRegister64(Iqa, address);
        guest.Command(Qie);
        guest.Write32(Iqt, tail << 4);
        Assert.Equal(QueueError, guest.Read32(Fsts) & QueueError);
        Assert.Equal((ulong)info, guest.ReadRegister64(0xB0));
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
        Assert.Empty(guest.Events.All);
        guest.Write32(Iectl, 0);
        Assert.Equal(0x77, Assert.Single(guest.Events.All).Vector);
        guest.Invalidate(interrupt);
        Assert.Single(guest.Events.All);
        guest.Write32(Ics, 1);
        Assert.Equal(0u, guest.Read32(Ics));
        guest.Invalidate(interrupt);
        Assert.Equal(2, guest.Events.All.Count);
    }

    [Fact]
    public void StatusGoesToRamOnly()
    {
        using var guest = new GuestDriver();
        guest.EnableQueue();
        guest.Invalidate(guest.Wait(0x55, 0xFED9_0020), guest.Wait(0x56, 0x4000_0000), guest.Wait(0x57, 0x9000), (5ul | (1ul << 6), 0ul), (5ul, 0ul));
        Assert.Equal(0ul, guest.ReadRegister64(Rtaddr));
        Assert.Equal(0x57ul, guest.Read64(0x9000));
        guest.Invalidate(guest.Wait(0x58, 0x9000 | (0xABCUL << 52))); // bits above the host's width are ignored
        Assert.Equal(0x58ul, guest.Read64(0x9000));
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
        guest.Queued((0ul, 0ul)); // leaves IQEI 3
        guest.Ring();
        guest.Write64(guest.Queue, IotlbGlobal.Item1);
        guest.Write32(Fsts, QueueError);
        Assert.Equal(3ul, guest.ReadRegister64(0xB0));
        for (int index = 0; index < 200; index++)
            guest.Queued(IotlbDomain(1));
        guest.Ring();
        Assert.Equal(QueueError, guest.Read32(Fsts) & QueueError);
        Assert.InRange(guest.ReadRegister64(Iqh) >> 4, 2ul, 51ul);
        Assert.Equal(0ul, guest.ReadRegister64(0xB0)); // there is no code for it
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
