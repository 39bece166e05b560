using System.Buffers.Binary;
using System.Runtime.CompilerServices;

namespace Godwit.Memory;

// Little-endian words, as registers, rings and tables hold them.
public sealed partial class AddressSpace
{
    /// <summary>As <see cref="Read"/>; true when all of it was read.</summary>
    public bool TryRead(BusAddress address, Span<byte> destination, in TransactionAttributes attributes) =>
        Read(address, destination, attributes) == MemoryResult.Ok;

    /// <summary>As <see cref="Write"/>; true when all of it was written.</summary>
    public bool TryWrite(BusAddress address, ReadOnlySpan<byte> data, in TransactionAttributes attributes) =>
        Write(address, data, attributes) == MemoryResult.Ok;

    /// <summary>Reads 2 bytes, at once when aligned; 0 on failure.</summary>
    [SkipLocalsInit]
    public MemoryResult ReadUInt16(BusAddress address, out ushort value, in TransactionAttributes attributes)
    {
        Span<byte> bytes = stackalloc byte[sizeof(ushort)];
        MemoryResult result = Read(address, bytes, attributes);
        value = result == MemoryResult.Ok ? BinaryPrimitives.ReadUInt16LittleEndian(bytes) : (ushort)0;
        return result;
    }

    /// <summary>Reads 4 bytes, at once when aligned; 0 on failure.</summary>
    [SkipLocalsInit]
    public MemoryResult ReadUInt32(BusAddress address, out uint value, in TransactionAttributes attributes)
    {
        Span<byte> bytes = stackalloc byte[sizeof(uint)];
        MemoryResult result = Read(address, bytes, attributes);
        value = result == MemoryResult.Ok ? BinaryPrimitives.ReadUInt32LittleEndian(bytes) : 0;
        return result;
    }

    /// <summary>Reads 8 bytes, at once when aligned; 0 on failure.</summary>
    [SkipLocalsInit]
    public MemoryResult ReadUInt64(BusAddress address, out ulong value, in TransactionAttributes attributes)
    {
        Span<byte> bytes = stackalloc byte[sizeof(ulong)];
        MemoryResult result = Read(address, bytes, attributes);
        value = result == MemoryResult.Ok ? BinaryPrimitives.ReadUInt64LittleEndian(bytes) : 0;
        return result;
    }

    /// <summary>Writes 2 bytes, at once when aligned.</summary>
    [SkipLocalsInit]
    public MemoryResult WriteUInt16(BusAddress address, ushort value, in TransactionAttributes attributes)
    {
        Span<byte> bytes = stackalloc byte[sizeof(ushort)];
        BinaryPrimitives.WriteUInt16LittleEndian(bytes, value);
        return Write(address, bytes, attributes);
    }

    /// <summary>Writes 4 bytes, at once when aligned.</summary>
    [SkipLocalsInit]
    public MemoryResult WriteUInt32(BusAddress address, uint value, in TransactionAttributes attributes)
    {
        Span<byte> bytes = stackalloc byte[sizeof(uint)];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        return Write(address, bytes, attributes);
    }

    /// <summary>Writes 8 bytes, at once when aligned.</summary>
    [SkipLocalsInit]
    public MemoryResult WriteUInt64(BusAddress address, ulong value, in TransactionAttributes attributes)
    {
        Span<byte> bytes = stackalloc byte[sizeof(ulong)];
        BinaryPrimitives.WriteUInt64LittleEndian(bytes, value);
        return Write(address, bytes, attributes);
    }
}
