using System.Buffers;
using System.Buffers.Binary;

namespace Godwit.VfioUser;

/// <summary>A device's state that cannot be taken: what is wrong with it.</summary>
public sealed class DeviceStateException(string message) : Exception(message);

/// <summary>Takes a device's state, value after value, little-endian.</summary>
public sealed class DeviceStateWriter
{
    private readonly ArrayBufferWriter<byte> _buffer = new();
    private readonly int _limit;

    internal DeviceStateWriter(int limit) => _limit = limit;

    internal ReadOnlySpan<byte> Written => _buffer.WrittenSpan;

    /// <summary>Writes 32 bits.</summary>
    public void UInt32(uint value) => BinaryPrimitives.WriteUInt32LittleEndian(Take(sizeof(uint)), value);

    /// <summary>Writes 64 bits.</summary>
    public void UInt64(ulong value) => BinaryPrimitives.WriteUInt64LittleEndian(Take(sizeof(ulong)), value);

    /// <summary>Writes yes or no.</summary>
    public void Boolean(bool value) => Take(1)[0] = value ? (byte)1 : (byte)0;

    /// <summary>Writes bytes whose number the reader knows.</summary>
    public void Bytes(ReadOnlySpan<byte> value) => value.CopyTo(Take(value.Length));

    private Span<byte> Take(int count)
    {
        if (count > _limit - _buffer.WrittenCount)
            throw new InvalidOperationException($"The device saves more than the {_limit} bytes it said.");
        Span<byte> place = _buffer.GetSpan(count)[..count];
        _buffer.Advance(count);
        return place;
    }
}

/// <summary>
/// Gives a device's state back as it was written. It comes from another machine: check each value before using it, and throw
/// <see cref="DeviceStateException"/> for what cannot be.
/// </summary>
public sealed class DeviceStateReader
{
    private readonly byte[] _bytes;
    private int _at;

    internal DeviceStateReader(byte[] bytes) => _bytes = bytes;

    internal int Left => _bytes.Length - _at;

    /// <summary>Reads 32 bits.</summary>
    /// <exception cref="DeviceStateException">The state ends before.</exception>
    public uint UInt32() => BinaryPrimitives.ReadUInt32LittleEndian(Take(sizeof(uint)));

    /// <summary>Reads 64 bits.</summary>
    /// <exception cref="DeviceStateException">The state ends before.</exception>
    public ulong UInt64() => BinaryPrimitives.ReadUInt64LittleEndian(Take(sizeof(ulong)));

    /// <summary>Reads yes or no.</summary>
    /// <exception cref="DeviceStateException">The state ends before, or it is neither.</exception>
    public bool Boolean()
    {
        byte value = Take(1)[0];
        return value <= 1 ? value == 1 : throw new DeviceStateException($"{value} at byte {_at - 1} of the state is neither 0 nor 1");
    }

    /// <summary>Fills <paramref name="destination"/>.</summary>
    /// <exception cref="DeviceStateException">The state ends before.</exception>
    public void Bytes(Span<byte> destination) => Take(destination.Length).CopyTo(destination);

    private ReadOnlySpan<byte> Take(int count)
    {
        if (count > Left)
            throw new DeviceStateException($"the state has {_bytes.Length} bytes; {count} more are needed at byte {_at}");
        ReadOnlySpan<byte> piece = _bytes.AsSpan(_at, count);
        _at += count;
        return piece;
    }
}
