namespace Godwit.Memory;

/// <summary>A guest physical address: what a vCPU puts on the bus, and what a translating IOMMU puts out.</summary>
public readonly record struct Gpa(ulong Value) : IComparable<Gpa>
{
    /// <summary>This address plus <paramref name="offset"/> bytes.</summary>
    /// <exception cref="OverflowException">The sum leaves 64 bits.</exception>
    public static Gpa operator +(Gpa address, ulong offset) => new(checked(address.Value + offset));

    /// <summary>The distance in bytes from <paramref name="right"/> up to <paramref name="left"/>.</summary>
    /// <exception cref="OverflowException"><paramref name="right"/> is above <paramref name="left"/>.</exception>
    public static ulong operator -(Gpa left, Gpa right) => checked(left.Value - right.Value);

#pragma warning disable CS1591 // ordering
    public static bool operator <(Gpa left, Gpa right) => left.Value < right.Value;
    public static bool operator >(Gpa left, Gpa right) => left.Value > right.Value;
    public static bool operator <=(Gpa left, Gpa right) => left.Value <= right.Value;
    public static bool operator >=(Gpa left, Gpa right) => left.Value >= right.Value;
#pragma warning restore CS1591

    /// <inheritdoc/>
    public int CompareTo(Gpa other) => Value.CompareTo(other.Value);

    /// <inheritdoc/>
    public override string ToString() => $"gpa 0x{Value:x}";
}
