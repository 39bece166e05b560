using System.Numerics;
using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;
using System.Runtime.Intrinsics.X86;

namespace Godwit.Memory;

/// <summary>What of a processor a drain makes use of.</summary>
internal enum DrainVectors
{
    /// <summary>Nothing in particular.</summary>
    None,

    /// <summary>Compression of vectors of words (AVX-512 F).</summary>
    Words,

    /// <summary>And of vectors of bytes (AVX-512 VBMI2).</summary>
    Bytes,
}

/// <summary>Turns the words of blocks, in ascending order, into runs.</summary>
/// <remarks>
/// With few bits in a word, which bits are set is as good as random, and a processor that guesses wrong pays more than the rest costs. So
/// hardly a branch here depends on single bits: words that are not 0 are gathered first, then the places of their bits are written down,
/// four at a time whether there are as many or not, then eight places at a time become runs of one page; only neighbours take the way of
/// one run after another. Processors that can compress bytes write places and runs down in one go.
/// </remarks>
internal unsafe ref struct RunWriter
{
    /// <summary>Words of scratch memory: those of a block, and what a vector store may touch behind the last.</summary>
    internal const int WordScratch = DirtyBlock.Words + 8;

    /// <summary>Positions of scratch memory: from the gathered words' numbers and a block's bits, as far as they are few.</summary>
    internal const int PositionScratch = WordScratch + FewBits + 16;

    // Up to this many bits in a block and SparseWord in a word, places are written down. Beyond, runs are long and few.
    private const int FewBits = DirtyBlock.Words * 4;
    private const int SparseWord = 16;

    private readonly Span<DirtyRun> _runs;
    private readonly DrainVectors _vectors;
    private readonly Span<ulong> _words; // gathered, not 0
    private readonly Span<uint> _numbers; // of these words in their block
    private readonly Span<uint> _positions; // of bits in the block
    private int _gathered;
    private int _count;

    /// <summary>Writes to <paramref name="runs"/>; the scratch memory has the lengths named above.</summary>
    internal RunWriter(Span<DirtyRun> runs, DrainVectors vectors, Span<ulong> words, Span<uint> positions)
    {
        _runs = runs;
        _vectors = vectors;
        _words = words;
        _numbers = positions[..WordScratch];
        _positions = positions[WordScratch..];
    }

    /// <summary>The most that this processor has.</summary>
    internal static DrainVectors Supported =>
        Avx512Vbmi2.IsSupported && Avx512BW.IsSupported ? DrainVectors.Bytes : Avx512F.IsSupported ? DrainVectors.Words : DrainVectors.None;

    /// <summary>Runs written.</summary>
    internal readonly int Count => _count;

    /// <summary>Pages in them.</summary>
    internal ulong Pages { get; private set; }

    /// <summary>Runs for which there is room.</summary>
    internal readonly int Room => _runs.Length - _count;

    /// <summary>Takes the words that are not 0 of a stretch (a multiple of 8) and clears it. At most a block between two <see cref="WriteGathered"/>.</summary>
    internal void Gather(ulong* words, int first, int count)
    {
        int gathered = _gathered;
        // SAFETY: gathered never exceeds the words seen, which are at most a block; stores reach at most 8 elements further, see WordScratch.
        fixed (ulong* values = _words)
        fixed (uint* numbers = _numbers)
        {
            if (_vectors != DrainVectors.None)
            {
                for (int i = first; i < first + count; i += 8)
                {
                    Vector512<ulong> line = Vector512.Load(words + i);
                    Vector512<ulong> set = ~Vector512.Equals(line, Vector512<ulong>.Zero);
                    Vector512<ulong> places = Vector512<ulong>.Indices + Vector512.Create((ulong)i);
                    Vector512.Store(Avx512F.Compress(Vector512<ulong>.Zero, set, line), values + gathered);
                    Vector256.Store(Avx512F.ConvertToVector256UInt32(Avx512F.Compress(Vector512<ulong>.Zero, set, places)), numbers + gathered);
                    Vector512.Store(Vector512<ulong>.Zero, words + i);
                    gathered += BitOperations.PopCount(set.ExtractMostSignificantBits());
                }
            }
            else
            {
                for (int i = first; i < first + count; i++)
                {
                    values[gathered] = words[i];
                    numbers[gathered] = (uint)i;
                    gathered += words[i] == 0 ? 0 : 1;
                    words[i] = 0;
                }
            }
        }

        _gathered = gathered;
    }

    /// <summary>Writes the runs of what was gathered, from a block that begins with page <paramref name="firstPage"/>.</summary>
    internal void WriteGathered(ulong firstPage)
    {
        if (_vectors == DrainVectors.Bytes)
        {
            WriteCompressed(firstPage);
        }
        else if (TryFindPositions(out int bits))
        {
            Pages += (ulong)bits;
            WritePositions(firstPage, bits);
        }
        else
        {
            for (int i = 0; i < _gathered; i++)
            {
                Pages += (ulong)BitOperations.PopCount(_words[i]);
                WriteWord(firstPage + ((ulong)_numbers[i] * 64), _words[i]);
            }
        }

        _gathered = 0;
    }

    /// <summary>
    /// Each word with few bits, none beside another, becomes runs of one page by one compression of the numbers 0 to 63, without a branch that depends
    /// on which bits these are (AVX-512 VBMI2).
    /// </summary>
    private void WriteCompressed(ulong firstPage)
    {
        const int AtOnce = 8;
        // Byte i of a vector gets byte i / 8 of the word, of which it keeps bit i % 8. The shuffle stays inside 16 bytes, and each of these has the word.
        Vector512<byte> spread = Vector512<byte>.Indices >>> 3;
        Vector512<byte> bits = Vector512.Create(0x8040_2010_0804_0201).AsByte();
        ulong single = Unsafe.BitCast<DirtyRun, ulong>(new DirtyRun(firstPage, 1));
        int pages = 0;
        // SAFETY: _gathered words were written. The caller left room for half of a block's pages; words that are stored as vectors make at most AtOnce
        // runs each, so that even the last vector ends far within.
        fixed (ulong* words = _words)
        fixed (uint* numbers = _numbers)
        fixed (DirtyRun* runs = _runs)
        {
            var next = (ulong*)(runs + _count);
            for (int i = 0; i < _gathered; i++)
            {
                ulong word = words[i];
                ulong place = numbers[i] * 64UL;
                int count = BitOperations.PopCount(word);
                pages += count;
                // Neighbours become one run, and the first bit may continue the word before.
                if ((word & ((word >> 1) | 1)) != 0 || count > AtOnce)
                {
                    _count = (int)(next - (ulong*)runs);
                    WriteWord(firstPage + place, word);
                    next = (ulong*)(runs + _count);
                    continue;
                }

                Vector512<byte> set = Vector512.Equals(Avx512BW.Shuffle(Vector512.Create(word).AsByte(), spread) & bits, bits);
                Vector128<byte> places = Avx512Vbmi2.Compress(Vector512<byte>.Zero, set, Vector512<byte>.Indices).GetLower().GetLower();
                // Adding a place to a run of one page moves its first page: no place leaves the block, so nothing carries.
                Vector512.Store(Avx512F.ConvertToVector512UInt64(places) + Vector512.Create(single + place), next);
                next += count;
            }

            _count = (int)(next - (ulong*)runs);
        }

        Pages += (ulong)pages;
    }

    /// <summary>Finds the places of all bits, or gives up because there are many.</summary>
    private readonly bool TryFindPositions(out int found)
    {
        int total = 0;
        found = 0;
        // SAFETY: at most FewBits positions are kept, and the four stores reach at most four further; both fit in _positions.
        fixed (ulong* words = _words)
        fixed (uint* numbers = _numbers)
        fixed (uint* positions = _positions)
        {
            for (int i = 0; i < _gathered; i++)
            {
                ulong first = words[i];
                int bits = BitOperations.PopCount(first);
                if (bits > SparseWord || total > FewBits - SparseWord)
                    return false;
                // Four at a time, whether there are as many or not: what is too much is written over by the next word.
                uint place = numbers[i] * 64;
                uint* at = positions + total;
                ulong second = first & (first - 1);
                ulong third = second & (second - 1);
                ulong fourth = third & (third - 1);
                at[0] = place + (uint)BitOperations.TrailingZeroCount(first);
                at[1] = place + (uint)BitOperations.TrailingZeroCount(second);
                at[2] = place + (uint)BitOperations.TrailingZeroCount(third);
                at[3] = place + (uint)BitOperations.TrailingZeroCount(fourth);
                at += 4;
                for (ulong rest = fourth & (fourth - 1); rest != 0; rest &= rest - 1)
                    *at++ = place + (uint)BitOperations.TrailingZeroCount(rest);
                total += bits;
            }
        }

        found = total;
        return true;
    }

    private void WritePositions(ulong firstPage, int count)
    {
        int done = 0;
        // SAFETY: reads stay below count. The caller left room for a run a bit, and whole vectors are stored only where eight runs are written.
        fixed (uint* positions = _positions)
        fixed (DirtyRun* runs = _runs)
        {
            Vector256<ulong> single = Vector256.Create(Unsafe.BitCast<DirtyRun, ulong>(new DirtyRun(firstPage, 1)));
            if (count > 0)
                WriteRun(firstPage + positions[done++], 1); // it may continue the block before
            var next = (ulong*)(runs + _count);
            while (done + 8 <= count)
            {
                Vector256<uint> these = Vector256.Load(positions + done);
                if (!Vector256.EqualsAny(Vector256.Load(positions + done - 1) + Vector256<uint>.One, these))
                {
                    // Adding a place to a run of one page moves its first page: no place leaves the block, so nothing carries.
                    (Vector256<ulong> low, Vector256<ulong> high) = Vector256.Widen(these);
                    Vector256.Store(low + single, next);
                    Vector256.Store(high + single, next + 4);
                    next += 8;
                    done += 8;
                    continue;
                }

                _count = (int)(next - (ulong*)runs);
                for (int end = done + 8; done < end; done++)
                    WriteRun(firstPage + positions[done], 1);
                next = (ulong*)(runs + _count);
            }

            _count = (int)(next - (ulong*)runs);
            for (; done < count; done++)
                WriteRun(firstPage + positions[done], 1);
        }
    }

    private void WriteWord(ulong firstPage, ulong word)
    {
        do
        {
            int bit = BitOperations.TrailingZeroCount(word);
            int length = BitOperations.TrailingZeroCount(~(word >> bit));
            WriteRun(firstPage + (ulong)bit, (ulong)length);
            word = bit + length >= 64 ? 0 : word & (ulong.MaxValue << (bit + length));
        }
        while (word != 0);
    }

    private void WriteRun(ulong first, ulong count)
    {
        if (_count > 0)
        {
            ref DirtyRun last = ref _runs[_count - 1];
            if (last.End == first && last.Count + count <= DirtyRun.MaxCount)
            {
                last = new DirtyRun(last.First.Index, last.Count + count);
                return;
            }
        }

        _runs[_count++] = new DirtyRun(first, count);
    }
}
