using Godwit.Iommu.Intel;
using Godwit.Memory;

namespace Godwit.Iommu.Tests;

public class IotlbTests
{
    [Theory]
    [InlineData(0x5000, 0x5FFF)]
    [InlineData(0x4000, 0x7FFF)]
    [InlineData(0, ulong.MaxValue)]
    [InlineData(0x9000, 0x9FFF)] // of another page: dropped all the same, which costs a walk at most
    public void AWalkThatBeganBeforeAnInvalidationLeavesNothingBehind(ulong first, ulong last)
    {
        var cache = new Iotlb();
        int generation = cache.Generation;
        cache.Invalidate(new Iova(first), new Iova(last));
        Fill(cache, 0x5000, 0x8000, generation: generation);
        Assert.False(cache.TryGet(new Iova(0x5000), out _));
        Fill(cache, 0x5000, 0x8000);
        Assert.True(cache.TryGet(new Iova(0x5123), out Announcement found));
        Assert.Equal((new Iova(0x5000), new Gpa(0x8000), AccessRights.ReadWrite), (found.First, found.Target, found.Rights));
    }

    [Fact]
    public void InvalidationsForgetTheirPagesOnly()
    {
        var cache = new Iotlb();
        for (ulong page = 0; page < 64; page++)
            Fill(cache, page << 12, (page + 100) << 12);
        cache.Invalidate(new Iova(8 << 12), new Iova((16 << 12) - 1));
        for (ulong page = 0; page < 64; page++)
            Assert.Equal(page is < 8 or >= 16, cache.TryGet(new Iova(page << 12), out _));
        cache.Invalidate(new Iova(0x2_0000), new Iova((1UL << 39) - 1));
        for (ulong page = 0; page < 64; page++)
            Assert.Equal(page is < 8 or (>= 16 and < 32), cache.TryGet(new Iova(page << 12), out _));
        cache.Invalidate(default, new Iova((1UL << 39) - 1));
        for (ulong page = 0; page < 64; page++)
            Assert.False(cache.TryGet(new Iova(page << 12), out _));
    }

    /// <summary>A large page is one entry, found from all of its addresses, and gone when any of them is invalidated.</summary>
    [Theory]
    [InlineData(2)]
    [InlineData(3)]
    public void ALargePageIsOneEntry(int level)
    {
        var cache = new Iotlb();
        ulong size = 1UL << (12 + (9 * (level - 1)));
        Fill(cache, size, 3 * size, level);
        Fill(cache, 2 * size, 5 * size, level);
        Fill(cache, 0x1000, 0x2000);
        Assert.True(cache.TryGet(new Iova(size + 0x5678), out Announcement found));
        Assert.Equal((size, 3 * size), (found.Length, found.Target.Value));
        Assert.True(cache.TryGet(new Iova((2 * size) - 1), out _));
        cache.Invalidate(new Iova(size + 0x7000), new Iova(size + 0x7FFF));
        Assert.False(cache.TryGet(new Iova(size), out _));
        Assert.True(cache.TryGet(new Iova(2 * size), out _));
        Assert.True(cache.TryGet(new Iova(0x1000), out _));
    }

    /// <summary>Against a model without limits: whatever the cache answers is what was filled and not invalidated since.</summary>
    [Fact]
    public void ItNeverAnswersWhatItShouldHaveForgotten() => Seeded.Run(10, random =>
    {
        var cache = new Iotlb();
        var model = new Dictionary<ulong, ulong>(); // key with level to value
        for (int step = 0; step < 20_000; step++)
        {
            int level = random.Next(10) switch { 0 => 3, < 3 => 2, _ => 1 };
            ulong size = 1UL << (12 + (9 * (level - 1)));
            ulong iova = (ulong)random.NextInt64(1L << (random.Next(3) switch { 0 => 24, 1 => 32, _ => 40 })) & ~(size - 1);
            if (random.Next(40) == 0)
            {
                ulong bytes = 0x1000UL << random.Next(19);
                ulong first = iova & ~(bytes - 1), last = first + (bytes - 1);
                cache.Invalidate(new Iova(first), new Iova(last));
                foreach (ulong key in model.Keys.Where(key => Overlaps(key, first, last)).ToArray())
                    model.Remove(key);
            }
            else if (random.Next(2) == 0)
            {
                // A page and its parts are never cached at once by a guest that invalidates what it changes.
                if (model.Keys.Any(key => (key & 3) != (ulong)level && Overlaps(key, iova, iova + (size - 1))))
                    continue;
                var leaf = new Announcement(new Iova(iova), level, new Gpa((ulong)random.Next(1 << 20) << 30), (AccessRights)random.Next(1, 4));
                cache.Fill(leaf, cache.Generation);
                model[leaf.Key] = leaf.Value;
                Assert.True(cache.TryGet(new Iova(iova), out Announcement kept));
                Assert.Equal(leaf, kept);
            }
            else if (cache.TryGet(new Iova(iova | 0x123), out Announcement found))
            {
                Assert.True(model.TryGetValue(found.Key, out ulong value), $"0x{found.Key:x} was invalidated");
                Assert.Equal(value, found.Value);
            }

            if (model.Count > 2_000)
            {
                cache.Invalidate(default, new Iova(ulong.MaxValue));
                model.Clear();
            }
        }

        static bool Overlaps(ulong key, ulong first, ulong last)
        {
            var entry = new Announcement(key, 0);
            return entry.First.Value <= last && first <= entry.Last.Value;
        }
    });

    /// <summary>Full sets give up one page each time, not the one that is in use; nothing is flushed.</summary>
    [Fact]
    public void ReplacementSparesWhatIsUsed()
    {
        var cache = new Iotlb();
        const int Capacity = Iotlb.Sets * Iotlb.Ways;
        for (ulong page = 0; page < Capacity; page++)
            Fill(cache, page << 12, page << 12);
        Assert.Equal(Capacity, Enumerable.Range(0, Capacity).Count(page => cache.TryGet(new Iova((ulong)page << 12), out _)));

        // One page stays in use while twenty times the cache goes by.
        int hits = 0;
        for (ulong page = 0; page < 20 * Capacity; page++)
        {
            if (cache.TryGet(new Iova(0x5000), out _))
                hits++;
            else
                Fill(cache, 0x5000, 0x5000);
            Fill(cache, (page + 0x10_0000) << 12, page << 12);
        }

        Assert.True(hits > 19 * Capacity, $"{hits} hits in {20 * Capacity}");
        // What came last is there, all of it but the page in use.
        int kept = Enumerable.Range(19 * Capacity, Capacity).Count(page => cache.TryGet(new Iova((ulong)(page + 0x10_0000) << 12), out _));
        Assert.True(kept > Capacity * 9 / 10, $"{kept} of the last {Capacity}");
    }

    /// <summary>Pages that share a set are put in turn while another thread looks: it sees one or the other, never halves of both.</summary>
    [Fact]
    public void AHitIsNeverTorn()
    {
        var cache = new Iotlb();
        bool stop = false;
        long hits = 0, torn = 0;
        var reader = new Thread(() =>
        {
            ulong page = 0;
            while (!Volatile.Read(ref stop))
            {
                page = (page + 1) % 0x2000;
                if (!cache.TryGet(new Iova(page << 12), out Announcement found))
                    continue;
                Interlocked.Increment(ref hits);
                if (found.First.Value != page << 12 || found.Target.Value != (page * 3) << 12 || found.Rights != (AccessRights)(1 + (page % 3)))
                    Interlocked.Increment(ref torn);
            }
        });
        reader.Start();
        var random = new Random(1);
        for (int round = 0; round < 2_000_000 && (round < 300_000 || Interlocked.Read(ref hits) < 1_000); round++)
        {
            ulong page = (ulong)random.Next(0x2000);
            Fill(cache, page << 12, (page * 3) << 12, rights: (AccessRights)(1 + (page % 3)));
            if (round % 64 == 0)
                cache.Invalidate(new Iova(page << 12), new Iova((page << 12) | 0xFFF));
        }

        Volatile.Write(ref stop, true);
        Assert.True(reader.Join(TimeSpan.FromSeconds(60)));
        Assert.NotEqual(0, hits);
        Assert.Equal(0, torn);
    }

    /// <summary>
    /// Several threads walk and fill as the unit does while the mapping changes and is invalidated: after an invalidation has returned, no
    /// lookup that begins finds what was there before.
    /// </summary>
    [Fact]
    public void AStaleWalkNeverComesBack()
    {
        var cache = new Iotlb();
        long current = 1, forgotten = 0; // the mapping, and the newest one that must not be seen any more
        bool stop = false;
        long stale = 0, hits = 0;
        var threads = new List<Thread>();
        for (int index = 0; index < 2; index++)
        {
            var thread = new Thread(() =>
            {
                while (!Volatile.Read(ref stop))
                {
                    long limit = Volatile.Read(ref forgotten);
                    if (cache.TryGet(new Iova(0x5000), out Announcement found))
                    {
                        Interlocked.Increment(ref hits);
                        if ((long)(found.Target.Value >> 12) <= limit)
                            Interlocked.Increment(ref stale);
                        continue;
                    }

                    int generation = cache.Generation;
                    long seen = Volatile.Read(ref current);
                    Thread.SpinWait(20);
                    Fill(cache, 0x5000, (ulong)seen << 12, generation: generation);
                }
            });
            threads.Add(thread);
            thread.Start();
        }

        for (int round = 0; round < 2_000_000 && (round < 200_000 || Interlocked.Read(ref hits) < 1_000); round++)
        {
            long old = current;
            Volatile.Write(ref current, old + 1);
            cache.Invalidate(new Iova(0x5000), new Iova(0x5FFF));
            Volatile.Write(ref forgotten, old);
            if (round % 16 == 0)
                Thread.Yield();
        }

        Volatile.Write(ref stop, true);
        Assert.All(threads, thread => Assert.True(thread.Join(TimeSpan.FromSeconds(60))));
        Assert.NotEqual(0, hits);
        Assert.Equal(0, stale);
    }

    private static void Fill(Iotlb cache, ulong iova, ulong gpa, int level = 1, AccessRights rights = AccessRights.ReadWrite, int? generation = null) =>
        cache.Fill(new Announcement(new Iova(iova), level, new Gpa(gpa), rights), generation ?? cache.Generation);
}
