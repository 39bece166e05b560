using System.Numerics;

namespace Godwit.Migration;

/// <summary>A set of a machine's pages, for one thread. Its size is this machine's own page count.</summary>
internal sealed class PageSet(ulong pageCount)
{
    private readonly ulong[] _words = new ulong[(pageCount + 63) / 64];

    /// <summary>Pages in the set.</summary>
    internal ulong Count { get; private set; }

    /// <summary>Adds pages; the range is the caller's to check.</summary>
    internal void Add(ulong first, ulong count) => Change(first, count, add: true);

    /// <summary>Removes pages; the range is the caller's to check.</summary>
    internal void Remove(ulong first, ulong count) => Change(first, count, add: false);

    /// <summary>The first page from <paramref name="from"/> on, below <paramref name="end"/>, that is (or is not) in the set; else <paramref name="end"/>.</summary>
    internal ulong Next(ulong from, ulong end, bool inSet)
    {
        while (from < end)
        {
            ulong word = inSet ? _words[from / 64] : ~_words[from / 64];
            word &= ulong.MaxValue << (int)(from % 64);
            if (word != 0)
                return Math.Min(end, (from & ~63UL) + (ulong)BitOperations.TrailingZeroCount(word));
            from = (from & ~63UL) + 64;
        }

        return end;
    }

    private void Change(ulong first, ulong count, bool add)
    {
        ulong end = first + count;
        while (first < end)
        {
            ulong inWord = Math.Min(64 - (first % 64), end - first);
            ulong mask = (inWord == 64 ? ulong.MaxValue : (1UL << (int)inWord) - 1) << (int)(first % 64);
            ref ulong word = ref _words[first / 64];
            ulong changed = (add ? ~word : word) & mask;
            word ^= changed;
            Count = add ? Count + (ulong)BitOperations.PopCount(changed) : Count - (ulong)BitOperations.PopCount(changed);
            first += inWord;
        }
    }
}
