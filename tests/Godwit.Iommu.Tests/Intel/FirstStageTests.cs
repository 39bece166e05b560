using Godwit.Iommu.Intel;
using Godwit.Memory;
using static Godwit.Iommu.Tests.GuestDriver;

namespace Godwit.Iommu.Tests;

/// <summary>Accessed and dirty marks (VT-d 3.6.2), by translation and by announcement.</summary>
public class FirstStageTests
{
    private const ulong Accessed = 1 << 5, Dirty = 1 << 6;

    [Fact]
    public void ARequestMarksWhatItUses()
    {
        using GuestDriver guest = Start(out ulong table);
        guest.Map(table, 0x1000, 0x8000);
        guest.Map(table, 0x2000, 0x9000, AccessRights.Read);
        guest.Map(table, 0x40_0000, 0x80_0000, level: 2);
        guest.SetRootAndEnable();
        IommuRegion region = guest.Region();
        Assert.Equal(AccessRights.ReadWrite, region.Translate(new Iova(0x1000), AccessRights.None, default).Rights);
        Assert.Equal((0ul, 0ul, 0ul), Marks(0x1000)); // a probe is no request
        guest.DmaRead(0x1000, out _);
        Assert.Equal((Accessed, Accessed, Accessed), Marks(0x1000));
        Assert.Equal(MemoryResult.Ok, guest.DmaWrite(0x1000, 5)); // cached by the read, yet marked by the write
        Assert.Equal((Accessed | Dirty, Accessed, Accessed), Marks(0x1000));
        guest.DmaRead(0x2000, out _);
        Assert.Equal(MemoryResult.AccessError, guest.DmaWrite(0x2000, 5));
        Assert.Equal((Accessed, Accessed, Accessed), Marks(0x2000));
        guest.DmaWrite(0x40_0000, 5);
        Assert.Equal(Accessed | Dirty, guest.Read64(guest.EntryOf(table, 0x40_0000, level: 2)) & (Accessed | Dirty));
        // Cleared by the guest, who must invalidate to have it told again.
        guest.Map(table, 0x1000, 0x8000);
        guest.Invalidate(PasidIotlbPages(1, PasidOf(guest.Sid()), 0x1000, 0));
        guest.DmaWrite(0x1000, 5);
        Assert.Equal((Accessed | Dirty, Accessed, Accessed), Marks(0x1000));

        (ulong Leaf, ulong Middle, ulong Top) Marks(ulong iova) => (
            guest.Read64(guest.EntryOf(table, iova)) & (Accessed | Dirty),
            guest.Read64(guest.EntryOf(table, iova, level: 2)) & (Accessed | Dirty),
            guest.Read64(table) & (Accessed | Dirty));
    }

    /// <summary>
    /// The guest counts in bits of the entries that the unit ignores while the unit marks them: a mark that is not one atomic change of
    /// the whole entry loses a count sooner or later.
    /// </summary>
    [Fact]
    public unsafe void MarksLoseNoChangeOfTheGuests()
    {
        using GuestDriver guest = Start(out ulong table);
        guest.Map(table, 0x1000, 0x8000);
        guest.SetRootAndEnable();
        ulong address = guest.EntryOf(table, 0x1000);
        // SAFETY: an aligned word in the block, which lives until the guest is disposed, after the thread has ended.
        ulong* entry = (ulong*)(guest.Block.Pointer + address);
        const int Rounds = 60_000;
        ulong counted = 0;
        long marked = 0;
        var counter = new Thread(() =>
        {
            // At least until the two have met: the other thread may not have run at all yet.
            for (int round = 0; round < Rounds || Volatile.Read(ref marked) == 0; round++)
            {
                // Add to bits 62:52 and take the marks away in one, as an operating system ages its pages.
                ulong old;
                do
                    old = Volatile.Read(ref *entry);
                while (Interlocked.CompareExchange(ref *entry, (old + (1UL << 52)) & ~(Accessed | Dirty | (1UL << 63)), old) != old);
                counted++;
            }
        });
        counter.Start();
        while (counter.IsAlive)
        {
            guest.Invalidate(PasidIotlbPages(1, PasidOf(guest.Sid()), 0x1000, 0));
            if (guest.DmaWrite(0x1000, 1) == MemoryResult.Ok)
                Volatile.Write(ref marked, marked + 1);
        }

        counter.Join();
        Assert.NotEqual(0, marked);
        Assert.Equal(counted & 0x7FF, (*entry >> 52) & 0x7FF);
        guest.Invalidate(PasidIotlb(1, PasidOf(guest.Sid())));
        guest.DmaWrite(0x1000, 1);
        Assert.Equal(Accessed | Dirty, *entry & (Accessed | Dirty));
    }

    /// <summary>A passthrough device does not ask, so what it is told of is marked as if it had used it.</summary>
    [Fact]
    public void AnnouncementsMarkWhatTheyTell()
    {
        using GuestDriver guest = Start(out ulong table);
        guest.Map(table, 0x1000, 0x8000);
        guest.Map(table, 0x2000, 0x9000, AccessRights.Read);
        guest.Map(table, 0x8000_0000, 0x4000_0000, level: 3);
        ulong supervisor = guest.EntryOf(table, 0x5000);
        guest.Write64(supervisor, 0x8000 | 3);
        guest.SetRootAndEnable();
        var user = new ShadowUser(guest.Functions[0].DmaSpace);
        Assert.Equal(
            [(0x1000ul, AccessRights.ReadWrite), (0x2000ul, AccessRights.Read), (0x8000_0000ul, AccessRights.ReadWrite)],
            user.Live.Select(item => (item.Key, item.Value.Rights)));
        Assert.Equal(Accessed | Dirty, guest.Read64(guest.EntryOf(table, 0x1000)) & (Accessed | Dirty));
        Assert.Equal(Accessed, guest.Read64(guest.EntryOf(table, 0x2000)) & (Accessed | Dirty));
        Assert.Equal(Accessed, guest.Read64(table) & (Accessed | Dirty));
        Assert.Equal(0ul, guest.Read64(supervisor) & (Accessed | Dirty));
        Assert.Equal(0, guest.Iommu.Churn.Refused);
        // A new page, told by PASID; one of another PASID is not looked at.
        guest.Map(table, 0x3000, 0xA000);
        guest.Invalidate(PasidIotlbPages(1, 63, 0x3000, 0));
        Assert.Equal(3, user.Live.Count);
        guest.Invalidate(PasidIotlbPages(1, PasidOf(guest.Sid()), 0x3000, 0));
        Assert.Equal(4, user.Live.Count);
        guest.Unmap(table, 0x3000);
        guest.Invalidate(PasidIotlb(1, PasidOf(guest.Sid())));
        Assert.Equal(3, user.Live.Count);
    }

    /// <summary>The unit's marks are writes to guest RAM, so a migration sends the page again.</summary>
    [Fact]
    public void MarksAreDirtyPages()
    {
        using GuestDriver guest = Start(out ulong table);
        guest.Map(table, 0x1000, 0x8000);
        guest.SetRootAndEnable();
        ulong leaf = guest.EntryOf(table, 0x1000);
        DirtyLog log = guest.Ram.Dirty;
        log.Start();
        ulong[] words = new ulong[RamSize >> 12 >> 6];
        log.Drain(guest.Block.FirstPage, words);
        guest.DmaRead(0x1000, out _);
        Array.Clear(words);
        log.Drain(guest.Block.FirstPage, words);
        Assert.Equal(1ul, (words[leaf >> 12 >> 6] >> (int)((leaf >> 12) & 63)) & 1);
        log.Stop();
    }

    private static GuestDriver Start(out ulong table)
    {
        var guest = new GuestDriver(new IntelIommuOptions { AddressWidth = 48, ScalableMode = true }, kind: TableKind.ScalableFirst);
        table = guest.AllocateTable();
        guest.SetContext(guest.Sid(), table, 1);
        return guest;
    }
}
