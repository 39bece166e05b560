namespace Godwit.Memory;

/// <summary>
/// What is known of one block of a <see cref="DirtyBitmap"/>, in one word that changes atomically: which parts of it may have bits set (the
/// summary), which buffer holds its bits, and how often the buffer was exchanged.
/// </summary>
internal readonly record struct DirtyBlock(ulong Value)
{
    /// <summary>Parts of a block; each has a bit of the summary.</summary>
    internal const int Parts = 16;

    /// <summary>Words of a part: two cache lines, which processors fetch in pairs.</summary>
    internal const int WordsPerPart = 16;

    /// <summary>Words of a block: 2 KiB.</summary>
    internal const int Words = Parts * WordsPerPart;

    /// <summary>Pages of a block: 64 MiB of RAM.</summary>
    internal const int Pages = Words * 64;

    /// <summary>Most buffers that can be told apart.</summary>
    internal const ulong MaxBuffers = 1UL << BufferBits;

    /// <summary>The summary bits.</summary>
    internal const ulong PartsMask = (1UL << Parts) - 1;

    private const int BufferBits = 26;
    private const int BufferShift = Parts;
    private const int GenerationShift = BufferShift + BufferBits;

    /// <summary>Parts that may have bits set.</summary>
    internal uint Dirty => (uint)(Value & PartsMask);

    /// <summary>Number of the buffer.</summary>
    internal ulong Buffer => Value >> BufferShift & (MaxBuffers - 1);

    /// <summary>A block whose bits are in <paramref name="buffer"/>, which is clear.</summary>
    internal static DirtyBlock Clear(ulong buffer) => new(buffer << BufferShift);

    /// <summary>The block with another buffer, which is clear.</summary>
    internal DirtyBlock Exchanged(ulong buffer) => new(((Value >> GenerationShift) + 1) << GenerationShift | buffer << BufferShift);

    /// <summary>Whether no buffer was exchanged between this and <paramref name="later"/>.</summary>
    internal bool IsSameBuffer(DirtyBlock later) => ((Value ^ later.Value) & ~PartsMask) == 0;
}
