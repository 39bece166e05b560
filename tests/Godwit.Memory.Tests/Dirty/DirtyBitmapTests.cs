using System.Numerics;

namespace Godwit.Memory.Tests.Dirty;

public sealed class DirtyBitmapTests
{
    [Fact]
    public void A_new_bitmap_is_clear()
    {
        using var bitmap = new DirtyBitmap(1000);
        Assert.Equal(1000UL, bitmap.PageCount);
        Assert.Equal(0UL, bitmap.Count());
        Assert.False(bitmap.IsSet(999));
    }

    [Fact]
    public void Set_tells_whether_the_bit_was_clear()
    {
        using var bitmap = new DirtyBitmap(65);
        Assert.True(bitmap.Set(64));
        Assert.False(bitmap.Set(64));
        Assert.True(bitmap.IsSet(64));
        Assert.False(bitmap.IsSet(63));
    }

    [Theory]
    [InlineData(0UL)]
    [InlineData(DirtyBitmap.MaxPages + 1)]
    public void Impossible_sizes_are_refused(ulong pages) =>
        Assert.Throws<ArgumentOutOfRangeException>(() => new DirtyBitmap(pages));

    [Fact]
    public void Nothing_outside_can_be_touched()
    {
        using var bitmap = new DirtyBitmap(100);
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.Set(100));
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.IsSet(100));
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.SetRange(1, 100));
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.SetRange(ulong.MaxValue, 2));
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.SetRange(2, ulong.MaxValue));
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.Or(37, new ulong[1], 64));
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.Or(0, new ulong[1], 65));
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.Drain(128, new ulong[1]));
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.Drain(1, new ulong[1]));
        Assert.Equal(0UL, bitmap.Count());
    }

    [Fact]
    public void Drain_past_the_end_gives_zero_words()
    {
        using var bitmap = new DirtyBitmap(70);
        bitmap.SetRange(0, 70);
        ulong[] words = [7, 7, 7, 7];
        Assert.Equal(6UL, bitmap.Drain(64, words));
        Assert.Equal([0x3FUL, 0, 0, 0], words);
        Assert.Equal(64UL, bitmap.Count());
    }

    [Fact]
    public void After_dispose_no_page_is_covered()
    {
        var bitmap = new DirtyBitmap(64);
        bitmap.Dispose();
        bitmap.Dispose();
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.Set(0));
        Assert.Equal(0UL, bitmap.Count());
    }

    [Fact]
    public void SetAll_and_Clear_cover_exactly_the_pages()
    {
        foreach (ulong pages in (ulong[])[1, 63, 64, 65, 511, 512, 513, 5000])
        {
            using var bitmap = new DirtyBitmap(pages);
            bitmap.SetAll();
            Assert.Equal(pages, bitmap.Count());
            bitmap.Clear();
            Assert.Equal(0UL, bitmap.Count());
        }
    }

    [Fact]
    public void Agrees_with_a_set_of_numbers() => Seeded.Run(150, random =>
    {
        ulong pages = (ulong)random.Next(1, 3000);
        using var bitmap = new DirtyBitmap(pages);
        var expected = new HashSet<ulong>();
        for (int step = 0; step < 60; step++)
        {
            ulong first = (ulong)random.NextInt64((long)pages);
            ulong count = (ulong)random.NextInt64((long)(pages - first) + 1);
            switch (random.Next(5))
            {
                case 0:
                    Assert.Equal(expected.Add(first), bitmap.Set(first));
                    break;
                case 1:
                    ulong added = 0;
                    for (ulong page = first; page < first + count; page++)
                        added += expected.Add(page) ? 1UL : 0;
                    Assert.Equal(added, bitmap.SetRange(first, count));
                    break;
                case 2:
                    ulong[] bits = RandomBits(random, (int)((count + 63) / 64) + random.Next(2));
                    ulong news = 0;
                    for (ulong i = 0; i < count; i++)
                    {
                        if ((bits[i / 64] >> (int)(i % 64) & 1) != 0)
                            news += expected.Add(first + i) ? 1UL : 0;
                    }

                    Assert.Equal(news, bitmap.Or(first, bits, count));
                    break;
                case 3:
                    ulong start = first & ~63UL;
                    var words = new ulong[random.Next(0, 50)];
                    ulong drained = bitmap.Drain(start, words);
                    Assert.Equal(drained, (ulong)words.Sum(word => (long)BitOperations.PopCount(word)));
                    for (ulong i = 0; i < (ulong)words.Length * 64; i++)
                        Assert.Equal(expected.Remove(start + i), (words[i / 64] >> (int)(i % 64) & 1) != 0);
                    break;
                default:
                    Assert.Equal(expected.Contains(first), bitmap.IsSet(first));
                    break;
            }

            Assert.Equal((ulong)expected.Count, bitmap.Count());
        }
    });

    /// <summary>
    /// Writers count what they newly set, drainers what they take; if a bit were lost or taken twice the sums would differ. Each page is
    /// also counted apart, so that a loss here cannot hide a double there.
    /// </summary>
    [Fact]
    public void No_bit_is_lost_or_taken_twice_under_concurrency()
    {
        const int Pages = 64 * 40 + 17;
        const int Steps = 20_000;
        int seed = Environment.TickCount;
        TestContext.Current.TestOutputHelper?.WriteLine($"seed {seed}");
        using var bitmap = new DirtyBitmap(Pages);
        long[] taken = new long[Pages];
        long added = 0;
        int writersLeft = 3;
        using var start = new Barrier(5);

        var threads = new List<Thread>();
        for (int i = 0; i < 3; i++)
        {
            int id = i;
            threads.Add(new Thread(() =>
            {
                var random = new Random(seed + id);
                ulong sum = 0;
                start.SignalAndWait();
                for (int step = 0; step < Steps; step++)
                {
                    ulong first = (ulong)random.Next(Pages);
                    ulong count = Math.Min((ulong)random.Next(200), Pages - first);
                    sum += random.Next(3) switch
                    {
                        0 => bitmap.Set(first) ? 1UL : 0,
                        1 => bitmap.SetRange(first, count),
                        _ => bitmap.Or(first, RandomBits(random, (int)((count + 63) / 64)), count),
                    };
                }

                Interlocked.Add(ref added, (long)sum);
                Interlocked.Decrement(ref writersLeft);
            }));
        }

        long total = 0;
        for (int i = 0; i < 2; i++)
        {
            threads.Add(new Thread(() =>
            {
                var words = new ulong[41];
                start.SignalAndWait();
                bool last;
                do
                {
                    last = Volatile.Read(ref writersLeft) == 0;
                    Interlocked.Add(ref total, (long)bitmap.Drain(0, words));
                    for (int page = 0; page < Pages; page++)
                    {
                        if ((words[page / 64] >> (page % 64) & 1) != 0)
                            Interlocked.Increment(ref taken[page]);
                    }
                }
                while (!last);
            }));
        }

        threads.ForEach(thread => thread.Start());
        threads.ForEach(thread => Assert.True(thread.Join(TimeSpan.FromMinutes(2)), "a thread hangs"));
        Assert.Equal(added, total);
        Assert.Equal(added, taken.Sum());
        Assert.Equal(0UL, bitmap.Count());
        Assert.True(added > Pages, "the drainers never met the writers");
    }

    private static ulong[] RandomBits(Random random, int words)
    {
        var bits = new ulong[words];
        int density = random.Next(4);
        for (int i = 0; i < words; i++)
        {
            bits[i] = density switch
            {
                0 => 0,
                1 => ulong.MaxValue,
                2 => 1UL << random.Next(64),
                _ => (ulong)random.NextInt64(long.MinValue, long.MaxValue),
            };
            if (random.Next(5) == 0)
                density = random.Next(4);
        }

        return bits;
    }
}
