using System.Diagnostics;

namespace Godwit.Memory;

/// <summary>Neighbouring pages that were marked dirty. 8 bytes, because a drain may hand out very many of one page each.</summary>
public readonly record struct DirtyRun
{
    /// <summary>Most pages of a run: 64 GiB of RAM less one page. Longer stretches come as several.</summary>
    public const ulong MaxCount = (1UL << (64 - CountShift)) - 1;

    private const int CountShift = 40; // DirtyBitmap.MaxPages is below 2^40
    private readonly ulong _value;

    /// <summary>Creates a run.</summary>
    /// <param name="first">The first page, below <see cref="DirtyBitmap.MaxPages"/>.</param>
    /// <param name="count">How many, from 1 to <see cref="MaxCount"/>.</param>
    internal DirtyRun(ulong first, ulong count)
    {
        Debug.Assert(first < DirtyBitmap.MaxPages && count is > 0 and <= MaxCount);
        _value = first | count << CountShift;
    }

    /// <summary>The first page.</summary>
    public RamPage First => new(_value & ((1UL << CountShift) - 1));

    /// <summary>How many pages, at least 1.</summary>
    public ulong Count => _value >> CountShift;

    /// <summary>Behind the last page.</summary>
    internal ulong End => First.Index + Count;

    /// <inheritdoc/>
    public override string ToString() => $"{Count} pages from {First}";
}
