namespace Godwit.Vfio.Bench;

/// <summary>How a guest lays out what it maps.</summary>
internal enum Layout
{
    /// <summary>Single pages with a gap of 1 to 15 pages between, downwards from 4 GiB or from the end of the aperture: what is left of a driver's buffers.</summary>
    Scattered,

    /// <summary>64 pages in a row to 64 pages of RAM in any order, then a gap of as many: rings and pools.</summary>
    Clustered,

    /// <summary>2 MiB pages in a row: a user-space driver's memory.</summary>
    Large,

    /// <summary>Single pages anywhere in the aperture: no allocator does it, and nothing could make reports of it cheap.</summary>
    Uniform,
}

/// <summary>Mappings of one layout.</summary>
internal static class Layouts
{
    /// <summary>Pages of each mapping.</summary>
    public static ulong PagesOf(Layout layout) => layout == Layout.Large ? 512UL : 1;

    /// <summary>IOVA pages of <paramref name="count"/> mappings, ascending; null when they do not fit.</summary>
    public static ulong[]? Place(Layout layout, int count, int apertureBits, Random random)
    {
        ulong end = 1UL << (apertureBits - 12);
        var pages = new ulong[count];
        if (layout == Layout.Uniform)
        {
            for (int i = 0; i < count; i++)
                pages[i] = (ulong)random.NextInt64((long)end);
            Array.Sort(pages);
            for (int i = 1; i < count; i++)
                pages[i] = Math.Max(pages[i], pages[i - 1] + 1);
            return pages[^1] < end ? pages : null;
        }

        ulong at = 0;
        for (int i = 0; i < count; i++)
        {
            pages[i] = at;
            at += layout switch
            {
                Layout.Scattered => 2UL + (ulong)random.Next(15),
                Layout.Clustered => i % 64 == 63 ? 65UL : 1,
                _ => 512UL,
            };
        }

        // Downwards from 4 GiB when it fits below, as Linux does, else from the end of the aperture.
        ulong top = at <= 1 << 20 ? 1UL << 20 : end;
        if (at > top)
            return null;
        for (int i = 0; i < count; i++)
            pages[i] += (top - at) / 512 * 512;
        return pages;
    }
}
