using System.Numerics;
using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>
/// The answer of one report, and its translation from the device's pages to RAM pages. One buffer for the life of the device: a sync
/// allocates nothing.
/// </summary>
internal sealed class LogBitmap(int bytes)
{
    /// <summary>Distance to the next set bit from which a search is cheaper than stepping over the mappings between: some 100 steps.</summary>
    private const ulong FarPages = 256;

    private readonly ulong[] _words = new ulong[bytes / sizeof(ulong)];
    private readonly ulong[] _shifted = new ulong[bytes / sizeof(ulong)];
    private IovaPages _window;
    private ulong _granulePages = 1;

    /// <summary>Bits that fit.</summary>
    public ulong Capacity => (ulong)_words.Length * 64;

    /// <summary>Clears and returns the words for a report over <paramref name="window"/>, a multiple of <paramref name="granulePages"/> long.</summary>
    public Span<ulong> Prepare(IovaPages window, ulong granulePages)
    {
        _window = window;
        _granulePages = granulePages;
        Span<ulong> words = _words.AsSpan(0, checked((int)((window.Count / granulePages + 63) / 64)));
        words.Clear();
        return words;
    }

    /// <summary>4 KiB pages that the report says were written; 0 when it says nothing.</summary>
    public ulong CountPages()
    {
        ReadOnlySpan<ulong> words = Words;
        if (!words.ContainsAnyExcept(0UL))
            return 0;
        ulong bits = 0;
        foreach (ulong word in words)
            bits += (ulong)BitOperations.PopCount(word);
        return bits * _granulePages;
    }

    /// <summary>Hands all bits of the window to <paramref name="marker"/>, as below.</summary>
    public void Attribute(MappingTable table, DirtyMarker marker) => Attribute(table, marker, _window.First, _window.End);

    /// <summary>
    /// Hands the bits of every writable mapping of <paramref name="table"/> from page <paramref name="from"/> to <paramref name="end"/>, which lie in
    /// the window, to <paramref name="marker"/>. A tracking page that is shared by several mappings counts for each. Costs work in proportion to the
    /// set bits or to the mappings, whichever are fewer.
    /// </summary>
    public void Attribute(MappingTable table, DirtyMarker marker, ulong from, ulong end)
    {
        if (table.RunCount == 0)
            return;
        ulong page = NextSet(from, end);
        MappingTable.Cursor cursor = table.Seek(page);
        while (page < end && cursor.MoveNext())
        {
            Mapping mapping = cursor.Current;
            if (mapping.Iova.End <= page)
                continue;
            if (mapping.Iova.First > page)
            {
                // The bits up to here belong to nothing in this table.
                if (mapping.Iova.First >= end)
                    return;
                page = NextSet(mapping.Iova.First, end);
            }

            ulong first = Math.Max(mapping.Iova.First, from), last = Math.Min(mapping.Iova.End, end);
            if (page < last)
            {
                if (mapping.Writable)
                    Attribute(first - _window.First, last - first, mapping.Ram + (first - mapping.Iova.First), marker);
                page = NextSet(last, end);
            }

            if (page > mapping.Iova.End + FarPages)
                cursor = table.Seek(page);
        }
    }

    /// <summary>Hands the bits of <paramref name="mapping"/>, which the window covers, to <paramref name="marker"/>.</summary>
    public void Attribute(in Mapping mapping, DirtyMarker marker) =>
        Attribute(mapping.Iova.First - _window.First, mapping.Iova.Count, mapping.Ram, marker);

    /// <summary>The first page from <paramref name="page"/> on whose bit is set, or <paramref name="end"/>. Both lie in the window.</summary>
    public ulong NextSet(ulong page, ulong end)
    {
        if (page >= end)
            return end;
        ulong granule = (page - _window.First) / _granulePages;
        ulong word = _words[granule / 64] >> (int)(granule % 64);
        if (word != 0)
        {
            ulong at = _window.First + (granule + (ulong)BitOperations.TrailingZeroCount(word)) * _granulePages;
            return Math.Min(Math.Max(at, page), end);
        }

        ReadOnlySpan<ulong> rest = Words[((int)(granule / 64) + 1)..];
        int skipped = rest.IndexOfAnyExcept(0UL);
        if (skipped < 0)
            return end;
        granule = (granule / 64 + 1 + (ulong)skipped) * 64 + (ulong)BitOperations.TrailingZeroCount(rest[skipped]);
        return Math.Min(_window.First + granule * _granulePages, end);
    }

    private ReadOnlySpan<ulong> Words => _words.AsSpan(0, (int)((_window.Count / _granulePages + 63) / 64));

    private void Attribute(ulong offset, ulong pages, RamPage ram, DirtyMarker marker)
    {
        if (_granulePages != 1)
        {
            AttributeCoarse(offset, pages, ram, marker);
            return;
        }

        int word = (int)(offset / 64);
        int bit = (int)(offset % 64);
        if (pages == 1)
        {
            if ((_words[word] >> bit & 1) != 0)
                marker.Mark(ram, 1);
            return;
        }

        int last = (int)((offset + pages - 1) / 64);
        ReadOnlySpan<ulong> touched = _words.AsSpan(word, last - word + 1);
        if (!touched.ContainsAnyExcept(0UL))
            return;
        int count = (int)((pages + 63) / 64);
        if (bit == 0)
        {
            marker.Mark(ram, touched[..count], pages);
            return;
        }

        Span<ulong> shifted = _shifted.AsSpan(0, count);
        for (int i = 0; i < count; i++)
        {
            ulong low = touched[i] >> bit;
            shifted[i] = i + 1 < touched.Length ? low | touched[i + 1] << (64 - bit) : low;
        }

        marker.Mark(ram, shifted, pages);
    }

    private void AttributeCoarse(ulong offset, ulong pages, RamPage ram, DirtyMarker marker)
    {
        for (ulong granule = offset / _granulePages; granule * _granulePages < offset + pages; granule++)
        {
            if ((_words[granule / 64] >> (int)(granule % 64) & 1) == 0)
                continue;
            ulong from = Math.Max(granule * _granulePages, offset);
            ulong end = Math.Min((granule + 1) * _granulePages, offset + pages);
            marker.Mark(ram + (from - offset), end - from);
        }
    }
}
