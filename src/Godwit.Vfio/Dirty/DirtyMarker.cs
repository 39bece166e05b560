using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>Where found pages go: the machine's migration bitmap, booked to devices.</summary>
internal class DirtyMarker(DirtyLog log) : IPageMarks
{
    /// <inheritdoc/>
    public virtual void Mark(RamPage first, ulong count) => log.Mark(first, count, DirtySource.Device);

    /// <inheritdoc/>
    public virtual void Mark(ReadOnlySpan<RamPage> pages, bool many) => log.Mark(pages, DirtySource.Device);

    /// <inheritdoc/>
    public virtual void Mark(RamPage first, ReadOnlySpan<ulong> bits, ulong count) => log.Mark(first, bits, count, DirtySource.Device);

    /// <summary>Pages newly marked for devices since recording began.</summary>
    public long Marked => log.MarkedBy(DirtySource.Device);

    /// <summary>Pages in the machine; final when recording has begun.</summary>
    public ulong PageCount => log.PageCount;
}
