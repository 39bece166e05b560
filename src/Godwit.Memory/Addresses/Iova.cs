namespace Godwit.Memory;

/// <summary>An I/O virtual address: what a device behind a (virtual) IOMMU puts on the bus.</summary>
public readonly record struct Iova(ulong Value) : IComparable<Iova>
{
    /// <summary>This address plus <paramref name="offset"/> bytes.</summary>
    /// <exception cref="OverflowException">The sum leaves 64 bits.</exception>
    public static Iova operator +(Iova address, ulong offset) => new(checked(address.Value + offset));

    /// <summary>The distance in bytes from <paramref name="right"/> up to <paramref name="left"/>.</summary>
    /// <exception cref="OverflowException"><paramref name="right"/> is above <paramref name="left"/>.</exception>
    public static ulong operator -(Iova left, Iova right) => checked(left.Value - right.Value);

#pragma warning disable CS1591 // ordering
    public static bool operator <(Iova left, Iova right) => left.Value < right.Value;
    public static bool operator >(Iova left, Iova right) => left.Value > right.Value;
    public static bool operator <=(Iova left, Iova right) => left.Value <= right.Value;
    public static bool operator >=(Iova left, Iova right) => left.Value >= right.Value;
#pragma warning restore CS1591

    /// <inheritdoc/>
    public int CompareTo(Iova other) => Value.CompareTo(other.Value);

    /// <inheritdoc/>
    public override string ToString() => $"iova 0x{Value:x}";
}
