using Godwit.VfioUser;

namespace Godwit.Vfio.Tests;

/// <summary>Which pages of a region are mapped.</summary>
public sealed class MappableAreasTests
{
    private const ulong Page = 0x1000;

    [Fact]
    public void All_of_a_region_that_offers_all() => Assert.Equal([new(0, 0x4000)], Choose(0x4000, [new(0, 0x4000)]));

    [Fact]
    public void Only_whole_pages_but_for_the_end_of_the_region()
    {
        Assert.Equal([new(0x1000, 0x1000)], Choose(0x4000, [new(0x10, 0x2100)]));
        Assert.Equal([new(0x1000, 0x1234)], Choose(0x2234, [new(0x800, 0x1A34)]));
        Assert.Equal([new(0, 0x100)], Choose(0x100, [new(0, 0x100)]));
        Assert.Empty(Choose(0x4000, [new(0x10, 0xFF0)]));
    }

    [Fact]
    public void No_page_that_the_MSIX_table_or_its_pending_bits_touch()
    {
        Assert.Equal([new(0, 0x1000), new(0x2000, 0x2000)], Choose(0x4000, [new(0, 0x4000)], new SparseArea(0x1800, 0x20), new SparseArea(0x1FF8, 8)));
        Assert.Equal([new(0, 0x1000), new(0x3000, 0x1000)], Choose(0x4000, [new(0, 0x4000)], new SparseArea(0x1FF0, 0x20)));
        Assert.Equal([new(0x1000, 0x1000)], Choose(0x3000, [new(0, 0x3000)], new SparseArea(0x2000, 8), new SparseArea(0, 0x40)));
        Assert.Empty(Choose(0x4000, [new(0, 0x4000)], new SparseArea(0, 0x4000)));
        Assert.Equal([new(0, 0x1000)], Choose(0x4000, [new(0, 0x1000), new(0x2000, 0x1000)], new SparseArea(0x2080, 0x10)));
    }

    [Fact]
    public void What_lies_elsewhere_or_is_nothing_takes_nothing_away() =>
        Assert.Equal([new(0, 0x2000)], Choose(0x2000, [new(0, 0x2000)], new SparseArea(0x2000, 0x10), new SparseArea(0x1000, 0)));

    [Fact]
    public void A_device_cannot_make_it_map_without_end()
    {
        SparseArea[] offered = [.. Enumerable.Range(0, 1000).Select(i => new SparseArea((ulong)i * 2 * Page, Page))];
        Assert.Equal(MappableAreas.Most, Choose(1 << 24, offered).Count);
    }

    [Fact]
    public void Nor_keep_it_busy_or_deep_with_doorbells()
    {
        SparseArea[] doorbells = [.. Enumerable.Range(0, 200_000).Select(i => new SparseArea((ulong)(200_000 - i) * 2 * Page, 8))];
        List<SparseArea> chosen = Choose(1UL << 40, [new(0, 1UL << 40)], doorbells);
        Assert.Equal(MappableAreas.Most, chosen.Count);
        Assert.Equal([new(0, 2 * Page), new(3 * Page, Page)], chosen.Take(2));
    }

    /// <summary>Page by page, against what is offered and kept out.</summary>
    [Fact]
    public void A_page_is_mapped_exactly_when_all_of_it_is_offered_and_none_kept_out()
    {
        Seeds.ForEach(500, random =>
        {
            ulong size = (ulong)random.Next(1, 0x10000);
            SparseArea offered = Piece(random, size);
            SparseArea[] keepOut = [Piece(random, size), Piece(random, size)];
            List<SparseArea> chosen = MappableAreas.Choose(size, [offered], keepOut, Page);
            for (ulong at = 0; at < size; at += Page)
            {
                ulong end = Math.Min(at + Page, size);
                bool right = offered.Offset <= at && offered.Offset + offered.Size >= end && !keepOut.Any(k => k.Size > 0 && k.Offset < at + Page && k.Offset + k.Size > at);
                Assert.True(right == chosen.Any(c => c.Offset <= at && c.Offset + c.Size >= end), $"page 0x{at:x} of {size}");
            }

            Assert.All(chosen, c => Assert.True(c.Offset % Page == 0 && (c.Size % Page == 0 || c.Offset + c.Size == size)));
        });
    }

    private static SparseArea Piece(Random random, ulong size)
    {
        ulong offset = (ulong)random.NextInt64((long)size);
        return new SparseArea(offset, (ulong)random.NextInt64((long)(size - offset) + 1));
    }

    private static List<SparseArea> Choose(ulong size, SparseArea[] offered, params SparseArea[] keepOut) => MappableAreas.Choose(size, offered, keepOut, Page);
}
