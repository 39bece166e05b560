using Godwit.Memory;

namespace Godwit.Vfio;

/// <summary>
/// A run of 4 KiB pages in a device's address space. Counted in pages, so that the end of a run at the very top of a 64-bit space is
/// still a number (2^52) and nothing wraps (dirty-tracking rule 9).
/// </summary>
/// <param name="First">Number of the first page: IOVA divided by 4096.</param>
/// <param name="Count">Pages, above 0.</param>
internal readonly record struct IovaPages(ulong First, ulong Count)
{
    /// <summary>log2 of the page size; the same as that of a <see cref="RamPage"/>.</summary>
    public const int Shift = RamPage.Shift;

    /// <summary>Pages in a 64-bit space.</summary>
    public const ulong SpacePages = 1UL << (64 - Shift);

    /// <summary>One past the last page.</summary>
    public ulong End => First + Count;

    /// <summary>Address of the first byte.</summary>
    public Iova Iova => new(First << Shift);

    /// <summary>Bytes.</summary>
    /// <exception cref="OverflowException">The run is the whole 64-bit space.</exception>
    public ulong Bytes => Count < SpacePages ? Count << Shift : throw new OverflowException($"{this} is 2^64 bytes long");

    /// <summary>From first page and end.</summary>
    public static IovaPages Between(ulong first, ulong end) => new(first, end - first);

    /// <summary>The whole pages inside <paramref name="range"/>; false when there is none.</summary>
    public static bool TryInside(BusRange range, out IovaPages pages)
    {
        ulong first = (range.First.Value >> Shift) + ((range.First.Value & (RamPage.Size - 1)) == 0 ? 0UL : 1);
        ulong end = (range.Last.Value >> Shift) + ((range.Last.Value & (RamPage.Size - 1)) == RamPage.Size - 1 ? 1UL : 0);
        pages = first < end ? Between(first, end) : default;
        return first < end;
    }

    /// <summary>Page <paramref name="page"/> or the nearest multiple of <paramref name="alignment"/>, a power of two, below it.</summary>
    public static ulong Down(ulong page, ulong alignment) => page & ~(alignment - 1);

    /// <summary>The nearest multiple at or above it.</summary>
    public static ulong Up(ulong page, ulong alignment) => Down(page + alignment - 1, alignment);

    /// <summary>Whether any page is in both.</summary>
    public bool Overlaps(IovaPages other) => First < other.End && other.First < End;

    /// <inheritdoc/>
    public override string ToString() => $"iova 0x{First << Shift:x}-0x{((First + Count - 1) << Shift) | (RamPage.Size - 1):x}";
}
