namespace Godwit.Memory;

/// <summary>
/// An address within one <see cref="AddressSpace"/>. Which kind it is depends on the space: a GPA in system memory, an IOVA in the
/// space of a device. Convert with <see cref="FromGpa"/> or <see cref="FromIova"/> where the space is known.
/// </summary>
public readonly record struct BusAddress(ulong Value) : IComparable<BusAddress>
{
    /// <summary>This address plus <paramref name="offset"/> bytes.</summary>
    /// <exception cref="OverflowException">The sum leaves 64 bits.</exception>
    public static BusAddress operator +(BusAddress address, ulong offset) => new(checked(address.Value + offset));

    /// <summary>The distance in bytes from <paramref name="right"/> up to <paramref name="left"/>.</summary>
    /// <exception cref="OverflowException"><paramref name="right"/> is above <paramref name="left"/>.</exception>
    public static ulong operator -(BusAddress left, BusAddress right) => checked(left.Value - right.Value);

#pragma warning disable CS1591 // ordering
    public static bool operator <(BusAddress left, BusAddress right) => left.Value < right.Value;
    public static bool operator >(BusAddress left, BusAddress right) => left.Value > right.Value;
    public static bool operator <=(BusAddress left, BusAddress right) => left.Value <= right.Value;
    public static bool operator >=(BusAddress left, BusAddress right) => left.Value >= right.Value;
#pragma warning restore CS1591

    /// <summary>The same number seen in system memory.</summary>
    public static BusAddress FromGpa(Gpa address) => new(address.Value);

    /// <summary>The same number seen in a device's address space.</summary>
    public static BusAddress FromIova(Iova address) => new(address.Value);

    /// <summary>This number as a guest physical address; right only for an address of system memory.</summary>
    public Gpa ToGpa() => new(Value);

    /// <summary>This number as an IOVA; right only for an address of a device's space.</summary>
    public Iova ToIova() => new(Value);

    /// <inheritdoc/>
    public int CompareTo(BusAddress other) => Value.CompareTo(other.Value);

    /// <inheritdoc/>
    public override string ToString() => $"bus 0x{Value:x}";
}
