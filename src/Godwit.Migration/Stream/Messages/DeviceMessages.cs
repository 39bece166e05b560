using System.Buffers;

namespace Godwit.Migration;

/// <summary>The first 8 bytes of a DeviceState frame; the state's bytes follow.</summary>
/// <param name="Device">Index of the device in the machine's order.</param>
public readonly record struct DeviceChunk(int Device)
{
    internal const int Size = 8;

    /// <summary>Writes it.</summary>
    public void Write(IBufferWriter<byte> writer) => writer.PutUInt64((uint)Device);

    /// <summary>Reads it from the start of <paramref name="payload"/>.</summary>
    /// <exception cref="MigrationStreamException">A field cannot be.</exception>
    public static DeviceChunk Read(in FrameHeader header, ReadOnlySpan<byte> payload)
    {
        var reader = new PayloadReader(header, payload[..Size]);
        return new DeviceChunk((int)reader.ReadUInt64("device", int.MaxValue));
    }
}

/// <summary>A device's state is complete.</summary>
/// <param name="Device">Index of the device in the machine's order.</param>
/// <param name="Bytes">Bytes of state in all its frames.</param>
public readonly record struct DeviceEndMessage(int Device, ulong Bytes)
{
    internal const int Size = 16;

    /// <summary>Writes it.</summary>
    public void Write(IBufferWriter<byte> writer)
    {
        writer.PutUInt64((uint)Device);
        writer.PutUInt64(Bytes);
    }

    /// <summary>Reads it.</summary>
    /// <exception cref="MigrationStreamException">A field cannot be.</exception>
    public static DeviceEndMessage Read(in FrameHeader header, ReadOnlySpan<byte> payload)
    {
        var reader = new PayloadReader(header, payload);
        return new DeviceEndMessage((int)reader.ReadUInt64("device", int.MaxValue), reader.ReadUInt64("bytes"));
    }
}
