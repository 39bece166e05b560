using System.Numerics;

namespace Godwit.Vfio;

/// <summary>
/// Ranges of one size that follow each other, with values that do too, as one entry of a <see cref="PageRangeMap"/>: 24 bytes whether it is one
/// range or a million.
/// </summary>
/// <param name="Key">First page, and below it <see cref="ShapeBits"/> that say how long each range is.</param>
/// <param name="Pages">Pages of all ranges.</param>
/// <param name="Value">Of the first range.</param>
internal readonly record struct RangeRun(ulong Key, ulong Pages, ulong Value)
{
    /// <summary>What a page number leaves of 64 bits.</summary>
    internal const int ShapeBits = IovaPages.Shift;

    /// <summary>See <see cref="Key"/>. All ones: one range that stays alone.</summary>
    internal const ulong ShapeMask = (1UL << ShapeBits) - 1;

    /// <summary>One range. It can be joined with others of its size when that is a power of two, as pages of every IOMMU are.</summary>
    public static RangeRun Of(IovaPages range, ulong value, bool joins)
    {
        ulong shape = joins && BitOperations.IsPow2(range.Count) ? (ulong)BitOperations.TrailingZeroCount(range.Count) : ShapeMask;
        return new RangeRun(range.First << ShapeBits | shape, range.Count, value);
    }

    /// <summary>First page.</summary>
    public ulong First => Key >> ShapeBits;

    /// <summary>Behind the last page.</summary>
    public ulong End => First + Pages;

    /// <summary>All of it.</summary>
    public IovaPages Range => new(First, Pages);

    /// <summary>Pages of each range in it.</summary>
    public ulong RangePages => Shape == ShapeMask ? Pages : 1UL << (int)Shape;

    private ulong Shape => Key & ShapeMask;

    /// <summary>Whether <paramref name="next"/> continues it: begins where it ends, with ranges of the same size and values that go on by <paramref name="step"/> a page.</summary>
    public bool Continues(in RangeRun next, ulong step) =>
        Shape != ShapeMask && Shape == next.Shape && End == next.First && Value + Pages * step == next.Value;

    /// <summary>It and what continues it.</summary>
    public RangeRun With(in RangeRun next) => this with { Pages = Pages + next.Pages };

    /// <summary>The ranges from page <paramref name="from"/> to <paramref name="end"/>, which lie on borders of ranges.</summary>
    public RangeRun Part(ulong from, ulong end, ulong step) =>
        new(from << ShapeBits | Shape, end - from, Value + (from - First) * step);
}

/// <summary>Runs in a row, as arrays of what they consist of.</summary>
internal readonly ref struct RangeRuns(ReadOnlySpan<ulong> keys, ReadOnlySpan<ulong> pages, ReadOnlySpan<ulong> values)
{
    /// <summary>See <see cref="RangeRun"/>.</summary>
    public ReadOnlySpan<ulong> Keys { get; } = keys;

    /// <summary>See <see cref="RangeRun"/>.</summary>
    public ReadOnlySpan<ulong> Pages { get; } = pages;

    /// <summary>See <see cref="RangeRun"/>.</summary>
    public ReadOnlySpan<ulong> Values { get; } = values;
}
