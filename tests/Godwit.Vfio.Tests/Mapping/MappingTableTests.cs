using Godwit.Memory;

namespace Godwit.Vfio.Tests;

public sealed class MappingTableTests
{
    [Fact]
    public void BehavesLikeANaiveListUnderRandomChanges() => Seeds.ForEach(60, random =>
    {
        var table = new MappingTable();
        var naive = new List<Mapping>();
        ulong space = (ulong)random.Next(100, 20_000);
        bool continues = random.Next(2) == 0; // by RAM where by IOVA, so that mappings of one size are joined
        int steps = random.Next(100, 4000);
        for (int step = 0; step < steps; step++)
        {
            ulong first = (ulong)random.NextInt64((long)space);
            var range = new IovaPages(first, (ulong)random.Next(1, 6));
            if (random.Next(100) < (step < steps / 2 ? 70 : 30))
            {
                ulong ram = continues ? first + 1000 : (ulong)random.NextInt64(1L << 51);
                var mapping = new Mapping(range, new RamPage(ram), random.Next(continues ? 20 : 2) != 0);
                if (naive.Contains(mapping))
                    Assert.True(table.Contains(mapping));
                if (table.Contains(mapping))
                    Assert.Equal(range.Count, naive.Aggregate(0UL, (pages, m) => pages + Shared(m, mapping)));
                bool free = !naive.Any(m => m.Iova.Overlaps(range));
                Assert.Equal(free, table.TryInsert(mapping));
                if (free)
                    naive.Add(mapping);
            }
            else
            {
                Mapping expected = naive.Where(m => m.Iova.Overlaps(range)).OrderBy(m => m.Iova.First).FirstOrDefault();
                bool found = table.TryTakeFirst(range, out Mapping taken);
                Assert.Equal(expected, taken);
                Assert.Equal(naive.Remove(expected), found);
            }

            Assert.Equal(naive.Count, table.Count);
            Assert.True(table.RunCount <= table.Count);
            if (step % 97 == 0)
            {
                ulong from = (ulong)random.NextInt64((long)space);
                Assert.Equal(naive.Where(m => m.Iova.End > from).OrderBy(m => m.Iova.First), From(table, from));
            }
        }

        Assert.Equal(naive.OrderBy(m => m.Iova.First), From(table, 0));
    });

    [Fact]
    public void GrowsByAscendingAndDescendingInsertionAndShrinksToNothing()
    {
        foreach (bool descending in (bool[])[false, true])
        {
            var table = new MappingTable();
            const int Count = 20_000;
            for (ulong i = 0; i < Count; i++)
                Assert.True(table.TryInsert(new Mapping(new IovaPages(descending ? Count - i : i + 1, 1), new RamPage(i), true)));
            Assert.Equal(Count, From(table, 0).Count);
            while (table.TryTakeFirst(new IovaPages(0, IovaPages.SpacePages), out _))
            {
            }

            Assert.Equal(0, table.Count);
            Assert.Empty(From(table, 0));
        }
    }

    [Fact]
    public void HoldsTheLastPageOfTheSpace()
    {
        var table = new MappingTable();
        var top = new Mapping(new IovaPages(IovaPages.SpacePages - 2, 2), new RamPage(7), true);
        Assert.True(table.TryInsert(top));
        Assert.False(table.TryInsert(top with { Iova = new IovaPages(IovaPages.SpacePages - 1, 1) }));
        Assert.Equal([top], From(table, IovaPages.SpacePages - 1));
        Assert.Equal("iova 0xffffffffffffe000-0xffffffffffffffff", top.Iova.ToString());
    }

    [Fact]
    public void AllocatesNothingInSteadyChurn()
    {
        var table = new MappingTable();
        for (ulong i = 0; i < 4096; i++)
            table.TryInsert(new Mapping(new IovaPages(i * 2, 1), new RamPage(i), true));
        Churn(1000);
        Assert.Equal(0, Allocations.Of(() => Churn(100_000)));

        void Churn(int rounds)
        {
            for (int i = 0; i < rounds; i++)
            {
                var range = new IovaPages((ulong)(i % 4096) * 2, 1);
                Assert.True(table.TryTakeFirst(range, out Mapping mapping));
                Assert.True(table.TryInsert(mapping));
            }
        }
    }

    [Fact]
    public void MappingsThatContinueEachOtherAreOneRunAndCanBeTakenOutOneByOne()
    {
        var table = new MappingTable();
        for (ulong i = 0; i < 10_000; i++)
            Assert.True(table.TryInsert(new Mapping(new IovaPages(i ^ 1, 1), new RamPage(500 + (i ^ 1)), true)));
        Assert.Equal((10_000, 1), (table.Count, table.RunCount));
        Assert.True(table.TryTakeFirst(new IovaPages(5000, 3), out Mapping taken));
        Assert.Equal(new Mapping(new IovaPages(5000, 1), new RamPage(5500), true), taken);
        Assert.Equal((9_999, 2), (table.Count, table.RunCount));
        Assert.False(table.Contains(taken));
        Assert.True(table.TryInsert(taken));
        Assert.Equal((10_000, 1), (table.Count, table.RunCount));
        Assert.True(table.Contains(taken));
        Assert.False(table.Contains(taken with { Ram = new RamPage(1) }));
        Assert.False(table.Contains(taken with { Writable = false }));

        // Another size, another right, other RAM, or a size that is no power of two: none continues it.
        Assert.True(table.TryInsert(new Mapping(new IovaPages(10_000, 2), new RamPage(10_500), true)));
        Assert.True(table.TryInsert(new Mapping(new IovaPages(10_002, 2), new RamPage(10_502), false)));
        Assert.True(table.TryInsert(new Mapping(new IovaPages(10_004, 2), new RamPage(7), false)));
        Assert.True(table.TryInsert(new Mapping(new IovaPages(10_006, 3), new RamPage(9), false)));
        Assert.True(table.TryInsert(new Mapping(new IovaPages(10_009, 3), new RamPage(12), false)));
        Assert.Equal(6, table.RunCount);
    }

    [Fact]
    public void TheEpochTellsOfEveryChange()
    {
        var table = new MappingTable();
        var mapping = new Mapping(new IovaPages(1, 1), new RamPage(1), true);
        long before = table.Epoch;
        Assert.True(table.TryInsert(mapping));
        Assert.NotEqual(before, before = table.Epoch);
        Assert.False(table.TryInsert(mapping));
        Assert.False(table.TryTakeFirst(new IovaPages(9, 9), out _));
        Assert.Equal(before, table.Epoch);
        Assert.True(table.TryTakeFirst(mapping.Iova, out _));
        Assert.NotEqual(before, before = table.Epoch);
        table.Clear();
        Assert.NotEqual(before, table.Epoch);
    }

    /// <summary>
    /// A reader without a lock, while runs are joined and cut and chunks split and merge under it: it sees what is there all the time exactly once, in
    /// order, and never anything that was not put in.
    /// </summary>
    [Fact]
    public void AReaderBesideTheWriterSeesWhatStaysOnceAndNothingElse()
    {
        const ulong Pages = 40_000, Stays = 4;
        var table = new MappingTable();
        for (ulong page = 0; page < Pages; page += Stays)
            Assert.True(table.TryInsert(Make(page)));
        bool stop = false;
        string? failure = null;
        int passes = 0;
        var reader = new Thread(() =>
        {
            while (!Volatile.Read(ref stop) && failure is null)
            {
                ulong end = 0, seen = 0;
                MappingTable.Cursor cursor = table.Seek(0);
                while (cursor.MoveNext())
                {
                    Mapping run = cursor.Current;
                    if (run.Iova.First < end || run.Iova.Count == 0 || run.Iova.End > Pages || run.Ram != Make(run.Iova.First).Ram || !run.Writable)
                        failure = $"{run} after page {end}";
                    end = run.Iova.End;
                    seen += (end + Stays - 1) / Stays - (run.Iova.First + Stays - 1) / Stays;
                }

                if (seen != Pages / Stays)
                    failure ??= $"{seen} of {Pages / Stays} mappings were seen";
                Volatile.Write(ref passes, passes + 1);
            }
        });
        reader.Start();
        var random = new Random(1);
        var patience = System.Diagnostics.Stopwatch.StartNew();
        for (int change = 0; (change < 300_000 || Volatile.Read(ref passes) < 20) && failure is null && patience.Elapsed < TimeSpan.FromSeconds(120); change++)
        {
            // Now many come and then many go, so that chunks fill and empty.
            Mapping mapping = Make((ulong)random.Next((int)Pages));
            if (mapping.Iova.First % Stays == 0)
                continue;
            if (random.Next(8) < (change / 20_000 % 2 == 0 ? 6 : 2))
                table.TryInsert(mapping);
            else
                table.TryTakeFirst(mapping.Iova, out _);
        }

        Volatile.Write(ref stop, true);
        Assert.True(reader.Join(TimeSpan.FromSeconds(60)), "the reader hangs");
        Assert.Null(failure);
        Assert.True(passes >= 20, $"only {passes} passes");

        static Mapping Make(ulong page) => new(new IovaPages(page, 1), new RamPage(page + 77), true);
    }

    [Fact]
    public void NothingIsPassedOfATableThatHasChanged()
    {
        var table = new MappingTable();
        for (ulong i = 0; i < 10; i++)
            table.TryInsert(new Mapping(new IovaPages(2 * i, 1), new RamPage(100 * i), true));
        var pages = new RamPage[4];
        MappingTable.Cursor cursor = table.Seek(0);
        cursor.MoveNext();
        Assert.Equal(4, cursor.PassSinglePages([0b0100_0100_0100], 0, 64, pages, out int found));
        Assert.Equal([new RamPage(100), new RamPage(300)], pages[..found]);
        Assert.Equal(8UL, cursor.First);

        table.TryTakeFirst(new IovaPages(12, 1), out _);
        Assert.Equal(0, cursor.PassSinglePages([ulong.MaxValue], 0, 64, pages, out found));
        Assert.Equal(0, found);
        Assert.True(cursor.MoveNext());
        Assert.Equal(10UL, cursor.First);
        // What has no bit, or has several pages, is left to who looks at one after the other.
        Assert.Equal(1, cursor.PassSinglePages([ulong.MaxValue], 0, 16, pages, out found));
        Assert.Equal([new RamPage(700)], pages[..found]);
    }

    /// <summary>Pages that both have, if they have them at the same RAM and with the same right.</summary>
    private static ulong Shared(Mapping a, Mapping b)
    {
        ulong first = Math.Max(a.Iova.First, b.Iova.First), end = Math.Min(a.Iova.End, b.Iova.End);
        return first < end && a.Writable == b.Writable && a.Ram + (first - a.Iova.First) == b.Ram + (first - b.Iova.First) ? end - first : 0;
    }

    private static List<Mapping> From(MappingTable table, ulong page)
    {
        List<Mapping> result = [];
        MappingTable.Cursor cursor = table.Seek(page);
        while (cursor.MoveNext())
            result.AddRange(cursor.Mappings().Where(m => m.Iova.End > page));
        return result;
    }
}
