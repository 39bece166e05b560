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

    [Fact]
    public void NothingIsLeftOfTheReportBefore()
    {
        var bitmap = new LogBitmap(64);
        bitmap.Prepare(new IovaPages(0, 128), 1).Fill(ulong.MaxValue);
        Assert.Equal(128UL, bitmap.CountPages());
        bitmap.Prepare(new IovaPages(0, 128), 1);
        Assert.Equal(0UL, bitmap.CountPages());
    }
}
