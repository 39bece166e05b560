using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>Where found pages go: the machine's migration bitmap, booked to devices.</summary>
internal class DirtyMarker(DirtyLog log)
{
    /// <summary>A run of pages.</summary>
    public virtual void Mark(RamPage first, ulong count) => log.Mark(first, count, DirtySource.Device);

    /// <summary>Single pages, in any order.</summary>
    public virtual void Mark(ReadOnlySpan<RamPage> pages) => log.Mark(pages, DirtySource.Device);

    /// <summary>The set ones of a run; bit 0 of <c>bits[0]</c> is <paramref name="first"/>, bits past <paramref name="count"/> mean nothing.</summary>
    public virtual void Mark(RamPage first, ReadOnlySpan<ulong> bits, ulong count) => log.Mark(first, bits, count, DirtySource.Device);

    /// <summary>Pages newly marked for devices since recording began.</summary>
    public long Marked => log.MarkedBy(DirtySource.Device);
}
