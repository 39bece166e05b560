using System.Runtime.Intrinsics;
using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>
/// What the reports of one sync found, in memory that nobody else sees until <see cref="HandOver"/>: a page costs a plain OR here, where it costs an
/// atomic one in the machine's bitmap, and that one is made once for all pages of a word, whichever mappings and reports they came from.
/// </summary>
/// <remarks>
/// One thread, the one that syncs. What is in here is in neither the device's log nor the machine's bitmap, so a sync ends with handing over, however it
/// ends. That is when its findings count, as before: who takes pages from the bitmap meanwhile gets these at the next time.
/// </remarks>
internal sealed class GatheredMarks : IPageMarks
{
    /// <summary>Words of a line, which has a byte that says whether anything is in it: 2 MiB of RAM.</summary>
    private const int LineWords = 8;

    /// <summary>Lines that are handed over at once: 64 MiB of RAM.</summary>
    private const int LinesAtOnce = 32;

    /// <summary>Words after which it is looked again whether a long stretch of nothing follows.</summary>
    private const int StretchWords = 128;

    private ulong[] _words = [];
    private byte[] _lines = []; // not 0: the line may have bits
    private ulong _pageCount;

    /// <summary>Makes room for as many pages, none of them marked: an eighth of a byte each and a little.</summary>
    public void Open(ulong pageCount)
    {
        _pageCount = pageCount;
        _lines = new byte[checked((int)((pageCount + LineWords * 64 - 1) / (LineWords * 64)))];
        _words = new ulong[_lines.Length * LineWords];
    }

    /// <summary>Lets go of the memory and of what is in it.</summary>
    public void Close() => (_words, _lines, _pageCount) = ([], [], 0);

    /// <inheritdoc/>
    public void Mark(RamPage first, ulong count)
    {
        for (ulong page = first.Index; page < first.Index + count; page++)
            MarkOne(page);
    }

    /// <inheritdoc/>
    public void Mark(ReadOnlySpan<RamPage> pages)
    {
        foreach (RamPage page in pages)
            MarkOne(page.Index);
    }

    /// <inheritdoc/>
    public void Mark(RamPage first, ReadOnlySpan<ulong> bits, ulong count)
    {
        int word = (int)(first.Index / 64), shift = (int)(first.Index % 64), whole = (int)(count / 64);
        ulong rest = count % 64 == 0 ? 0 : bits[whole] & ((1UL << (int)(count % 64)) - 1);
        if (shift == 0)
        {
            OrWords(word, bits[..whole]);
            OrWord(word + whole, rest);
            return;
        }

        ulong carried = 0;
        for (int i = 0; i < whole; i++)
        {
            OrWord(word + i, bits[i] << shift | carried);
            carried = bits[i] >> (64 - shift);
        }

        OrWord(word + whole, rest << shift | carried);
        OrWord(word + whole + 1, rest >> (64 - shift));
    }

    /// <summary>Moves all marks to <paramref name="marker"/>.</summary>
    public void HandOver(DirtyMarker marker)
    {
        for (int line = 0; line < _lines.Length; line = Math.Min(line / LinesAtOnce * LinesAtOnce + LinesAtOnce, _lines.Length))
        {
            int clear = _lines.AsSpan(line).IndexOfAnyExcept((byte)0);
            if (clear < 0)
                return;
            line += clear;
            Span<byte> lines = _lines.AsSpan(line, Math.Min(LinesAtOnce - line % LinesAtOnce, _lines.Length - line));
            lines = lines[..(lines.LastIndexOfAnyExcept((byte)0) + 1)];
            Span<ulong> words = _words.AsSpan(line * LineWords, lines.Length * LineWords);
            ulong first = (ulong)line * LineWords * 64;
            marker.Mark(new RamPage(first), words, Math.Min((ulong)words.Length * 64, _pageCount - first));
            words.Clear();
            lines.Clear();
        }
    }

    private void MarkOne(ulong page)
    {
        _words[page / 64] |= 1UL << (int)(page % 64);
        _lines[page / (LineWords * 64)] = 1;
    }

    private void OrWord(int word, ulong bits)
    {
        if (bits == 0)
            return;
        _words[word] |= bits;
        _lines[word / LineWords] = 1;
    }

    /// <summary>By lines, set bits or not: where there are some, they are in most lines, and a wrong guess costs more than a line.</summary>
    private void OrWords(int word, ReadOnlySpan<ulong> bits)
    {
        int i = 0;
        while (true)
        {
            int zeros = bits[i..].IndexOfAnyExcept(0UL);
            if (zeros < 0)
                return;
            i += zeros;
            int end = Math.Min(bits.Length, i + StretchWords);
            for (; i < end && (word + i) % LineWords != 0; i++)
                OrWord(word + i, bits[i]);
            Span<ulong> target = _words.AsSpan(word + i, end - i);
            ReadOnlySpan<ulong> source = bits[i..end];
            int line = (word + i) / LineWords;
            for (; source.Length >= LineWords; source = source[LineWords..], target = target[LineWords..])
            {
                Vector512<ulong> found = Vector512.Create(source);
                (Vector512.Create((ReadOnlySpan<ulong>)target) | found).CopyTo(target);
                _lines[line++] |= found == Vector512<ulong>.Zero ? (byte)0 : (byte)1;
            }

            i = end - source.Length;
            for (; i < end; i++)
                OrWord(word + i, bits[i]);
        }
    }
}
