using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>Takes note of pages that a device has written.</summary>
internal interface IPageMarks
{
    /// <summary>A run of pages.</summary>
    void Mark(RamPage first, ulong count);

    /// <summary>Single pages, in any order.</summary>
    void Mark(ReadOnlySpan<RamPage> pages);

    /// <summary>The set ones of a run; bit 0 of <c>bits[0]</c> is <paramref name="first"/>, bits past <paramref name="count"/> mean nothing.</summary>
    void Mark(RamPage first, ReadOnlySpan<ulong> bits, ulong count);
}
