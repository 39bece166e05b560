using System.Buffers.Binary;
using System.Globalization;
using System.Numerics;

namespace Godwit.Migration;

/// <summary>The 24 bytes before a frame's payload; see <see cref="StreamFormat"/>.</summary>
/// <param name="Type">What the payload is.</param>
/// <param name="Length">Bytes of payload.</param>
/// <param name="Sequence">Number of the frame in its direction, from 0.</param>
/// <param name="PayloadChecksum"><see cref="StreamChecksum"/> of what <see cref="StreamFormat.CheckedBytes"/> says of the payload.</param>
public readonly record struct FrameHeader(FrameType Type, int Length, ulong Sequence, uint PayloadChecksum)
{
    /// <summary>Writes it with its CRC into <see cref="StreamFormat.HeaderSize"/> bytes.</summary>
    public void Write(Span<byte> destination)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(destination, (uint)Type);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[4..], (uint)Length);
        BinaryPrimitives.WriteUInt64LittleEndian(destination[8..], Sequence);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[16..], PayloadChecksum);
        BinaryPrimitives.WriteUInt32LittleEndian(destination[20..], Crc(destination));
    }

    /// <summary>Reads one that must be frame number <paramref name="expected"/>.</summary>
    /// <exception cref="MigrationStreamException">It is damaged, out of order, of an unknown type or too long.</exception>
    public static FrameHeader Read(ReadOnlySpan<byte> source, ulong expected)
    {
        uint crc = BinaryPrimitives.ReadUInt32LittleEndian(source[20..]);
        if (crc != Crc(source))
            throw new MigrationStreamException(expected, null, "header CRC", Hex(crc), $"the header's bytes give {Hex(Crc(source))}");
        ulong sequence = BinaryPrimitives.ReadUInt64LittleEndian(source[8..]);
        uint rawType = BinaryPrimitives.ReadUInt32LittleEndian(source);
        if (sequence != expected)
            throw new MigrationStreamException(expected, null, "sequence", $"{sequence}", $"the next frame is {expected}");
        var type = (FrameType)rawType;
        if (rawType > int.MaxValue || !StreamFormat.TryGetPayloadLimits(type, out int smallest, out int largest))
            throw new MigrationStreamException(expected, null, "type", $"{rawType}", $"version {StreamFormat.Version} has no such frame");
        uint length = BinaryPrimitives.ReadUInt32LittleEndian(source[4..]);
        if (length < (uint)smallest || length > (uint)largest)
            throw new MigrationStreamException(expected, type, "length", $"{length}", $"such a frame has {smallest} to {largest} bytes");
        return new FrameHeader(type, (int)length, sequence, BinaryPrimitives.ReadUInt32LittleEndian(source[16..]));
    }

    internal static string Hex(uint value) => string.Create(CultureInfo.InvariantCulture, $"0x{value:x8}");

    private static uint Crc(ReadOnlySpan<byte> header)
    {
        uint crc = BitOperations.Crc32C(uint.MaxValue, BinaryPrimitives.ReadUInt64LittleEndian(header));
        crc = BitOperations.Crc32C(crc, BinaryPrimitives.ReadUInt64LittleEndian(header[8..]));
        return ~BitOperations.Crc32C(crc, BinaryPrimitives.ReadUInt32LittleEndian(header[16..]));
    }
}
