using System.Buffers.Binary;
using System.Numerics;

namespace Godwit.Devices;

/// <summary>CRC-32C (Castagnoli; RFC 3720, appendix B.4), by the processor's instruction where there is one.</summary>
internal static class Crc32C
{
    /// <summary>The checksum of <paramref name="first"/> followed by <paramref name="second"/>.</summary>
    public static uint Compute(ReadOnlySpan<byte> first, ReadOnlySpan<byte> second) => ~Append(Append(uint.MaxValue, first), second);

    private static uint Append(uint crc, ReadOnlySpan<byte> data)
    {
        while (data.Length >= sizeof(ulong))
        {
            crc = BitOperations.Crc32C(crc, BinaryPrimitives.ReadUInt64LittleEndian(data));
            data = data[sizeof(ulong)..];
        }
        foreach (byte value in data)
            crc = BitOperations.Crc32C(crc, value);
        return crc;
    }
}
