using System.Buffers.Binary;
using System.Numerics;

namespace Godwit.Memory;

/// <summary>
/// What a device's registers do when accessed. Offsets are within the region. Called on the thread that makes the access, any number at
/// once, with no lock held and outside the access guard, so that a handler may change topology and may wait for accesses.
/// </summary>
public interface IMmioHandler
{
    /// <summary>Reads <paramref name="size"/> (1, 2, 4 or 8) bytes, little endian in the low bytes of the result.</summary>
    ulong Read(ulong offset, int size, in TransactionAttributes attributes);

    /// <summary>Writes the low <paramref name="size"/> bytes of <paramref name="value"/>.</summary>
    void Write(ulong offset, ulong value, int size, in TransactionAttributes attributes);

    /// <summary>
    /// An access of <paramref name="length"/> bytes that the rules of the region refuse: told, as the others are, before the one who makes it
    /// gets <see cref="MemoryResult.AccessError"/>.
    /// </summary>
    void Refused(ulong offset, int length, bool write, in TransactionAttributes attributes) { }
}

/// <summary>
/// Access sizes a handler takes, 1, 2, 4 or 8 bytes each. Wider accesses are split in ascending order (unless <see cref="Splits"/> is
/// off); narrower ones are refused. An access of 1, 2, 4 or 8 bytes must be aligned to its size unless <paramref name="AllowUnaligned"/>; one of another length is a block
/// copy, made of pieces that the rules allow, and refused as a whole when it would need another.
/// </summary>
/// <param name="MinSize">Smallest access.</param>
/// <param name="MaxSize">Largest.</param>
/// <param name="AllowUnaligned">Offsets need not be multiples of the size.</param>
public readonly record struct MmioAccessRules(int MinSize, int MaxSize, bool AllowUnaligned)
{
    /// <summary>1 to 8 bytes, aligned.</summary>
    public static MmioAccessRules Default => new(1, 8, false);

    /// <summary>
    /// Whether the handler sees an access in parts. False refuses what is wider than <see cref="MaxSize"/>, and the part in the region of an access
    /// that begins before the region or ends behind it.
    /// </summary>
    public bool Splits { get; init; } = true;

    /// <summary>
    /// Whether an access of <paramref name="length"/> bytes, <paramref name="whole"/> or part of a longer one, can be made of accesses that the
    /// handler takes.
    /// </summary>
    internal bool Allows(ulong offset, int length, bool whole)
    {
        if (!Splits && (length > MaxSize || !whole))
            return false;
        bool single = length <= 8 && BitOperations.IsPow2(length);
        if (single)
            return length >= MinSize && (AllowUnaligned || offset % (uint)length == 0);
        return length % MinSize == 0 && (AllowUnaligned || offset % (uint)MinSize == 0);
    }

    /// <summary>Size of the next piece.</summary>
    internal int Piece(ulong offset, int remaining)
    {
        int size = 1 << BitOperations.Log2((uint)Math.Min(remaining, MaxSize));
        if (!AllowUnaligned)
        {
            while (offset % (uint)size != 0)
                size >>= 1;
        }

        return size;
    }
}

/// <summary>A region whose accesses are calls.</summary>
public sealed class MmioRegion : MemoryRegion
{
    /// <summary>Creates the region.</summary>
    /// <exception cref="ArgumentOutOfRangeException">Sizes in <paramref name="rules"/> are not 1, 2, 4 or 8, or out of order.</exception>
    public MmioRegion(string name, ulong size, IMmioHandler handler, MmioAccessRules? rules = null) : base(name, size)
    {
        Rules = rules ?? MmioAccessRules.Default;
        if (!IsSize(Rules.MinSize) || !IsSize(Rules.MaxSize) || Rules.MinSize > Rules.MaxSize)
            throw new ArgumentOutOfRangeException(nameof(rules), Rules, $"Region {name}: access sizes must be 1, 2, 4 or 8, in order");
        Handler = handler;

        static bool IsSize(int size) => size is 1 or 2 or 4 or 8;
    }

    /// <summary>Who answers.</summary>
    public IMmioHandler Handler { get; }

    /// <summary>Sizes it takes.</summary>
    public MmioAccessRules Rules { get; }

    internal override string Kind => "mmio";

    /// <summary>Reads through the rules; the range lies in the region, and is a <paramref name="whole"/> access or part of one.</summary>
    internal MemoryResult Read(ulong offset, Span<byte> destination, bool whole, in TransactionAttributes attributes)
    {
        if (!Rules.Allows(offset, destination.Length, whole))
        {
            Handler.Refused(offset, destination.Length, write: false, attributes);
            return MemoryResult.AccessError;
        }

        Span<byte> word = stackalloc byte[8];
        while (!destination.IsEmpty)
        {
            int size = Rules.Piece(offset, destination.Length);
            BinaryPrimitives.WriteUInt64LittleEndian(word, Handler.Read(offset, size, attributes));
            word[..size].CopyTo(destination);
            destination = destination[size..];
            offset += (uint)size;
        }

        return MemoryResult.Ok;
    }

    /// <summary>Writes likewise.</summary>
    internal MemoryResult Write(ulong offset, ReadOnlySpan<byte> data, bool whole, in TransactionAttributes attributes)
    {
        if (!Rules.Allows(offset, data.Length, whole))
        {
            Handler.Refused(offset, data.Length, write: true, attributes);
            return MemoryResult.AccessError;
        }

        Span<byte> word = stackalloc byte[8];
        while (!data.IsEmpty)
        {
            int size = Rules.Piece(offset, data.Length);
            word.Clear();
            data[..size].CopyTo(word);
            Handler.Write(offset, BinaryPrimitives.ReadUInt64LittleEndian(word), size, attributes);
            data = data[size..];
            offset += (uint)size;
        }

        return MemoryResult.Ok;
    }
}
