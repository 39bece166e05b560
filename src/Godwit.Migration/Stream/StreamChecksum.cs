using System.Buffers.Binary;
using System.Diagnostics;
using System.Numerics;
using System.Runtime.CompilerServices;

namespace Godwit.Migration;

/// <summary>
/// The checksum of a frame's payload: four CRC32C (RFC 3720, appendix B.4) over every fourth 8-byte word, then one CRC32C over those four
/// and the bytes after the last whole 32. Four, because one CRC instruction waits for the one before it and a processor can have several
/// under way; every burst of up to 32 bits within a word is still found with certainty, anything else with 1 - 2^-32.
/// </summary>
/// <remarks>Feed it in pieces of a multiple of <see cref="Stripe"/> bytes; only the last may be different.</remarks>
public unsafe struct StreamChecksum
{
    /// <summary>Bytes that go through the four lanes at once.</summary>
    public const int Stripe = 32;

    private uint _lane0, _lane1, _lane2, _lane3;

    /// <summary>A checksum of nothing yet.</summary>
    public StreamChecksum()
    {
        _lane0 = _lane1 = _lane2 = _lane3 = uint.MaxValue;
    }

    /// <summary>The checksum of <paramref name="bytes"/>.</summary>
    public static uint Of(ReadOnlySpan<byte> bytes)
    {
        var sum = new StreamChecksum();
        return sum.Finish(bytes);
    }

    /// <summary>Adds whole stripes.</summary>
    public void Append(ReadOnlySpan<byte> bytes)
    {
        Debug.Assert(bytes.Length % Stripe == 0, "only the last piece may be odd");
        fixed (byte* source = bytes)
        {
            // SAFETY: pinned for the length given.
            Append(source, bytes.Length);
        }
    }

    /// <summary>Adds the last piece and returns the checksum.</summary>
    public uint Finish(ReadOnlySpan<byte> bytes)
    {
        int whole = bytes.Length & ~(Stripe - 1);
        Append(bytes[..whole]);
        uint crc = uint.MaxValue;
        crc = BitOperations.Crc32C(crc, _lane0);
        crc = BitOperations.Crc32C(crc, _lane1);
        crc = BitOperations.Crc32C(crc, _lane2);
        crc = BitOperations.Crc32C(crc, _lane3);
        ReadOnlySpan<byte> rest = bytes[whole..];
        for (; rest.Length >= sizeof(ulong); rest = rest[sizeof(ulong)..])
            crc = BitOperations.Crc32C(crc, BinaryPrimitives.ReadUInt64LittleEndian(rest));
        foreach (byte value in rest)
            crc = BitOperations.Crc32C(crc, value);
        return ~crc;
    }

    /// <summary>Adds <paramref name="length"/> bytes (whole stripes) that nobody changes meanwhile.</summary>
    /// <remarks>The caller vouches that <paramref name="source"/> is readable for that length.</remarks>
    [SkipLocalsInit]
    internal void Append(byte* source, int length)
    {
        uint lane0 = _lane0, lane1 = _lane1, lane2 = _lane2, lane3 = _lane3;
        // SAFETY: the loop stays below source + length, which the caller vouches for.
        for (byte* end = source + length; source < end; source += Stripe)
        {
            lane0 = BitOperations.Crc32C(lane0, Unsafe.ReadUnaligned<ulong>(source));
            lane1 = BitOperations.Crc32C(lane1, Unsafe.ReadUnaligned<ulong>(source + 8));
            lane2 = BitOperations.Crc32C(lane2, Unsafe.ReadUnaligned<ulong>(source + 16));
            lane3 = BitOperations.Crc32C(lane3, Unsafe.ReadUnaligned<ulong>(source + 24));
        }

        (_lane0, _lane1, _lane2, _lane3) = (lane0, lane1, lane2, lane3);
    }

    /// <summary>
    /// Copies <paramref name="length"/> bytes (whole stripes) of memory that others may be writing and adds <b>what was copied</b>: each
    /// word is read once, so the checksum fits the copy whatever the guest does.
    /// </summary>
    /// <remarks>The caller vouches for both ranges; they do not overlap and <paramref name="source"/> is 8-byte aligned.</remarks>
    [SkipLocalsInit]
    internal void AppendCopy(byte* source, byte* destination, int length)
    {
        uint lane0 = _lane0, lane1 = _lane1, lane2 = _lane2, lane3 = _lane3;
        // SAFETY: both run in step below their lengths, which the caller vouches for. Volatile keeps the compiler from reading a word twice.
        for (byte* end = source + length; source < end; source += Stripe, destination += Stripe)
        {
            ulong word0 = Volatile.Read(ref *(ulong*)source);
            ulong word1 = Volatile.Read(ref *(ulong*)(source + 8));
            ulong word2 = Volatile.Read(ref *(ulong*)(source + 16));
            ulong word3 = Volatile.Read(ref *(ulong*)(source + 24));
            lane0 = BitOperations.Crc32C(lane0, word0);
            lane1 = BitOperations.Crc32C(lane1, word1);
            lane2 = BitOperations.Crc32C(lane2, word2);
            lane3 = BitOperations.Crc32C(lane3, word3);
            Unsafe.WriteUnaligned(destination, word0);
            Unsafe.WriteUnaligned(destination + 8, word1);
            Unsafe.WriteUnaligned(destination + 16, word2);
            Unsafe.WriteUnaligned(destination + 24, word3);
        }

        (_lane0, _lane1, _lane2, _lane3) = (lane0, lane1, lane2, lane3);
    }
}
