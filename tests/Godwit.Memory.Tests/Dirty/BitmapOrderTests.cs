namespace Godwit.Memory.Tests;

/// <summary>
/// The order of steps in <see cref="DirtyBitmap"/>, by coming between any two of them, on one thread: the source as it is loses nothing, and each
/// variant with the steps in another order is found out. (What processors may reorder is for <see cref="Litmus"/>.)
/// </summary>
public sealed class BitmapOrderTests
{
    private const ulong Page = 130, PageCount = 3 * DirtyBlock.Pages;

    [Fact]
    public void Whatever_comes_between_two_steps_no_bit_is_lost()
    {
        Assert.Null(FindLost(() => Bitmap.Stepped(), out int interrupted));
        Assert.Equal(2 * 3 * 4 + 3 * 4, interrupted); // a mark by either drain at three steps, drains by a mark at three, for each neighbour
    }

    [Theory]
    [InlineData(nameof(Variants.SummaryFirst))]
    [InlineData(nameof(Variants.SummaryClearedLast))]
    [InlineData(nameof(Variants.WordClearedByStore))]
    [InlineData(nameof(Variants.GenerationIgnored))]
    public void Another_order_loses_a_bit(string variant)
    {
        string? lost = FindLost(() => Bitmap.Of(variant), out int interrupted);
        TestContext.Current.TestOutputHelper?.WriteLine($"{variant} was seen at interruption {interrupted}: {lost}");
        Assert.NotNull(lost);
    }

    /// <summary>The first interruption after which a page that was marked has not come out of any drain; null when there is none.</summary>
    private static string? FindLost(Func<Bitmap> create, out int interrupted)
    {
        interrupted = 0;
        // Beside nothing, itself, a page in the same word, and one in the same part.
        foreach (ulong? neighbour in (ulong?[])[null, Page, Page + 1, Page + 600])
        {
            foreach (BitmapStep step in Enum.GetValues<BitmapStep>())
            {
                foreach (bool byWords in (bool[])[false, true])
                {
                    foreach (bool markFirst in (bool[])[false, true])
                    {
                        using Bitmap bitmap = create();
                        var drained = new HashSet<ulong>();
                        // Something for a drain to take, where there would be nothing.
                        ulong[] marked = [neighbour ?? Page + 5000];
                        bitmap.Set(marked[0]);
                        void Mark() => bitmap.Set(Page);
                        void Drain() => bitmap.Drain(byWords, drained);
                        if (!(markFirst ? BitmapSteps.Interrupt(step, Mark, Drain) : BitmapSteps.Interrupt(step, Drain, Mark)))
                            continue;
                        interrupted++;
                        bitmap.Drain(byWords: false, drained);
                        foreach (ulong page in (ulong[])[marked[0], Page])
                        {
                            if (!drained.Contains(page))
                                return $"page {page}, when a {(markFirst ? "mark" : "drain")} was interrupted at {step}, with page {marked[0]} marked before";
                        }
                    }
                }
            }
        }

        return null;
    }

    /// <summary>One of the variants, which have no type in common.</summary>
    private sealed class Bitmap(Func<ulong, bool> set, Bitmap.Runs runs, Bitmap.Words words, IDisposable owned) : IDisposable
    {
        public delegate int Runs(ref ulong next, ulong enough, Span<DirtyRun> runs);

        public delegate ulong Words(ulong first, Span<ulong> words);

        public static Bitmap Stepped() => Of(nameof(Variants.Stepped));

        public static Bitmap Of(string variant)
        {
            switch (variant)
            {
                case nameof(Variants.Stepped):
                    var stepped = new Variants.Stepped.DirtyBitmap(PageCount);
                    return new Bitmap(stepped.Set, stepped.Drain, stepped.Drain, stepped);
                case nameof(Variants.SummaryFirst):
                    var summaryFirst = new Variants.SummaryFirst.DirtyBitmap(PageCount);
                    return new Bitmap(summaryFirst.Set, summaryFirst.Drain, summaryFirst.Drain, summaryFirst);
                case nameof(Variants.SummaryClearedLast):
                    var clearedLast = new Variants.SummaryClearedLast.DirtyBitmap(PageCount);
                    return new Bitmap(clearedLast.Set, clearedLast.Drain, clearedLast.Drain, clearedLast);
                case nameof(Variants.WordClearedByStore):
                    var byStore = new Variants.WordClearedByStore.DirtyBitmap(PageCount);
                    return new Bitmap(byStore.Set, byStore.Drain, byStore.Drain, byStore);
                default:
                    var ignored = new Variants.GenerationIgnored.DirtyBitmap(PageCount);
                    return new Bitmap(ignored.Set, ignored.Drain, ignored.Drain, ignored);
            }
        }

        public void Set(ulong page) => set(page);

        public void Drain(bool byWords, HashSet<ulong> pages)
        {
            if (byWords)
            {
                var all = new ulong[PageCount / 64];
                words(0, all);
                for (ulong page = 0; page < PageCount; page++)
                {
                    if ((all[page / 64] >> (int)(page % 64) & 1) != 0)
                        pages.Add(page);
                }

                return;
            }

            var found = new DirtyRun[DirtyBitmap.MinRuns];
            for (ulong next = 0; next < PageCount;)
            {
                foreach (DirtyRun run in found.AsSpan(0, runs(ref next, ulong.MaxValue, found)))
                {
                    for (ulong page = run.First.Index; page < run.First.Index + run.Count; page++)
                        pages.Add(page);
                }
            }
        }

        public void Dispose() => owned.Dispose();
    }
}
