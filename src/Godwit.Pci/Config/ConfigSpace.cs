using System.Runtime.InteropServices;
using Godwit.Pci.Spec;

namespace Godwit.Pci;

/// <summary>
/// 4096 bytes of registers with a write mask and a write-1-to-clear mask each. Reads are whole aligned words and take no lock; writes are
/// made by one thread at a time.
/// </summary>
public sealed class ConfigSpace
{
    private readonly uint[] _values = new uint[ConfigOffset.Size / 4];
    private readonly uint[] _resets = new uint[ConfigOffset.Size / 4];
    private readonly uint[] _writable = new uint[ConfigOffset.Size / 4];
    private readonly uint[] _clearOnOne = new uint[ConfigOffset.Size / 4];
    private readonly bool[] _taken = new bool[ConfigOffset.Size];
    private readonly Lock _write = new();

    internal ConfigSpace() => _taken.AsSpan(0, ConfigOffset.FirstCapability).Fill(true);

    /// <summary>Raw bytes now, 4096 of them.</summary>
    public ReadOnlySpan<byte> Bytes => MemoryMarshal.AsBytes<uint>(_values);

    /// <summary>Bits that a write changes.</summary>
    internal ReadOnlySpan<byte> Writable => MemoryMarshal.AsBytes<uint>(_writable);

    /// <summary>Bits that writing 1 clears.</summary>
    internal ReadOnlySpan<byte> ClearOnOne => MemoryMarshal.AsBytes<uint>(_clearOnOne);

    /// <summary>Sets the power-on value and masks of <paramref name="size"/> (1, 2 or 4) bytes at <paramref name="offset"/>, an aligned register.</summary>
    /// <exception cref="ArgumentOutOfRangeException">No such register, or a value or mask wider than it.</exception>
    public void Define(int offset, int size, uint value, uint writable = 0, uint clearOnOne = 0)
    {
        uint mask = Check(offset, size);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(value, mask);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(writable, mask);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(clearOnOne, mask);
        ArgumentOutOfRangeException.ThrowIfNotEqual(writable & clearOnOne, 0u, nameof(clearOnOne));
        lock (_write)
        {
            Replace(_values, offset, mask, value);
            Replace(_resets, offset, mask, value);
            Replace(_writable, offset, mask, writable);
            Replace(_clearOnOne, offset, mask, clearOnOne);
        }
    }

    /// <summary>The register now; <paramref name="size"/> 1, 2 or 4, <paramref name="offset"/> a multiple of it.</summary>
    public uint Read(int offset, int size)
    {
        uint mask = Check(offset, size);
        return (Volatile.Read(ref _values[offset / 4]) >> (offset % 4 * 8)) & mask;
    }

    /// <summary>Sets the value whatever the masks say, for status that the device changes. The masks and the power-on value stay.</summary>
    public void Set(int offset, int size, uint value)
    {
        uint mask = Check(offset, size);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(value, mask);
        lock (_write)
            Replace(_values, offset, mask, value);
    }

    /// <summary>
    /// Appends a capability of <paramref name="length"/> bytes to the list at 0x34, at <paramref name="at"/> or where room is; returns its
    /// offset (PCI Local Bus 3.0, 6.7). Its registers are then defined by the caller.
    /// </summary>
    /// <exception cref="ArgumentException">The place is taken or no room is left.</exception>
    public int AddCapability(byte id, int length, int? at = null)
    {
        int offset = Take(ConfigOffset.FirstCapability, ConfigOffset.Extended, length, at, $"capability 0x{id:x2}");
        int link = ConfigOffset.CapabilitiesPointer;
        while (Read(link, 1) is var next && next != 0)
            link = (int)next + 1;
        Define(link, 1, (uint)offset);
        Define(offset, 1, id);
        Define(offset + 1, 1, 0);
        Define(ConfigOffset.Status, 2, Read(ConfigOffset.Status, 2) | ConfigBits.StatusCapabilitiesList, 0, ConfigBits.StatusErrors);
        return offset;
    }

    /// <summary>Appends an extended capability (PCI Express 5.0, 7.6.3); the first one is at 0x100. Returns its offset.</summary>
    /// <exception cref="ArgumentException">The place is taken or no room is left.</exception>
    public int AddExtendedCapability(ushort id, byte version, int length, int? at = null)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(version, (byte)15);
        bool first = Read(ConfigOffset.Extended, 4) == 0;
        int offset = Take(ConfigOffset.Extended, ConfigOffset.Size, length, at ?? (first ? ConfigOffset.Extended : null), $"extended capability 0x{id:x4}");
        if (first && offset != ConfigOffset.Extended)
            throw new ArgumentException($"The first extended capability must be at 0x100, not at 0x{offset:x}", nameof(at));
        Define(offset, 4, id | ((uint)version << 16));
        int last = ConfigOffset.Extended;
        while (last != offset && Read(last, 4) >> 20 is var next && next != 0)
            last = (int)next;
        if (last != offset)
            Define(last, 4, Read(last, 4) | ((uint)offset << 20));
        return offset;
    }

    /// <summary>Offset of the first capability with that id, or null.</summary>
    public int? FindCapability(byte id)
    {
        // A list in 192 bytes has at most 48 members; more would be a loop.
        int offset = (int)Read(ConfigOffset.CapabilitiesPointer, 1) & ~3;
        for (int count = 0; offset >= ConfigOffset.FirstCapability && count < 48; count++)
        {
            if (Read(offset, 1) == id)
                return offset;
            offset = (int)Read(offset + 1, 1) & ~3;
        }

        return null;
    }

    /// <summary>A guest's write through the masks.</summary>
    internal void Write(int offset, uint value, int size)
    {
        uint mask = Check(offset, size);
        int shift = offset % 4 * 8;
        int index = offset / 4;
        uint written = (value & mask) << shift;
        uint touched = mask << shift;
        lock (_write)
        {
            uint writable = _writable[index] & touched;
            uint result = (_values[index] & ~writable) | (written & writable);
            result &= ~(written & _clearOnOne[index]);
            Volatile.Write(ref _values[index], result);
        }
    }

    /// <summary>Back to power-on values.</summary>
    internal void Reset()
    {
        lock (_write)
            _resets.CopyTo(_values.AsSpan());
    }

    /// <summary>Replaces all bytes; the caller has compared those that must not change.</summary>
    internal void Load(ReadOnlySpan<byte> bytes)
    {
        lock (_write)
            bytes.CopyTo(MemoryMarshal.AsBytes(_values.AsSpan()));
    }

    private static void Replace(uint[] registers, int offset, uint mask, uint value)
    {
        int shift = offset % 4 * 8;
        Volatile.Write(ref registers[offset / 4], (registers[offset / 4] & ~(mask << shift)) | (value << shift));
    }

    private static uint Check(int offset, int size)
    {
        if (size is not (1 or 2 or 4))
            throw new ArgumentOutOfRangeException(nameof(size), size, "A configuration register has 1, 2 or 4 bytes");
        if (offset < 0 || offset > ConfigOffset.Size - size || offset % size != 0)
        {
            throw new ArgumentOutOfRangeException(nameof(offset), offset,
                $"A {size}-byte configuration register lies at a multiple of its size below {ConfigOffset.Size}");
        }

        return size == 4 ? uint.MaxValue : (1u << (size * 8)) - 1;
    }

    private int Take(int first, int end, int length, int? at, string what)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(length);
        int rounded = (length + 3) & ~3;
        if (at is { } wanted)
        {
            if (wanted % 4 != 0 || wanted < first || wanted > end - rounded)
                throw new ArgumentException($"A {what} of {length} bytes cannot be at 0x{wanted:x}; it lies between 0x{first:x} and 0x{end:x}", nameof(at));
            if (_taken.AsSpan(wanted, rounded).Contains(true))
                throw new ArgumentException($"The place 0x{wanted:x} for {what} of {length} bytes is taken", nameof(at));
            _taken.AsSpan(wanted, rounded).Fill(true);
            return wanted;
        }

        for (int offset = first; offset <= end - rounded; offset += 4)
        {
            if (_taken.AsSpan(offset, rounded).Contains(true))
                continue;
            _taken.AsSpan(offset, rounded).Fill(true);
            return offset;
        }

        throw new ArgumentException($"No room for {what} of {length} bytes between 0x{first:x} and 0x{end:x}", nameof(length));
    }
}
