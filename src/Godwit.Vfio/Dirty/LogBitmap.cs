using System.Numerics;
using System.Runtime.Intrinsics;
using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>
/// The answer of one report, and its translation from the device's pages to RAM pages. One buffer for the life of the device: a sync
/// allocates nothing.
/// </summary>
/// <param name="bytes">Of the longest answer.</param>
/// <param name="inRow">
/// Set bits after which it is tried, and mappings for which, whether to look at every mapping is cheaper than to look for every set bit.
/// </param>
internal class LogBitmap(int bytes, int inRow = 64)
{
    /// <summary>Single pages that are marked together.</summary>
    private const int PagesAtOnce = 512;

    /// <summary>Of mappings in a row, the part that must have their bit set for that.</summary>
    private const int DensePart = 4;

    private readonly ulong[] _words = new ulong[bytes / sizeof(ulong)];
    private readonly ulong[] _shifted = new ulong[bytes / sizeof(ulong)];
    private readonly RamPage[] _pages = new RamPage[PagesAtOnce];
    private int _pageCount, _inRows; // single pages that were found and not marked yet, and those of them that lay in rows
    private IovaPages _window;
    private int _granuleShift; // log2 of the 4 KiB pages in a page of the device

    /// <summary>Bits that fit.</summary>
    public ulong Capacity => (ulong)_words.Length * 64;

    /// <summary>Clears and returns the words for a report over <paramref name="window"/>, a multiple of <paramref name="granulePages"/> long.</summary>
    public Span<ulong> Prepare(IovaPages window, ulong granulePages)
    {
        _window = window;
        _granuleShift = BitOperations.Log2(granulePages);
        Span<ulong> words = _words.AsSpan(0, checked((int)(((window.Count >> _granuleShift) + 63) / 64)));
        words.Clear();
        return words;
    }

    /// <summary>4 KiB pages that the report says were written; 0 when it says nothing.</summary>
    public ulong CountPages()
    {
        ReadOnlySpan<ulong> words = Words;
        if (!words.ContainsAnyExcept(0UL))
            return 0;
        return CountBits(words) << _granuleShift;
    }

    /// <summary>Sums of two, four and eight neighbouring bits, in eight words at a time; those of a byte are added up while they fit in one.</summary>
    private static ulong CountBits(ReadOnlySpan<ulong> words)
    {
        const int AtOnce = byte.MaxValue / 8;
        var pairs = Vector512.Create(0x5555_5555_5555_5555UL);
        var fours = Vector512.Create(0x3333_3333_3333_3333UL);
        var eights = Vector512.Create(0x0F0F_0F0F_0F0F_0F0FUL);
        ulong bits = 0;
        while (words.Length >= Vector512<ulong>.Count)
        {
            Vector512<ulong> bytes = default;
            for (int i = 0; i < AtOnce && words.Length >= Vector512<ulong>.Count; i++, words = words[Vector512<ulong>.Count..])
            {
                Vector512<ulong> line = Vector512.Create(words);
                line -= (line >>> 1) & pairs;
                line = (line & fours) + ((line >>> 2) & fours);
                bytes += (line + (line >>> 4)) & eights;
            }

            (Vector512<ushort> low, Vector512<ushort> high) = Vector512.Widen(bytes.AsByte());
            bits += Vector512.Sum(low + high);
        }

        foreach (ulong word in words)
            bits += (ulong)BitOperations.PopCount(word);
        return bits;
    }

    /// <summary>Hands all bits of the window to <paramref name="marks"/>, as below.</summary>
    public void Attribute(MappingTable table, IPageMarks marks) => Attribute(table, marks, _window.First, _window.End);

    /// <summary>
    /// Hands the bits of every writable mapping of <paramref name="table"/> from page <paramref name="from"/> to <paramref name="end"/>, which lie in
    /// the window, to <paramref name="marks"/>. A tracking page that is shared by several mappings counts for each. Costs work in proportion to the
    /// set bits or to the mappings, whichever are fewer.
    /// </summary>
    public void Attribute(MappingTable table, IPageMarks marks, ulong from, ulong end)
    {
        if (table.RunCount == 0)
            return;
        ulong page = NextSet(from, end);
        MappingTable.Cursor cursor = table.Seek(page);
        int untilTried = inRow;
        while (page < end && cursor.MoveTo(page))
        {
            ulong first = cursor.First;
            if (first > page)
            {
                // The bits up to here belong to nothing in this table.
                if (first >= end)
                    break;
                page = NextSet(first, end);
                if (page >= cursor.End)
                    continue;
            }

            Mapping mapping = cursor.Current;
            ulong last = Math.Min(mapping.Iova.End, end);
            if (page < last && mapping.Writable)
            {
                ulong start = Math.Max(first, from);
                if (mapping.Iova.Count == 1 && _granuleShift == 0)
                    Found(mapping.Ram, marks);
                else
                    Attribute(start - _window.First, last - start, mapping.Ram + (start - first), marks);
            }

            page = NextSet(last, end);
            if (--untilTried <= 0 && _granuleShift == 0 && page < end)
            {
                bool dense = TryPassInRow(ref cursor, end, marks);
                untilTried = dense ? 0 : inRow;
                page = NextSet(Math.Max(page, cursor.End), end);
            }
        }

        MarkPages(marks);
    }

    /// <summary>Looks at one mapping of a page after the other while enough of them have their bit set. Whether they had until there were no more side by side.</summary>
    private bool TryPassInRow(ref MappingTable.Cursor cursor, ulong end, IPageMarks marks)
    {
        while (true)
        {
            if (_pageCount > PagesAtOnce - inRow)
                MarkPages(marks);
            int seen = PassInRow(ref cursor, end, _pages.AsSpan(_pageCount, inRow), out int found);
            _pageCount += found;
            if (found * DensePart < seen)
                return false;
            _inRows += found;
            if (seen < inRow)
                return true;
        }
    }

    /// <summary>Looks at as many mappings of a page as <paramref name="pages"/> has room for; returns how many these were, of which some were found.</summary>
    private protected virtual int PassInRow(ref MappingTable.Cursor cursor, ulong end, Span<RamPage> pages, out int found) =>
        cursor.PassSinglePages(_words, _window.First, end - _window.First, pages, out found);

    /// <summary>Hands the bits of <paramref name="mapping"/>, which the window covers, to <paramref name="marks"/>.</summary>
    public void Attribute(in Mapping mapping, IPageMarks marks)
    {
        Attribute(mapping.Iova.First - _window.First, mapping.Iova.Count, mapping.Ram, marks);
        MarkPages(marks);
    }

    /// <summary>The first page from <paramref name="page"/> on whose bit is set, or <paramref name="end"/>. Both lie in the window.</summary>
    public ulong NextSet(ulong page, ulong end)
    {
        if (page >= end)
            return end;
        ulong granule = (page - _window.First) >> _granuleShift;
        ulong word = _words[granule / 64] >> (int)(granule % 64);
        if (word != 0)
        {
            ulong at = _window.First + ((granule + (ulong)BitOperations.TrailingZeroCount(word)) << _granuleShift);
            return Math.Min(Math.Max(at, page), end);
        }

        ReadOnlySpan<ulong> rest = Words[((int)(granule / 64) + 1)..];
        int skipped = rest.IndexOfAnyExcept(0UL);
        if (skipped < 0)
            return end;
        granule = (granule / 64 + 1 + (ulong)skipped) * 64 + (ulong)BitOperations.TrailingZeroCount(rest[skipped]);
        return Math.Min(_window.First + (granule << _granuleShift), end);
    }

    private ReadOnlySpan<ulong> Words => _words.AsSpan(0, (int)(((_window.Count >> _granuleShift) + 63) / 64));

    private void Attribute(ulong offset, ulong pages, RamPage ram, IPageMarks marks)
    {
        if (_granuleShift != 0)
        {
            AttributeCoarse(offset, pages, ram, marks);
            return;
        }

        int word = (int)(offset / 64);
        int bit = (int)(offset % 64);
        if (pages == 1)
        {
            if ((_words[word] >> bit & 1) != 0)
                Found(ram, marks);
            return;
        }

        int last = (int)((offset + pages - 1) / 64);
        ReadOnlySpan<ulong> touched = _words.AsSpan(word, last - word + 1);
        if (!touched.ContainsAnyExcept(0UL))
            return;
        int count = (int)((pages + 63) / 64);
        if (bit == 0)
        {
            marks.Mark(ram, touched[..count], pages);
            return;
        }

        Span<ulong> shifted = _shifted.AsSpan(0, count);
        for (int i = 0; i < count; i++)
        {
            ulong low = touched[i] >> bit;
            shifted[i] = i + 1 < touched.Length ? low | touched[i + 1] << (64 - bit) : low;
        }

        marks.Mark(ram, shifted, pages);
    }

    private void Found(RamPage page, IPageMarks marks)
    {
        _pages[_pageCount++] = page;
        if (_pageCount == _pages.Length)
            MarkPages(marks);
    }

    private void MarkPages(IPageMarks marks)
    {
        marks.Mark(_pages.AsSpan(0, _pageCount), many: _inRows > _pageCount / 2);
        (_pageCount, _inRows) = (0, 0);
    }

    private void AttributeCoarse(ulong offset, ulong pages, RamPage ram, IPageMarks marks)
    {
        for (ulong granule = offset >> _granuleShift; granule << _granuleShift < offset + pages; granule++)
        {
            if ((_words[granule / 64] >> (int)(granule % 64) & 1) == 0)
                continue;
            ulong from = Math.Max(granule << _granuleShift, offset);
            ulong end = Math.Min((granule + 1) << _granuleShift, offset + pages);
            marks.Mark(ram + (from - offset), end - from);
        }
    }
}
