using System.Buffers.Binary;

namespace Godwit.Devices;

/// <summary>Writes little-endian values into a buffer of exactly the right size.</summary>
internal ref struct StateWriter(Span<byte> buffer)
{
    private Span<byte> _left = buffer;

    public void U8(byte value) => Take(1)[0] = value;

    public void U16(ushort value) => BinaryPrimitives.WriteUInt16LittleEndian(Take(2), value);

    public void U32(uint value) => BinaryPrimitives.WriteUInt32LittleEndian(Take(4), value);

    public void U64(ulong value) => BinaryPrimitives.WriteUInt64LittleEndian(Take(8), value);

    public void Bytes(scoped ReadOnlySpan<byte> value) => value.CopyTo(Take(value.Length));

    /// <summary>The layout's size and what was written agree, or this server's format is defective.</summary>
    public readonly void End()
    {
        if (!_left.IsEmpty)
            throw new InvalidOperationException($"State layout leaves {_left.Length} bytes unwritten.");
    }

    private Span<byte> Take(int count)
    {
        Span<byte> taken = _left[..count];
        _left = _left[count..];
        return taken;
    }
}

/// <summary>Reads little-endian values from a buffer whose length has been checked against the layout.</summary>
internal ref struct StateReader(ReadOnlySpan<byte> buffer)
{
    private ReadOnlySpan<byte> _left = buffer;

    public byte U8() => Take(1)[0];

    public ushort U16() => BinaryPrimitives.ReadUInt16LittleEndian(Take(2));

    public uint U32() => BinaryPrimitives.ReadUInt32LittleEndian(Take(4));

    public ulong U64() => BinaryPrimitives.ReadUInt64LittleEndian(Take(8));

    public void Bytes(scoped Span<byte> destination) => Take(destination.Length).CopyTo(destination);

    /// <summary>A counter; half the range of a long is left to go on counting.</summary>
    public long Count(string name)
    {
        ulong value = U64();
        return value <= long.MaxValue / 2
            ? (long)value
            : throw new NvmeStateException($"counter of {name} {value} is above {long.MaxValue / 2}");
    }

    /// <summary>A field of nothing has to be 0.</summary>
    public static void RequireZero(ulong value, string name)
    {
        if (value != 0)
            throw new NvmeStateException($"unused field of {name} holds 0x{value:x}");
    }

    public readonly void End()
    {
        if (!_left.IsEmpty)
            throw new InvalidOperationException($"State layout leaves {_left.Length} bytes unread.");
    }

    private ReadOnlySpan<byte> Take(int count)
    {
        ReadOnlySpan<byte> taken = _left[..count];
        _left = _left[count..];
        return taken;
    }
}
