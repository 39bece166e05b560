using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Godwit.Memory;

/// <summary>
/// One bit per page over a fixed number of pages, in native memory aligned to 64 bytes. All members but <see cref="Dispose"/> may be
/// called from any thread at once: setting is an atomic OR, draining an atomic exchange, so no bit is lost or seen twice.
/// </summary>
/// <remarks>
/// Every change of a word goes through <see cref="OrWord"/> or <see cref="TakeWord"/>; a summary level over blocks of words would be
/// kept there and consulted in <see cref="Drain"/>. Setting bits that are set and draining words that are clear costs a plain read, so
/// neither takes the cache line from the other side. No method is a fence when it changes nothing; <see cref="DirtyLog"/> adds the fences.
/// </remarks>
public sealed unsafe class DirtyBitmap : IDisposable
{
    private const int BitsPerWord = 64;
    private const nuint Alignment = 64;

    private ulong* _words;
    private ulong _pageCount;
    private ulong _wordCount;

    /// <summary>Creates a bitmap of <paramref name="pageCount"/> clear bits.</summary>
    /// <exception cref="ArgumentOutOfRangeException">0, or more pages than a 64-bit space has.</exception>
    public DirtyBitmap(ulong pageCount)
    {
        ArgumentOutOfRangeException.ThrowIfZero(pageCount);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(pageCount, 1UL << (64 - RamPage.Shift));
        ulong wordCount = (pageCount + BitsPerWord - 1) / BitsPerWord;
        // Whole cache lines, so that vectors may read past the last word without leaving the allocation.
        nuint bytes = checked((nuint)((wordCount * sizeof(ulong) + Alignment - 1) & ~((ulong)Alignment - 1)));
        // SAFETY: allocated here with this size, freed once in Dispose; all accesses are bounded by _wordCount.
        _words = (ulong*)NativeMemory.AlignedAlloc(bytes, Alignment);
        NativeMemory.Clear(_words, bytes);
        _pageCount = pageCount;
        _wordCount = wordCount;
    }

    /// <summary>Pages covered.</summary>
    public ulong PageCount => _pageCount;

    /// <summary>Sets one bit; true when it was clear before.</summary>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="page"/> is not covered.</exception>
    public bool Set(ulong page)
    {
        if (page >= _pageCount)
            ThrowOutside(page, 1);
        return OrWord(page / BitsPerWord, 1UL << (int)(page % BitsPerWord)) != 0;
    }

    /// <summary>Whether the bit is set now.</summary>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="page"/> is not covered.</exception>
    public bool IsSet(ulong page)
    {
        if (page >= _pageCount)
            ThrowOutside(page, 1);
        // SAFETY: page is below _pageCount.
        return (Volatile.Read(ref _words[page / BitsPerWord]) >> (int)(page % BitsPerWord) & 1) != 0;
    }

    /// <summary>Sets <paramref name="count"/> bits from <paramref name="first"/>, by whole words; returns how many were clear before.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The range is not covered.</exception>
    public ulong SetRange(ulong first, ulong count)
    {
        CheckRange(first, count);
        if (count == 0)
            return 0;
        ulong lastPage = first + (count - 1);
        ulong word = first / BitsPerWord;
        ulong lastWord = lastPage / BitsPerWord;
        ulong headMask = ulong.MaxValue << (int)(first % BitsPerWord);
        ulong tailMask = ulong.MaxValue >> (BitsPerWord - 1 - (int)(lastPage % BitsPerWord));
        if (word == lastWord)
            return Added(OrWord(word, headMask & tailMask));

        ulong added = Added(OrWord(word++, headMask));
        while ((word = SkipRun<AllOnes>(word, lastWord)) < lastWord)
            added += Added(OrWord(word++, ulong.MaxValue));
        return added + Added(OrWord(lastWord, tailMask));
    }

    /// <summary>
    /// ORs <paramref name="count"/> bits in, bit 0 of <c>bits[0]</c> being page <paramref name="first"/> (any alignment); returns how
    /// many were clear before. Bits past <paramref name="count"/> are ignored.
    /// </summary>
    /// <exception cref="ArgumentOutOfRangeException">The range is not covered, or <paramref name="bits"/> holds fewer bits.</exception>
    public ulong Or(ulong first, ReadOnlySpan<ulong> bits, ulong count)
    {
        CheckRange(first, count);
        if (count > (ulong)bits.Length * BitsPerWord)
            throw new ArgumentOutOfRangeException(nameof(count), count, $"Only {(ulong)bits.Length * BitsPerWord} bits were given");
        if (count == 0)
            return 0;

        int sourceWords = (int)((count + BitsPerWord - 1) / BitsPerWord);
        ulong lastMask = ulong.MaxValue >> (int)((BitsPerWord - count % BitsPerWord) % BitsPerWord);
        ulong target = first / BitsPerWord;
        int shift = (int)(first % BitsPerWord);
        ulong added = 0;
        for (int i = 0; i < sourceWords; i++)
        {
            i += ZeroRun(bits[i..sourceWords]);
            if (i == sourceWords)
                break;
            ulong source = i == sourceWords - 1 ? bits[i] & lastMask : bits[i];
            ulong low = source << shift;
            if (low != 0)
                added += Added(OrWord(target + (ulong)i, low));
            ulong high = shift == 0 ? 0 : source >> (BitsPerWord - shift);
            if (high != 0)
                added += Added(OrWord(target + (ulong)i + 1, high));
        }

        return added;
    }

    /// <summary>
    /// Moves the words from page <paramref name="firstPage"/> (a multiple of 64) into <paramref name="words"/>, clearing them here;
    /// returns the number of set bits. Words past the last page come out 0.
    /// </summary>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="firstPage"/> is no multiple of 64 or not covered.</exception>
    public ulong Drain(ulong firstPage, Span<ulong> words)
    {
        CheckAligned(firstPage);
        ulong first = firstPage / BitsPerWord;
        ulong end = first + Math.Min((ulong)words.Length, _wordCount - first);
        words.Clear();
        ulong count = 0;
        for (ulong word = first; (word = SkipRun<AllZeros>(word, end)) < end; word++)
        {
            ulong taken = TakeWord(word);
            words[(int)(word - first)] = taken;
            count += (ulong)BitOperations.PopCount(taken);
        }

        return count;
    }

    /// <summary>Number of set bits, a snapshot word by word.</summary>
    public ulong Count()
    {
        ulong count = 0;
        for (ulong word = 0; (word = SkipRun<AllZeros>(word, _wordCount)) < _wordCount; word++)
        {
            // SAFETY: word is below _wordCount.
            count += (ulong)BitOperations.PopCount(Volatile.Read(ref _words[word]));
        }

        return count;
    }

    /// <summary>Frees the memory; afterwards no page is covered. No other thread may be inside.</summary>
    public void Dispose()
    {
        // SAFETY: set to null, so it is freed once.
        NativeMemory.AlignedFree(_words);
        _words = null;
        _pageCount = 0;
        _wordCount = 0;
    }

    /// <summary>Sets every bit with plain stores: storing all ones is an OR with all ones. Not to be run beside <see cref="Drain"/>.</summary>
    internal void SetAll()
    {
        ulong lastMask = ulong.MaxValue >> (int)((BitsPerWord - _pageCount % BitsPerWord) % BitsPerWord);
        for (ulong word = 0; word < _wordCount - 1; word++)
        {
            // SAFETY: word is below _wordCount.
            _words[word] = ulong.MaxValue;
        }

        OrWord(_wordCount - 1, lastMask);
    }

    /// <summary>Clears every bit.</summary>
    internal void Clear()
    {
        for (ulong word = 0; (word = SkipRun<AllZeros>(word, _wordCount)) < _wordCount; word++)
            TakeWord(word);
    }

    /// <summary>ORs bits into a word; returns those that were clear before.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private ulong OrWord(ulong word, ulong bits)
    {
        // SAFETY: callers pass a word below _wordCount.
        ref ulong target = ref _words[word];
        return (bits & ~Volatile.Read(ref target)) == 0 ? 0 : bits & ~Interlocked.Or(ref target, bits);
    }

    /// <summary>Takes all bits out of a word.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private ulong TakeWord(ulong word)
    {
        // SAFETY: callers pass a word below _wordCount.
        return Interlocked.Exchange(ref _words[word], 0);
    }

    /// <summary>
    /// The first word from <paramref name="word"/> up to <paramref name="end"/> that is not wholly <typeparamref name="T"/>. The vector
    /// reads are hints only: the word found is read again atomically, and a word passed over was right to pass when it was read.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private ulong SkipRun<T>(ulong word, ulong end) where T : struct, IFill
    {
        ulong* words = _words;
        // SAFETY: reads stay below end, which callers bound by _wordCount.
        if (word < end && words[word] != T.Word)
            return word;
        while (word < end && word % 8 != 0 && words[word] == T.Word)
            word++;
        if (word % 8 == 0)
        {
            if (Vector512.IsHardwareAccelerated)
            {
                while (word + 8 <= end && Vector512.Load(words + word) == Vector512.Create(T.Word))
                    word += 8;
            }
            else
            {
                while (word + 8 <= end
                    && Vector256.Load(words + word) == Vector256.Create(T.Word)
                    && Vector256.Load(words + word + 4) == Vector256.Create(T.Word))
                {
                    word += 8;
                }
            }
        }

        while (word < end && words[word] == T.Word)
            word++;
        return word;
    }

    private static int ZeroRun(ReadOnlySpan<ulong> words)
    {
        if (words[0] != 0)
            return 0;
        int run = words.IndexOfAnyExcept(0UL);
        return run < 0 ? words.Length : run;
    }

    private static ulong Added(ulong bits) => (ulong)BitOperations.PopCount(bits);

    private void CheckRange(ulong first, ulong count)
    {
        if (count > _pageCount || first > _pageCount - count)
            ThrowOutside(first, count);
    }

    private void CheckAligned(ulong firstPage)
    {
        if (firstPage % BitsPerWord != 0)
            throw new ArgumentOutOfRangeException(nameof(firstPage), firstPage, $"The first page must be a multiple of {BitsPerWord}");
        if (firstPage >= _pageCount)
            ThrowOutside(firstPage, 1);
    }

    private void ThrowOutside(ulong first, ulong count) =>
        throw new ArgumentOutOfRangeException(nameof(first), first, $"{count} pages from page {first} leave the bitmap of {_pageCount} pages");

    /// <summary>The word that a run is made of, as a type so that the loops specialise.</summary>
    private interface IFill
    {
        static abstract ulong Word { get; }
    }

    private readonly struct AllZeros : IFill
    {
        public static ulong Word => 0;
    }

    private readonly struct AllOnes : IFill
    {
        public static ulong Word => ulong.MaxValue;
    }
}
