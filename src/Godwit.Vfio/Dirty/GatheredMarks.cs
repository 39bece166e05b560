using System.Runtime.Intrinsics;
using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>
/// What the reports of one sync found, in memory that nobody else sees until <see cref="HandOver"/>: a page costs a plain OR here, where it costs an
/// atomic one in the machine's bitmap, and that one is made once for all pages of a word, whichever mappings and reports they came from. That pays for
/// words and for pages of which there are many; few pages and runs go to the machine's bitmap at once.
/// </summary>
/// <remarks>
/// One thread, the one that syncs. What is in here is in neither the device's log nor the machine's bitmap, so a sync ends with handing over, however it
/// ends. That is when its findings count, as before: who takes pages from the bitmap meanwhile gets these at the next time.
/// </remarks>
internal sealed class GatheredMarks : IPageMarks
{
    /// <summary>Words of a line, which has a byte that says whether anything is in it: 2 MiB of RAM.</summary>
    private const int LineWords = 8;

    /// <summary>Lines that are handed over at once: 64 MiB of RAM, a block of the machine's bitmap.</summary>
    private const int LinesAtOnce = 32;

    /// <summary>Lines of nothing that are handed over too, because that is cheaper than handing over once more.</summary>
    private const int Gap = 2;

    /// <summary>Words after which it is looked again whether a long stretch of nothing follows.</summary>
    private const int StretchWords = 128;

    private readonly DirtyMarker _marker;
    private readonly ulong _pageCount;
    private readonly ulong[] _words;
    private readonly byte[] _lines; // not 0: the line may have bits

    /// <summary>Makes room for as many pages, none of them marked: an eighth of a byte each and a little.</summary>
    /// <param name="marker">Where marks go.</param>
    /// <param name="pageCount">Pages in the machine; 0 while there is nothing to gather.</param>
    /// <exception cref="OverflowException">More than an array holds: 512 TiB of RAM.</exception>
    public GatheredMarks(DirtyMarker marker, ulong pageCount)
    {
        (_marker, _pageCount) = (marker, pageCount);
        int lines = checked((int)((pageCount + LineWords * 64 - 1) / (LineWords * 64)));
        _words = new ulong[checked(lines * LineWords)];
        _lines = new byte[lines];
    }

    /// <inheritdoc/>
    public void Mark(RamPage first, ulong count) => _marker.Mark(first, count);

    /// <inheritdoc/>
    public void Mark(ReadOnlySpan<RamPage> pages, bool many)
    {
        if (!many)
        {
            _marker.Mark(pages, many);
            return;
        }

        foreach (RamPage page in pages)
        {
            _words[page.Index / 64] |= 1UL << (int)(page.Index % 64);
            _lines[page.Index / (LineWords * 64)] = 1;
        }
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

    /// <summary>Moves what was gathered to the machine's bitmap.</summary>
    public void HandOver()
    {
        for (int line = 0; line < _lines.Length;)
        {
            int clear = _lines.AsSpan(line).IndexOfAnyExcept((byte)0);
            if (clear < 0)
                return;
            line += clear;
            int end = line + 1, most = Math.Min((line / LinesAtOnce + 1) * LinesAtOnce, _lines.Length);
            for (int ahead = end; ahead < most && ahead <= end + Gap; ahead++)
            {
                if (_lines[ahead] != 0)
                    end = ahead + 1;
            }

            Span<ulong> words = _words.AsSpan(line * LineWords, (end - line) * LineWords);
            ulong first = (ulong)line * LineWords * 64;
            _marker.Mark(new RamPage(first), words, Math.Min((ulong)words.Length * 64, _pageCount - first));
            words.Clear();
            _lines.AsSpan(line, end - line).Clear();
            line = end;
        }
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
