using System.Numerics;
using System.Runtime.Intrinsics.X86;

namespace Godwit.Memory;

/// <summary>Taking bits out.</summary>
public sealed unsafe partial class DirtyBitmap
{
    /// <summary>Shortest span of runs that a drain takes: the most runs that a block can make.</summary>
    public const int MinRuns = DirtyBlock.Pages / 2;

    /// <summary>
    /// Moves bits out from page <paramref name="next"/> on, as runs of neighbouring pages in ascending order, and clears them here. Stops at
    /// the end, or behind the block with which <paramref name="enough"/> pages are reached or the next block's runs might not fit.
    /// <paramref name="next"/> moves on to where the following call begins; it is <see cref="PageCount"/> at the end. Returns how many
    /// runs were written. Two calls may split a run between them.
    /// </summary>
    /// <param name="next">A multiple of 16384, or <see cref="PageCount"/>.</param>
    /// <param name="enough">Pages after which to stop; at most 16383 more are handed out.</param>
    /// <param name="runs">At least <see cref="MinRuns"/> long.</param>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="next"/> is no such page.</exception>
    /// <exception cref="ArgumentException"><paramref name="runs"/> is too short.</exception>
    public int Drain(ref ulong next, ulong enough, Span<DirtyRun> runs)
    {
        if (next > _pageCount || (next % DirtyBlock.Pages != 0 && next != _pageCount))
            throw new ArgumentOutOfRangeException(nameof(next), next, $"A drain begins at a multiple of {DirtyBlock.Pages} pages, or at the end of {_pageCount}");
        if (runs.Length < MinRuns)
            throw new ArgumentException($"A drain needs room for {MinRuns} runs, not {runs.Length}", nameof(runs));
        if (next == _pageCount)
            return 0;
        lock (_drain)
        {
            var writer = new RunWriter(runs, _vectors, stackalloc ulong[RunWriter.WordScratch], stackalloc uint[RunWriter.PositionScratch]);
            ulong block = NextDirtyBlock(next / DirtyBlock.Pages);
            ulong done = block;
            while (block < _blockCount)
            {
                ulong following = NextDirtyBlock(block + 1);
                DrainBlock(block, following, ref writer);
                done = block + 1;
                block = following;
                if (writer.Pages >= enough || writer.Room < MinRuns)
                    break;
                done = block;
            }

            next = Math.Min(done * DirtyBlock.Pages, _pageCount);
            return writer.Count;
        }
    }

    /// <summary>
    /// Moves the words from page <paramref name="firstPage"/> (a multiple of 64) into <paramref name="words"/>, clearing them here;
    /// returns the number of set bits. Words past the last page come out 0. Word by word: for a few words, and where exactly these
    /// must be taken.
    /// </summary>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="firstPage"/> is no multiple of 64 or not covered.</exception>
    public ulong Drain(ulong firstPage, Span<ulong> words)
    {
        if (firstPage % BitsPerWord != 0)
            throw new ArgumentOutOfRangeException(nameof(firstPage), firstPage, $"The first page must be a multiple of {BitsPerWord}");
        if (firstPage >= _pageCount)
            ThrowOutside(firstPage, 1);
        words.Clear();
        ulong count = 0;
        lock (_drain)
        {
            // No buffer is exchanged meanwhile, so an exchange of a word takes exactly its bits. The summary stays as it is.
            for (int i = 0; i < words.Length && firstPage < _pageCount; i++, firstPage += BitsPerWord)
            {
                ulong word = firstPage / BitsPerWord;
                ulong block = word / DirtyBlock.Words;
                // SAFETY: firstPage is below _pageCount.
                var entry = new DirtyBlock(Volatile.Read(ref _blocks[block]));
                ref ulong bits = ref Buffer(entry)[word % DirtyBlock.Words];
                if ((entry.Dirty >> PartOf(word) & 1) == 0 || Volatile.Read(ref bits) == 0)
                    continue;
                words[i] = Interlocked.Exchange(ref bits, 0) & WordMask(block, (int)(word % DirtyBlock.Words));
                count += (ulong)BitOperations.PopCount(words[i]);
            }
        }

        return count;
    }

    /// <summary>Clears every bit.</summary>
    internal void Clear()
    {
        lock (_drain)
        {
            for (ulong block = 0; (block = NextDirtyBlock(block)) < _blockCount; block++)
            {
                DirtyBlock taken = Take(block);
                new Span<ulong>(Buffer(taken), DirtyBlock.Words).Clear();
                _spare = taken.Buffer;
            }
        }
    }

    private void DrainBlock(ulong block, ulong following, ref RunWriter writer)
    {
        DirtyBlock taken = Take(block);
        // SAFETY: the buffer is ours since it was exchanged, and has Words words.
        ulong* words = Buffer(taken);
        if ((block + 1) * DirtyBlock.Pages > _pageCount)
        {
            for (int word = 0; word < DirtyBlock.Words; word++)
                words[word] &= WordMask(block, word);
        }

        // Memory is fastest in one stretch. Leaving parts out pays when they are many.
        if (BitOperations.PopCount(taken.Dirty) >= DirtyBlock.Parts / 4)
        {
            writer.Gather(words, 0, DirtyBlock.Words);
        }
        else
        {
            for (uint parts = taken.Dirty; parts != 0; parts &= parts - 1)
                writer.Gather(words, BitOperations.TrailingZeroCount(parts) * DirtyBlock.WordsPerPart, DirtyBlock.WordsPerPart);
        }

        if (following < _blockCount)
            Prefetch(new DirtyBlock(Volatile.Read(ref _blocks[following])));
        writer.WriteGathered(block * DirtyBlock.Pages);
        _spare = taken.Buffer;
    }

    /// <summary>Asks for the words of the next block while the runs of this one are written: computing and memory take about as long.</summary>
    private void Prefetch(DirtyBlock block)
    {
        if (!Sse.IsSupported)
            return;
        for (uint parts = block.Dirty; parts != 0; parts &= parts - 1)
        {
            // SAFETY: a prefetch of an address reads and writes nothing, and this is inside the buffer.
            ulong* words = Buffer(block) + BitOperations.TrailingZeroCount(parts) * DirtyBlock.WordsPerPart;
            Sse.Prefetch0(words);
            Sse.Prefetch0(words + DirtyBlock.WordsPerPart / 2);
        }
    }

    /// <summary>Exchanges the block's buffer for the spare one. The caller clears what it takes and makes it the spare.</summary>
    private DirtyBlock Take(ulong block)
    {
        // SAFETY: callers pass a block below _blockCount. Only drains change the upper part, and _drain is held.
        ref ulong entry = ref _blocks[block];
        DirtyBlock clear = new DirtyBlock(Volatile.Read(ref entry)).Exchanged(_spare);
        return new DirtyBlock(Interlocked.Exchange(ref entry, clear.Value));
    }
}
