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
        int steps = random.Next(100, 4000);
        for (int step = 0; step < steps; step++)
        {
            ulong first = (ulong)random.NextInt64((long)space);
            var range = new IovaPages(first, (ulong)random.Next(1, 6));
            if (random.Next(100) < (step < steps / 2 ? 70 : 30))
            {
                var mapping = new Mapping(range, new RamPage((ulong)random.NextInt64(1L << 51)), random.Next(2) == 0);
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
        long before = GC.GetAllocatedBytesForCurrentThread();
        Churn(100_000);
        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);

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

    private static List<Mapping> From(MappingTable table, ulong page)
    {
        List<Mapping> result = [];
        MappingTable.Cursor cursor = table.Seek(page);
        while (cursor.MoveNext())
            result.Add(cursor.Current);
        return result;
    }
}
