using System.Buffers;

namespace Godwit.Migration;

/// <summary>More connections for pages are about to come.</summary>
/// <param name="Count">How many, 1 to <see cref="StreamFormat.MaxChannels"/>.</param>
/// <param name="Token">What they will show, so that they are known for this migration's; random.</param>
public readonly record struct ChannelsMessage(int Count, UInt128 Token)
{
    internal const int Size = 20;

    /// <summary>Writes it.</summary>
    public void Write(IBufferWriter<byte> writer)
    {
        writer.PutUInt32((uint)Count);
        writer.PutUInt64((ulong)Token);
        writer.PutUInt64((ulong)(Token >> 64));
    }

    /// <summary>Reads it.</summary>
    /// <exception cref="MigrationStreamException">A field cannot be.</exception>
    public static ChannelsMessage Read(in FrameHeader header, ReadOnlySpan<byte> payload)
    {
        var reader = new PayloadReader(header, payload);
        uint count = reader.ReadUInt32("count", StreamFormat.MaxChannels);
        if (count == 0)
            reader.Fail("count", count, "at least 1");
        ulong low = reader.ReadUInt64("token");
        return new ChannelsMessage((int)count, new UInt128(reader.ReadUInt64("token"), low));
    }
}

/// <summary>First frame of such a connection.</summary>
/// <param name="Index">Which one, from 0.</param>
/// <param name="Token">As in <see cref="ChannelsMessage"/>.</param>
public readonly record struct AttachMessage(int Index, UInt128 Token)
{
    internal const int Size = 20;

    /// <summary>Writes it.</summary>
    public void Write(IBufferWriter<byte> writer)
    {
        writer.PutUInt32((uint)Index);
        writer.PutUInt64((ulong)Token);
        writer.PutUInt64((ulong)(Token >> 64));
    }

    /// <summary>Reads it.</summary>
    /// <exception cref="MigrationStreamException">A field cannot be.</exception>
    public static AttachMessage Read(in FrameHeader header, ReadOnlySpan<byte> payload)
    {
        var reader = new PayloadReader(header, payload);
        int index = (int)reader.ReadUInt32("index", StreamFormat.MaxChannels - 1);
        ulong low = reader.ReadUInt64("token");
        return new AttachMessage(index, new UInt128(reader.ReadUInt64("token"), low));
    }
}

/// <summary>This connection has sent its part of a round.</summary>
/// <param name="Round">The round.</param>
public readonly record struct ChannelEndMessage(uint Round)
{
    internal const int Size = 4;

    /// <summary>Writes it.</summary>
    public void Write(IBufferWriter<byte> writer) => writer.PutUInt32(Round);

    /// <summary>Reads it.</summary>
    /// <exception cref="MigrationStreamException">A field cannot be.</exception>
    public static ChannelEndMessage Read(in FrameHeader header, ReadOnlySpan<byte> payload)
    {
        var reader = new PayloadReader(header, payload);
        return new ChannelEndMessage(reader.ReadUInt32("round"));
    }
}
