using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>Takes note of pages that a device has written.</summary>
internal interface IPageMarks
{
    /// <summary>A run of pages.</summary>
    void Mark(RamPage first, ulong count);

    /// <summary>Single pages, in any order.</summary>
    /// <param name="pages">The pages.</param>
    /// <param name="many">Whether they are a large part of what is mapped around them, so that others of their words are likely to follow.</param>
    void Mark(ReadOnlySpan<RamPage> pages, bool many);

    /// <summary>The set ones of a run; bit 0 of <c>bits[0]</c> is <paramref name="first"/>, bits past <paramref name="count"/> mean nothing.</summary>
    void Mark(RamPage first, ReadOnlySpan<ulong> bits, ulong count);
}
