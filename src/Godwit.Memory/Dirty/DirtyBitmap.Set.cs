using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;

namespace Godwit.Memory;

/// <summary>Setting bits. All of it ends in <see cref="OrBlock"/>.</summary>
public sealed unsafe partial class DirtyBitmap
{
    /// <summary>Pages ahead of which a word is asked for: an atomic OR takes some 7 ns, memory some 100.</summary>
    private const int PrefetchDistance = 16;

    /// <summary>What is set in the words of one block.</summary>
    private interface IBlockBits
    {
        /// <summary>Has the bits in the words of a buffer, as step 2 of the remarks wants it; returns how many were clear.</summary>
        ulong OrInto(ulong* words);
    }

    /// <summary>Sets one bit; true when it was clear before.</summary>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="page"/> is not covered.</exception>
    public bool Set(ulong page)
    {
        if (page >= _pageCount)
            ThrowOutside(page, 1);
        return SetOne(page) != 0;
    }

    /// <summary>Sets the bits of <paramref name="pages"/>, in any order; returns how many were clear before.</summary>
    /// <exception cref="ArgumentOutOfRangeException">One of them is not covered; those before it are set.</exception>
    public ulong Set(ReadOnlySpan<RamPage> pages)
    {
        ulong added = 0;
        for (int i = 0; i < pages.Length; i++)
        {
            if (i + PrefetchDistance < pages.Length)
                Prefetch(pages[i + PrefetchDistance].Index);
            ulong page = pages[i].Index;
            if (page >= _pageCount)
                ThrowOutside(page, 1);
            added += SetOne(page);
        }

        return added;
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
        ulong added = 0;
        while (true)
        {
            ulong lastOfBlock = Math.Min(word | (DirtyBlock.Words - 1), lastWord);
            ulong mask = lastOfBlock == lastWord ? tailMask : ulong.MaxValue;
            var run = new WordRun((int)(word % DirtyBlock.Words), (int)(lastOfBlock % DirtyBlock.Words), headMask, mask);
            added += OrBlock(word / DirtyBlock.Words, run.Parts, run);
            if (lastOfBlock == lastWord)
                return added;
            headMask = ulong.MaxValue;
            word = lastOfBlock + 1;
        }
    }

    /// <summary>
    /// ORs <paramref name="count"/> bits in, bit 0 of <c>bits[0]</c> being page <paramref name="first"/> (any alignment); returns how
    /// many were clear before. Bits past <paramref name="count"/> are ignored.
    /// </summary>
    /// <exception cref="ArgumentOutOfRangeException">The range is not covered, or <paramref name="bits"/> holds fewer bits.</exception>
    [SkipLocalsInit] // what is gathered is written before it is read
    public ulong Or(ulong first, ReadOnlySpan<ulong> bits, ulong count)
    {
        CheckRange(first, count);
        if (count > (ulong)bits.Length * BitsPerWord)
            throw new ArgumentOutOfRangeException(nameof(count), count, $"Only {(ulong)bits.Length * BitsPerWord} bits were given");
        if (count == 0)
            return 0;

        var source = new ShiftedBits(bits, first, count);
        Span<ulong> values = stackalloc ulong[DirtyBlock.Words];
        Span<byte> places = stackalloc byte[DirtyBlock.Words];
        ulong added = 0;
        for (ulong word = first / BitsPerWord, lastWord = (first + (count - 1)) / BitsPerWord; word <= lastWord; word = (word | (DirtyBlock.Words - 1)) + 1)
        {
            ulong block = word / DirtyBlock.Words;
            var found = new WordList(values, places);
            // The words are asked for while the rest is looked for. They may be another buffer's by the time: it is a hint.
            // SAFETY: the range is covered, so the block is below _blockCount.
            source.Gather(word, Math.Min(word | (DirtyBlock.Words - 1), lastWord), Buffer(new DirtyBlock(Volatile.Read(ref _blocks[block]))), ref found);
            if (found.Count > 0)
                added += OrBlock(block, found.Parts, found);
        }

        return added;
    }

    /// <summary>Sets every bit.</summary>
    internal void SetAll() => SetRange(0, _pageCount);

    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private ulong SetOne(ulong page)
    {
        ulong word = page / BitsPerWord;
        return OrBlock(word / DirtyBlock.Words, 1UL << PartOf(word), new OneBit((int)(word % DirtyBlock.Words), 1UL << (int)(page % BitsPerWord)));
    }

    /// <summary>
    /// ORs bits into words of a block, which lie in <paramref name="parts"/>. Returns how many were clear before. The order of its steps is explained at
    /// the class.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private ulong OrBlock<TBits>(ulong block, ulong parts, scoped in TBits bits)
        where TBits : struct, IBlockBits, allows ref struct
    {
        // SAFETY: callers pass the block of covered pages, so it is below _blockCount, and places below Words.
        ref ulong entry = ref _blocks[block];
        while (true)
        {
            var before = new DirtyBlock(Volatile.Read(ref entry));
            ulong added = bits.OrInto(Buffer(before));
            ulong after = (before.Dirty & parts) == parts ? Volatile.Read(ref entry) : Interlocked.Or(ref entry, parts);
            if (before.IsSameBuffer(new DirtyBlock(after)))
                return added;
        }
    }

    /// <summary>Has bits in a word: found there by an acquiring read, or by atomic OR. Returns how many were clear.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static ulong OrWord(ref ulong word, ulong bits) =>
        (bits & ~Volatile.Read(ref word)) == 0 ? 0 : (ulong)BitOperations.PopCount(bits & ~Interlocked.Or(ref word, bits));

    /// <summary>Asks for the word of a page, so that it is there when it is to be changed. Does nothing for a page that is not covered.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private void Prefetch(ulong page)
    {
        if (!Sse.IsSupported || page >= _pageCount)
            return;
        // SAFETY: page is below _pageCount, and a prefetch changes nothing.
        var block = new DirtyBlock(Volatile.Read(ref _blocks[page / DirtyBlock.Pages]));
        Sse.Prefetch0(Buffer(block) + page / BitsPerWord % DirtyBlock.Words);
    }

    private readonly struct OneBit(int place, ulong bit) : IBlockBits
    {
        public ulong OrInto(ulong* words) => OrWord(ref words[place], bit);
    }

    /// <summary>All bits of words in a row, with masks for the first and the last.</summary>
    private readonly struct WordRun(int first, int last, ulong headMask, ulong tailMask) : IBlockBits
    {
        public ulong Parts => (2UL << (last / DirtyBlock.WordsPerPart)) - (1UL << (first / DirtyBlock.WordsPerPart));

        public ulong OrInto(ulong* words)
        {
            ulong added = 0;
            for (int i = first; i <= last; i++)
                added += OrWord(ref words[i], (i == first ? headMask : ulong.MaxValue) & (i == last ? tailMask : ulong.MaxValue));
            return added;
        }
    }

    /// <summary>Words in any places, none of them zero.</summary>
    private ref struct WordList(Span<ulong> values, Span<byte> places) : IBlockBits
    {
        private readonly Span<ulong> _values = values;
        private readonly Span<byte> _places = places;

        public int Count { get; private set; }

        public ulong Parts { get; private set; }

        public void Add(int place, ulong value)
        {
            _values[Count] = value;
            _places[Count] = (byte)place;
            Count++;
            Parts |= 1UL << (place / DirtyBlock.WordsPerPart);
        }

        public readonly ulong OrInto(ulong* words)
        {
            ulong added = 0;
            for (int i = 0; i < Count; i++)
                added += OrWord(ref words[_places[i]], _values[i]);
            return added;
        }
    }

    /// <summary>Bits that begin at any page, cut into words of this bitmap.</summary>
    private readonly ref struct ShiftedBits
    {
        private readonly ReadOnlySpan<ulong> _bits;
        private readonly ulong _firstWord;
        private readonly int _shift;
        private readonly ulong _lastMask; // of the last word of _bits

        public ShiftedBits(ReadOnlySpan<ulong> bits, ulong first, ulong count)
        {
            _bits = bits[..(int)((count + BitsPerWord - 1) / BitsPerWord)];
            _firstWord = first / BitsPerWord;
            _shift = (int)(first % BitsPerWord);
            _lastMask = ulong.MaxValue >> (int)((BitsPerWord - count % BitsPerWord) % BitsPerWord);
        }

        /// <summary>Adds the words from <paramref name="word"/> to <paramref name="last"/> that are not zero, of one block, whose words are at <paramref name="target"/>.</summary>
        public void Gather(ulong word, ulong last, ulong* target, ref WordList found)
        {
            int place = (int)(word % DirtyBlock.Words), end = (int)(last % DirtyBlock.Words) + 1;
            int at = (int)(word - _firstWord); // of _bits; one past its end for what is shifted out of it
            ulong carried = _shift != 0 && at > 0 ? At(at - 1) >> (BitsPerWord - _shift) : 0;
            while (place < end)
            {
                if (carried == 0)
                {
                    int zeros = at < _bits.Length ? ZeroRun(_bits[at..]) : end - place;
                    place += zeros;
                    at += zeros;
                    if (place >= end)
                        return;
                }

                ulong source = at < _bits.Length ? At(at) : 0;
                ulong value = source << _shift | carried;
                carried = _shift == 0 ? 0 : source >> (BitsPerWord - _shift);
                if (value != 0)
                {
                    // SAFETY: place is below Words, and a prefetch changes nothing.
                    if (Sse.IsSupported)
                        Sse.Prefetch0(target + place);
                    found.Add(place, value);
                }

                place++;
                at++;
            }
        }

        private ulong At(int i) => i == _bits.Length - 1 ? _bits[i] & _lastMask : _bits[i];

        private static int ZeroRun(ReadOnlySpan<ulong> words)
        {
            if (words[0] != 0)
                return 0;
            int run = words.IndexOfAnyExcept(0UL);
            return run < 0 ? words.Length : run;
        }
    }
}
