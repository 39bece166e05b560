using Godwit.Iommu.Intel;
using Godwit.Memory;

namespace Godwit.Iommu.Tests;

public class AnnouncementSetTests
{
    [Fact]
    public void ItIsASortedMap() => Seeded.Run(20, random =>
    {
        var set = new AnnouncementSet();
        var model = new SortedDictionary<ulong, Announcement>();
        for (int step = 0; step < 5_000; step++)
        {
            // Phases of growth and of shrinking, so that chunks split and merge.
            bool grow = random.Next(10) < (step / 1_000 % 2 == 0 ? 8 : 2);
            ulong page = random.Next(3) == 0 ? (ulong)model.Count : (ulong)random.Next(4_000);
            var item = new Announcement(new Iova(page << 12), 1, new Gpa(page << 13), AccessRights.Read);
            if (grow && model.TryAdd(page, item))
                set.Add(item);
            else if (!grow && model.Remove(page))
                set.Remove(item);
            Assert.Equal(model.Count, set.Count);
            if (step % 64 != 0)
                continue;
            ulong probe = (ulong)random.Next(4_100);
            Announcement[] above = [.. model.Where(pair => pair.Key >= probe).Take(1).Select(pair => pair.Value)];
            Assert.Equal(above.Length != 0, set.TryFindEndingAtOrAfter(new Iova(probe << 12), out Announcement at));
            if (above.Length != 0)
                Assert.Equal(above[0], at);
        }

        Assert.Equal(model.Values, All(set));
        set.Clear();
        Assert.Empty(All(set));
    });

    [Fact]
    public void OneLeftInEachChunkDoesNotKeepTheirMemory()
    {
        var set = new AnnouncementSet();
        const ulong Count = 200_000;
        for (ulong page = 0; page < Count; page++)
            set.Add(Page(page));
        for (ulong page = 0; page < Count; page++)
        {
            if (page % 256 != 0)
                set.Remove(Page(page));
        }

        Assert.Equal((long)((Count + 255) / 256), set.Count);
        Assert.InRange(set.ChunkCount, 1, 32);
    }

    [Fact]
    public void ALargePageIsFoundFromAnyOfItsAddresses()
    {
        var set = new AnnouncementSet();
        var large = new Announcement(new Iova(0x4000_0000), 3, new Gpa(0), AccessRights.ReadWrite);
        set.Add(large);
        foreach (ulong address in (ulong[])[0, 0x4000_0000, 0x5555_5000, 0x7FFF_FFFF])
        {
            Assert.True(set.TryFindEndingAtOrAfter(new Iova(address), out Announcement found));
            Assert.Equal(large, found);
        }

        Assert.False(set.TryFindEndingAtOrAfter(new Iova(0x8000_0000), out _));
        Assert.Throws<InvalidOperationException>(() => set.Remove(Page(0x4_0001)));
    }

    private static Announcement Page(ulong page) => new(new Iova(page << 12), 1, new Gpa(page << 12), AccessRights.ReadWrite);

    private static List<Announcement> All(AnnouncementSet set)
    {
        var result = new List<Announcement>();
        ulong from = 0;
        while (set.TryFindEndingAtOrAfter(new Iova(from), out Announcement item))
        {
            result.Add(item);
            from = item.Last.Value + 1;
        }

        return result;
    }
}
