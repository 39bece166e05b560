using System.Buffers;
using System.Buffers.Binary;
using System.Text;

namespace Godwit.Migration;

/// <summary>Appends little-endian fields; the mirror of <see cref="PayloadReader"/>.</summary>
internal static class PayloadWriter
{
    public static void PutByte(this IBufferWriter<byte> writer, byte value)
    {
        writer.GetSpan(1)[0] = value;
        writer.Advance(1);
    }

    public static void PutUInt32(this IBufferWriter<byte> writer, uint value)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(writer.GetSpan(4), value);
        writer.Advance(4);
    }

    public static void PutUInt64(this IBufferWriter<byte> writer, ulong value)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(writer.GetSpan(8), value);
        writer.Advance(8);
    }

    /// <summary>A time in microseconds, at most <see cref="StreamFormat.MaxEstimate"/>.</summary>
    public static void PutTime(this IBufferWriter<byte> writer, TimeSpan value) =>
        writer.PutUInt64((ulong)Math.Clamp(value.Ticks, 0, StreamFormat.MaxEstimate.Ticks) / TimeSpan.TicksPerMicrosecond);

    /// <summary>Length and UTF-8. The caller has checked the length where a limit exists.</summary>
    public static void PutText(this IBufferWriter<byte> writer, string value)
    {
        writer.PutUInt32((uint)Encoding.UTF8.GetByteCount(value));
        writer.PutRawText(value);
    }

    public static void PutRawText(this IBufferWriter<byte> writer, string value)
    {
        int count = Encoding.UTF8.GetByteCount(value);
        Encoding.UTF8.GetBytes(value, writer.GetSpan(count));
        writer.Advance(count);
    }

    /// <summary><paramref name="text"/>, cut at a character so that it has at most <paramref name="maxBytes"/> bytes.</summary>
    public static string Cut(string text, int maxBytes)
    {
        if (Encoding.UTF8.GetByteCount(text) <= maxBytes)
            return text;
        int bytes = 3; // the ellipsis
        int length = 0;
        foreach (Rune rune in text.EnumerateRunes())
        {
            if (bytes + rune.Utf8SequenceLength > maxBytes)
                break;
            bytes += rune.Utf8SequenceLength;
            length += rune.Utf16SequenceLength;
        }

        return text[..length] + "…";
    }
}
