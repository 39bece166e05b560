using System.Buffers.Binary;

namespace Godwit.VfioUser;

/// <summary>
/// The bytes of a function's configuration space with its write masks (PCI Express Base 5.0, 7.5.1): what a guest may change, what it finds at
/// power-on, and whether saved bytes could be this function's. One thread at a time.
/// </summary>
public sealed class MaskedConfigSpace
{
    private const int Status = 0x06; // 7.5.1.1.4
    private const byte InterruptStatus = 1 << 3;

    private readonly byte[] _initial;
    private readonly byte[] _mask;
    private readonly byte[] _values;

    /// <summary>All 0 and nothing writable.</summary>
    /// <param name="size">Bytes; what lies beyond reads as 0 and takes no writes.</param>
    public MaskedConfigSpace(int size)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(size);
        _initial = new byte[size];
        _mask = new byte[size];
        _values = new byte[size];
    }

    /// <summary>The bytes now, without Interrupt Status.</summary>
    public ReadOnlySpan<byte> Values => _values;

    /// <summary>Defines a byte at power-on and the bits of it that can be written.</summary>
    public void Define8(int offset, byte value, byte writable = 0)
    {
        _initial[offset] = value;
        _mask[offset] = writable;
        _values[offset] = value;
    }

    /// <summary>The same of two bytes.</summary>
    public void Define16(int offset, ushort value, ushort writable = 0)
    {
        BinaryPrimitives.WriteUInt16LittleEndian(_initial.AsSpan(offset), value);
        BinaryPrimitives.WriteUInt16LittleEndian(_mask.AsSpan(offset), writable);
        BinaryPrimitives.WriteUInt16LittleEndian(_values.AsSpan(offset), value);
    }

    /// <summary>The same of four bytes.</summary>
    public void Define32(int offset, uint value, uint writable = 0)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(_initial.AsSpan(offset), value);
        BinaryPrimitives.WriteUInt32LittleEndian(_mask.AsSpan(offset), writable);
        BinaryPrimitives.WriteUInt32LittleEndian(_values.AsSpan(offset), value);
    }

    /// <summary>Two bytes as they are now.</summary>
    public ushort Get16(int offset) => BinaryPrimitives.ReadUInt16LittleEndian(_values.AsSpan(offset));

    /// <summary>Back to power-on state.</summary>
    public void Reset() => _initial.CopyTo(_values, 0);

    /// <summary>Reads any stretch. <paramref name="pinAsserted"/> is what Interrupt Status shows.</summary>
    public void Read(int offset, Span<byte> destination, bool pinAsserted)
    {
        destination.Clear();
        if (offset >= _values.Length)
            return;
        int count = Math.Min(destination.Length, _values.Length - offset);
        _values.AsSpan(offset, count).CopyTo(destination);
        if (pinAsserted && offset <= Status && Status < offset + count)
            destination[Status - offset] |= InterruptStatus;
    }

    /// <summary>Writes what is writable.</summary>
    public void Write(int offset, ReadOnlySpan<byte> data)
    {
        for (int i = 0; i < data.Length && offset + i < _values.Length; i++)
        {
            ref byte value = ref _values[offset + i];
            byte mask = _mask[offset + i];
            value = (byte)((value & ~mask) | (data[i] & mask));
        }
    }

    /// <summary>Whether <paramref name="values"/> differ from this function's power-on state in writable bits only.</summary>
    /// <exception cref="ArgumentException">They are not as many as this has.</exception>
    public bool Accepts(ReadOnlySpan<byte> values)
    {
        ThrowIfNotAsMany(values);
        for (int i = 0; i < values.Length; i++)
        {
            if (((values[i] ^ _initial[i]) & ~_mask[i]) != 0)
                return false;
        }

        return true;
    }

    /// <summary>Takes over accepted values.</summary>
    /// <exception cref="ArgumentException">They are not as many as this has.</exception>
    public void Restore(ReadOnlySpan<byte> values)
    {
        ThrowIfNotAsMany(values);
        values.CopyTo(_values);
    }

    private void ThrowIfNotAsMany(ReadOnlySpan<byte> values)
    {
        if (values.Length != _values.Length)
            throw new ArgumentException($"{values.Length} bytes of configuration space; there are {_values.Length}", nameof(values));
    }
}
