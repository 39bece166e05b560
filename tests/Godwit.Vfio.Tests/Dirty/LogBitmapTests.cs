using Godwit.Memory;

namespace Godwit.Vfio.Tests;

public sealed class LogBitmapTests
{
    [Fact]
    public void AttributesEveryBitToEveryMappingThatHasItsPage() => Seeds.ForEach(300, random =>
    {
        using var ram = new GuestRam();
        ram.Add("ram", 64UL << 20); // 16384 pages
        ram.Dirty.Start();
        var drained = new ulong[256];
        ram.Dirty.Drain(default, drained);

        ulong granule = 1UL << random.Next(0, 4);
        var window = new IovaPages(granule * 64 * (ulong)random.Next(0, 50), granule * 64 * (ulong)random.Next(1, 8));
        var table = new MappingTable();
        var mappings = new List<Mapping>();
        for (int i = 0; i < 60; i++)
        {
            ulong first = window.First + (ulong)random.NextInt64((long)(window.Count + 400)) - Math.Min(200, window.First);
            var mapping = new Mapping(new IovaPages(first, (ulong)random.Next(1, random.Next(2) == 0 ? 3 : 300)), new RamPage((ulong)random.Next(16000)), random.Next(5) != 0);
            if (table.TryInsert(mapping))
                mappings.Add(mapping);
        }

        var bitmap = new LogBitmap(1 << 16);
        Span<ulong> words = bitmap.Prepare(window, granule);
        var written = new HashSet<ulong>();
        for (int i = random.Next(0, 400); i > 0; i--)
        {
            ulong bit = (ulong)random.NextInt64((long)(window.Count / granule));
            words[(int)(bit / 64)] |= 1UL << (int)(bit % 64);
            for (ulong page = bit * granule; page < (bit + 1) * granule; page++)
                written.Add(window.First + page);
        }

        Assert.Equal((ulong)written.Count, bitmap.CountPages());
        // In any number of pieces.
        ulong middle = window.First + (ulong)random.NextInt64((long)window.Count + 1);
        bitmap.Attribute(table, new DirtyMarker(ram.Dirty), window.First, middle);
        bitmap.Attribute(table, new DirtyMarker(ram.Dirty), middle, window.End);

        var expected = new HashSet<ulong>();
        foreach (Mapping mapping in mappings.Where(m => m.Writable))
        {
            for (ulong page = mapping.Iova.First; page < mapping.Iova.End; page++)
            {
                if (written.Contains(page))
                    expected.Add(mapping.Ram.Index + (page - mapping.Iova.First));
            }
        }

        ram.Dirty.Drain(default, drained);
        var marked = Enumerable.Range(0, 16384).Where(p => (drained[p / 64] >> (p % 64) & 1) != 0).Select(p => (ulong)p);
        Assert.Equal(expected.Order(), marked);
    });

    /// <summary>Many mappings of single pages, of which so many are written that each is looked at, or so few that they are looked for.</summary>
    [Fact]
    public void AttributesSinglePagesHoweverManyAreWritten() => Seeds.ForEach(60, random =>
    {
        const int RamPages = 1 << 15;
        using var ram = new GuestRam();
        ram.Add("ram", (ulong)RamPages << RamPage.Shift);
        ram.Dirty.Start();
        var marker = new DirtyMarker(ram.Dirty);
        var drained = new ulong[RamPages / 64];
        ram.Dirty.Drain(default, drained);

        var window = new IovaPages(64 * (ulong)random.Next(50), 64 * 800);
        var bitmap = new LogBitmap(1 << 16);
        Span<ulong> words = bitmap.Prepare(window, 1);
        var table = new MappingTable();
        var expected = new HashSet<ulong>();
        int share = 0;
        ulong iova = Math.Max(window.First, 20) - 20;
        for (int i = 0; iova < window.End + 20; i++)
        {
            // Stretches in which few, some or all are written; now and then a mapping of several pages, and one that cannot be written to.
            if (i % 500 == 0)
                share = random.Next(4) switch { 0 => 0, 1 => 20, 2 => 400, _ => 1000 };
            ulong pages = random.Next(300) == 0 ? 5UL : 1;
            var mapping = new Mapping(new IovaPages(iova, pages), new RamPage((ulong)random.Next(RamPages - 5)), random.Next(20) != 0);
            Assert.True(table.TryInsert(mapping));
            ulong gap = (ulong)random.Next(6);
            for (ulong page = iova; page < iova + pages + gap; page++)
            {
                if (page < window.First || page >= window.End || random.Next(1000) >= share)
                    continue;
                words[(int)((page - window.First) / 64)] |= 1UL << (int)((page - window.First) % 64);
                if (page < iova + pages && mapping.Writable)
                    expected.Add(mapping.Ram.Index + (page - iova));
            }

            iova += pages + gap;
        }

        ulong set = 0;
        foreach (ulong word in words)
            set += ulong.PopCount(word);
        Assert.Equal(set, bitmap.CountPages());
        bitmap.Attribute(table, marker);
        ram.Dirty.Drain(default, drained);
        Assert.Equal(expected.Order(), Enumerable.Range(0, RamPages).Where(p => (drained[p / 64] >> (p % 64) & 1) != 0).Select(p => (ulong)p));
    });

    [Fact]
    public void NothingIsLeftOfTheReportBefore()
    {
        var bitmap = new LogBitmap(64);
        bitmap.Prepare(new IovaPages(0, 128), 1).Fill(ulong.MaxValue);
        Assert.Equal(128UL, bitmap.CountPages());
        bitmap.Prepare(new IovaPages(0, 128), 1);
        Assert.Equal(0UL, bitmap.CountPages());
    }

    /// <summary>Every sum of neighbouring bits is as large as it gets.</summary>
    [Theory]
    [InlineData(1)]
    [InlineData(8)]
    [InlineData(31 * 8)]
    [InlineData(32 * 8 + 7)]
    [InlineData(1024)]
    public void CountsAFullReport(int words)
    {
        var bitmap = new LogBitmap(1024 * sizeof(ulong));
        bitmap.Prepare(new IovaPages(0, (ulong)words * 64), 1).Fill(ulong.MaxValue);
        Assert.Equal((ulong)words * 64, bitmap.CountPages());
    }
}
