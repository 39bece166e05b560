namespace Godwit.Memory.Tests.Dirty;

/// <summary>Draining into runs, by both ways in which words become runs, and the summary that it relies on.</summary>
public sealed class DirtyRunTests
{
    private const ulong BlockPages = 16384;

    [Theory]
    [InlineData(nameof(DrainVectors.None))]
    [InlineData(nameof(DrainVectors.Words))]
    [InlineData(nameof(DrainVectors.Bytes))]
    public void Runs_are_the_stretches_of_set_bits(string uses) => Seeded.Run(150, random =>
    {
        DrainVectors vectors = Enum.Parse<DrainVectors>(uses);
        Assert.SkipWhen(vectors > RunWriter.Supported, $"this processor has no AVX-512 for vectors of {uses}");
        ulong pages = (ulong)random.Next(1, 60_000);
        using var bitmap = new DirtyBitmap(pages, vectors);
        var expected = new bool[pages];
        var runs = new DirtyRun[DirtyBitmap.MinRuns + random.Next(500)];
        for (int round = 0; round < 4; round++)
        {
            Mark(bitmap, expected, random);
            Assert.Equal((ulong)expected.Count(set => set), bitmap.Count());
            ulong enough = (ulong)random.Next(1, 40_000);
            ulong end = 0;
            for (ulong next = 0; next < pages;)
            {
                int count = bitmap.Drain(ref next, enough, runs);
                for (int i = 0; i < count; i++)
                {
                    ulong first = runs[i].First.Index;
                    // Apart from each other within a call, in order always.
                    Assert.True(i == 0 ? first >= end : first > end, $"{runs[i]} after {end}");
                    end = first + runs[i].Count;
                    for (ulong page = first; page < end; page++)
                    {
                        Assert.True(expected[page], $"page {page} was not set");
                        expected[page] = false;
                    }
                }

                Assert.True(end <= next);
            }

            Assert.DoesNotContain(true, expected);
            Assert.Equal(0UL, bitmap.Count());
        }
    });

    [Fact]
    public void A_drain_stops_when_it_has_enough_and_goes_on_from_there()
    {
        using var bitmap = new DirtyBitmap(10 * BlockPages);
        bitmap.SetAll();
        var runs = new DirtyRun[2 * DirtyBitmap.MinRuns];
        ulong next = 0;
        Assert.Equal(1, bitmap.Drain(ref next, 1, runs));
        Assert.Equal((0UL, BlockPages, BlockPages), (runs[0].First.Index, runs[0].Count, next));
        Assert.Equal(1, bitmap.Drain(ref next, ulong.MaxValue, runs));
        Assert.Equal((BlockPages, 9 * BlockPages, 10 * BlockPages), (runs[0].First.Index, runs[0].Count, next));
        Assert.Equal(0, bitmap.Drain(ref next, 1, runs));
    }

    [Fact]
    public void The_most_runs_that_a_block_can_make_fit()
    {
        using var bitmap = new DirtyBitmap(BlockPages);
        for (ulong page = 0; page < BlockPages; page += 2)
            bitmap.Set(page);
        var runs = new DirtyRun[DirtyBitmap.MinRuns];
        ulong next = 0;
        Assert.Equal(runs.Length, bitmap.Drain(ref next, ulong.MaxValue, runs));
        for (int i = 0; i < runs.Length; i++)
            Assert.Equal((2UL * (ulong)i, 1UL), (runs[i].First.Index, runs[i].Count));
    }

    [Fact]
    public void A_drain_refuses_what_it_cannot_do()
    {
        using var bitmap = new DirtyBitmap(100);
        ulong odd = 64, beyond = BlockPages, start = 0;
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.Drain(ref odd, 1, new DirtyRun[DirtyBitmap.MinRuns]));
        Assert.Throws<ArgumentOutOfRangeException>(() => bitmap.Drain(ref beyond, 1, new DirtyRun[DirtyBitmap.MinRuns]));
        Assert.Throws<ArgumentException>(() => bitmap.Drain(ref start, 1, new DirtyRun[DirtyBitmap.MinRuns - 1]));
    }

    /// <summary>
    /// Writers store a number in a page's slot, fence and set its bit; drainers take runs and read. At the end every slot's last number must
    /// have been read: a bit that is lost, or left where no summary names it, leaves an old number behind.
    /// </summary>
    [Theory]
    [InlineData(3_000)]     // one block, two buffers in turn
    [InlineData(40_000)]    // three blocks, the last in part
    public void No_mark_is_lost_between_the_word_and_its_summary(int pages)
    {
        const int Writers = 3;
        const long Steps = 60_000;
        int seed = Environment.TickCount;
        TestContext.Current.TestOutputHelper?.WriteLine($"seed {seed}");
        using var bitmap = new DirtyBitmap((ulong)pages);
        long[] written = new long[pages], read = new long[pages];
        int left = Writers;
        using var start = new Barrier(Writers + 2);
        var threads = new List<Thread>();
        for (int id = 0; id < Writers; id++)
        {
            int writer = id;
            threads.Add(new Thread(() =>
            {
                var random = new Random(seed + writer);
                ulong[] bits = new ulong[3];
                start.SignalAndWait();
                for (long step = 1; step <= Steps; step++)
                {
                    // Each writer has its own pages, in words that all share.
                    int page = random.Next(pages / Writers) * Writers + writer;
                    Volatile.Write(ref written[page], step);
                    Interlocked.MemoryBarrier();
                    switch (step % 3)
                    {
                        case 0:
                            bitmap.Set((ulong)page);
                            break;
                        case 1:
                            bitmap.SetRange((ulong)page, Math.Min(130, (ulong)(pages - page)));
                            break;
                        default:
                            bits[0] = 1;
                            bitmap.Or((ulong)page, bits, 1);
                            break;
                    }
                }

                Interlocked.Decrement(ref left);
            }));
        }

        for (int id = 0; id < 2; id++)
        {
            threads.Add(new Thread(() =>
            {
                var runs = new DirtyRun[DirtyBitmap.MinRuns];
                start.SignalAndWait();
                bool last;
                do
                {
                    last = Volatile.Read(ref left) == 0;
                    for (ulong next = 0; next < bitmap.PageCount;)
                    {
                        int count = bitmap.Drain(ref next, 4096, runs);
                        Interlocked.MemoryBarrier();
                        foreach (DirtyRun run in runs.AsSpan(0, count))
                        {
                            for (ulong page = run.First.Index; page < run.First.Index + run.Count; page++)
                                Raise(ref read[page], Volatile.Read(ref written[page]));
                        }
                    }
                }
                while (!last);
            }));
        }

        threads.ForEach(thread => thread.Start());
        threads.ForEach(thread => Assert.True(thread.Join(TimeSpan.FromMinutes(2)), "a thread hangs"));
        Assert.Equal(written, read);

        static void Raise(ref long slot, long value)
        {
            for (long seen = Volatile.Read(ref slot); seen < value;)
            {
                long now = Interlocked.CompareExchange(ref slot, value, seen);
                if (now == seen)
                    return;
                seen = now;
            }
        }
    }

    /// <summary>One write and one drain at the same instant: the mark comes out now or next time.</summary>
    [Fact]
    public void A_set_beside_a_drain_is_seen_now_or_later()
    {
        using var bitmap = new DirtyBitmap(1000);
        var runs = new DirtyRun[DirtyBitmap.MinRuns];
        ulong taken = 0, lost = 0;
        Litmus.Run(
            round => bitmap.Set((ulong)(round % 1000)),
            _ => taken = Take(),
            _ =>
            {
                if (taken + Take() == 0)
                    lost++;
            });
        Assert.Equal(0UL, lost);

        ulong Take()
        {
            ulong pages = 0;
            for (ulong next = 0; next < bitmap.PageCount;)
            {
                foreach (DirtyRun run in runs.AsSpan(0, bitmap.Drain(ref next, ulong.MaxValue, runs)))
                    pages += run.Count;
            }

            return pages;
        }
    }

    private static void Mark(DirtyBitmap bitmap, bool[] expected, Random random)
    {
        // From single pages, some of them neighbours, to long stretches.
        int stretches = random.Next(1, 400);
        int longest = random.Next(3) switch { 0 => 1, 1 => 3, _ => 3000 };
        for (int i = 0; i < stretches; i++)
        {
            int first = random.Next(expected.Length);
            int count = Math.Min(random.Next(1, longest + 1), expected.Length - first);
            bitmap.SetRange((ulong)first, (ulong)count);
            expected.AsSpan(first, count).Fill(true);
        }
    }
}
