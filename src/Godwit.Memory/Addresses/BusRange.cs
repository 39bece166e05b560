namespace Godwit.Memory;

/// <summary>
/// A non-empty range of bus addresses by its first and last byte. Inclusive ends let a range reach the top of a 64-bit space without
/// an end that wraps (dirty-tracking rule 9).
/// </summary>
public readonly record struct BusRange
{
    /// <summary>Creates the range.</summary>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="last"/> is below <paramref name="first"/>.</exception>
    public BusRange(BusAddress first, BusAddress last)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(last, first);
        First = first;
        Last = last;
    }

    /// <summary>The whole 64-bit space.</summary>
    public static BusRange All => new(default, new BusAddress(ulong.MaxValue));

    /// <summary>First byte.</summary>
    public BusAddress First { get; }

    /// <summary>Last byte, inside the range.</summary>
    public BusAddress Last { get; }

    /// <summary>Bytes; 2^64 for <see cref="All"/>.</summary>
    public UInt128 Length => (UInt128)Last.Value - First.Value + 1;

    /// <summary>The range of <paramref name="length"/> bytes from <paramref name="first"/>.</summary>
    /// <exception cref="ArgumentOutOfRangeException"><paramref name="length"/> is 0, or the range leaves 64 bits.</exception>
    public static BusRange Of(BusAddress first, UInt128 length)
    {
        ArgumentOutOfRangeException.ThrowIfZero(length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, (UInt128)ulong.MaxValue + 1 - first.Value);
        return new BusRange(first, new BusAddress((ulong)(first.Value + (length - 1))));
    }

    /// <summary>Whether <paramref name="address"/> lies inside.</summary>
    public bool Contains(BusAddress address) => address >= First && address <= Last;

    /// <summary>Whether all of <paramref name="other"/> lies inside.</summary>
    public bool Contains(BusRange other) => other.First >= First && other.Last <= Last;

    /// <summary>Whether any byte is in both.</summary>
    public bool Overlaps(BusRange other) => First <= other.Last && other.First <= Last;

    /// <summary>What is in both, or null.</summary>
    public BusRange? Intersect(BusRange other) => Overlaps(other)
        ? new BusRange(First > other.First ? First : other.First, Last < other.Last ? Last : other.Last)
        : null;

    /// <inheritdoc/>
    public override string ToString() => $"0x{First.Value:x}-0x{Last.Value:x}";
}
