using System.Buffers.Binary;
using System.Text;

namespace Godwit.Migration;

/// <summary>Reads a payload field by field; each read names its field, so that an error can. Never reads past the end.</summary>
internal ref struct PayloadReader(FrameHeader header, ReadOnlySpan<byte> payload)
{
    private static readonly UTF8Encoding Strict = new(encoderShouldEmitUTF8Identifier: false, throwOnInvalidBytes: true);
    private readonly FrameHeader _header = header;
    private ReadOnlySpan<byte> _rest = payload;

    public byte ReadByte(string field) => Take(1, field)[0];

    public bool ReadBool(string field)
    {
        byte value = ReadByte(field);
        if (value > 1)
            Fail(field, value, "it is 0 or 1");
        return value != 0;
    }

    public uint ReadUInt32(string field) => BinaryPrimitives.ReadUInt32LittleEndian(Take(4, field));

    public ulong ReadUInt64(string field) => BinaryPrimitives.ReadUInt64LittleEndian(Take(8, field));

    /// <summary>A number from 0 to <paramref name="last"/>.</summary>
    public uint ReadUInt32(string field, uint last)
    {
        uint value = ReadUInt32(field);
        if (value > last)
            Fail(field, value, $"at most {last}");
        return value;
    }

    /// <summary>A number from 0 to <paramref name="last"/>.</summary>
    public ulong ReadUInt64(string field, ulong last)
    {
        ulong value = ReadUInt64(field);
        if (value > last)
            Fail(field, value, $"at most {last}");
        return value;
    }

    /// <summary>A time in microseconds, at most <see cref="StreamFormat.MaxEstimate"/>.</summary>
    public TimeSpan ReadTime(string field) =>
        TimeSpan.FromTicks((long)ReadUInt64(field + " in microseconds", (ulong)StreamFormat.MaxEstimate.Ticks / TimeSpan.TicksPerMicrosecond) * TimeSpan.TicksPerMicrosecond);

    public void ReadZeros(int count, string field)
    {
        foreach (byte value in Take(count, field))
        {
            if (value != 0)
                Fail(field, value, "reserved bytes are 0");
        }
    }

    public string ReadText(int maxBytes, string field)
    {
        uint length = ReadUInt32(field + " length", (uint)maxBytes);
        return Decode(Take((int)length, field), field);
    }

    public string ReadRestAsText(string field)
    {
        ReadOnlySpan<byte> bytes = _rest;
        _rest = default;
        return Decode(bytes, field);
    }

    public void End()
    {
        if (!_rest.IsEmpty)
            Fail("length", (ulong)_header.Length, $"{_rest.Length} bytes follow the last field");
    }

    public readonly void Fail(string field, ulong value, string limit) => MigrationStreamException.Throw(_header, field, value, limit);

    private ReadOnlySpan<byte> Take(int count, string field)
    {
        if (count > _rest.Length)
            MigrationStreamException.Throw(_header, "length", (ulong)_header.Length, $"it ends within {field}");
        ReadOnlySpan<byte> result = _rest[..count];
        _rest = _rest[count..];
        return result;
    }

    private readonly string Decode(ReadOnlySpan<byte> bytes, string field)
    {
        try
        {
            return Strict.GetString(bytes);
        }
        catch (DecoderFallbackException)
        {
            MigrationStreamException.Throw(_header, field, Convert.ToHexString(bytes[..Math.Min(16, bytes.Length)]), "it must be UTF-8");
            throw;
        }
    }
}
