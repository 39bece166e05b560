namespace Godwit.Memory;

/// <summary>
/// The number of a 4 KiB page in the machine's RAM, counted over all RAM blocks in the order they were added. It is what the dirty
/// bitmaps and the migration stream are indexed by, and it is <b>not</b> a GPA divided by the page size: RAM has holes in GPA space.
/// </summary>
public readonly record struct RamPage(ulong Index) : IComparable<RamPage>
{
    /// <summary>log2 of <see cref="Size"/>.</summary>
    public const int Shift = 12;

    /// <summary>Bytes in a page: the granularity of dirty tracking and of the migration stream.</summary>
    public const int Size = 1 << Shift;

    /// <inheritdoc/>
    public int CompareTo(RamPage other) => Index.CompareTo(other.Index);

    /// <inheritdoc/>
    public override string ToString() => $"ram page {Index}";

#pragma warning disable CS1591 // ordering
    public static RamPage operator +(RamPage page, ulong count) => new(checked(page.Index + count));
    public static bool operator <(RamPage left, RamPage right) => left.Index < right.Index;
    public static bool operator >(RamPage left, RamPage right) => left.Index > right.Index;
    public static bool operator <=(RamPage left, RamPage right) => left.Index <= right.Index;
    public static bool operator >=(RamPage left, RamPage right) => left.Index >= right.Index;
#pragma warning restore CS1591
}
