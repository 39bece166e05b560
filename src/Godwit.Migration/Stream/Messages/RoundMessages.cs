using System.Buffers;

namespace Godwit.Migration;

/// <summary>A round begins.</summary>
/// <param name="Number">From 1, one more than the last.</param>
/// <param name="Final">The guest and its devices are stopped.</param>
public readonly record struct RoundBeginMessage(uint Number, bool Final)
{
    internal const int Size = 5;

    /// <summary>Writes it.</summary>
    public void Write(IBufferWriter<byte> writer)
    {
        writer.PutUInt32(Number);
        writer.PutByte(Final ? (byte)1 : (byte)0);
    }

    /// <summary>Reads it.</summary>
    /// <exception cref="MigrationStreamException">A field cannot be.</exception>
    public static RoundBeginMessage Read(in FrameHeader header, ReadOnlySpan<byte> payload)
    {
        var reader = new PayloadReader(header, payload);
        return new RoundBeginMessage(reader.ReadUInt32("round"), reader.ReadBool("final"));
    }
}

/// <summary>A round is complete. The destination compares the counts with what it took in since RoundBegin.</summary>
/// <param name="Number">As in RoundBegin.</param>
/// <param name="Pages">Pages sent with contents.</param>
/// <param name="ZeroPages">Pages sent as zeros.</param>
public readonly record struct RoundEndMessage(uint Number, ulong Pages, ulong ZeroPages)
{
    internal const int Size = 20;

    /// <summary>Writes it.</summary>
    public void Write(IBufferWriter<byte> writer)
    {
        writer.PutUInt32(Number);
        writer.PutUInt64(Pages);
        writer.PutUInt64(ZeroPages);
    }

    /// <summary>Reads it.</summary>
    /// <exception cref="MigrationStreamException">A field cannot be.</exception>
    public static RoundEndMessage Read(in FrameHeader header, ReadOnlySpan<byte> payload)
    {
        var reader = new PayloadReader(header, payload);
        return new RoundEndMessage(reader.ReadUInt32("round"), reader.ReadUInt64("pages"), reader.ReadUInt64("zero pages"));
    }
}

/// <summary>The destination has everything up to the end of a round, and says what it would need from a switchover's last frame on.</summary>
/// <param name="Number">The round.</param>
/// <param name="Rehearsal">Time from this round's last page to the acknowledgement that went into loading states ahead, and not into the link.</param>
/// <param name="Needs">What it would need.</param>
public readonly record struct RoundAckMessage(uint Number, TimeSpan Rehearsal, DestinationNeeds Needs)
{
    internal const int Size = 36;

    /// <summary>Writes it.</summary>
    public void Write(IBufferWriter<byte> writer)
    {
        writer.PutUInt32(Number);
        writer.PutTime(Rehearsal);
        writer.PutTime(Needs.Load);
        writer.PutTime(Needs.Start);
        writer.PutUInt64(Needs.DeviceBytesPerSecond);
    }

    /// <summary>Reads it.</summary>
    /// <exception cref="MigrationStreamException">A field cannot be.</exception>
    public static RoundAckMessage Read(in FrameHeader header, ReadOnlySpan<byte> payload)
    {
        var reader = new PayloadReader(header, payload);
        return new RoundAckMessage(
            reader.ReadUInt32("round"),
            reader.ReadTime("rehearsal"),
            new DestinationNeeds(reader.ReadTime("load time"), reader.ReadTime("start time"), reader.ReadUInt64("device bytes per second")));
    }
}

/// <summary>What a destination says that it would need if the source stopped now.</summary>
/// <param name="Load">To load the machine's state: measured by loading it ahead, or its own.</param>
/// <param name="Start">From the commit until the guest runs.</param>
/// <param name="DeviceBytesPerSecond">Bytes of device state that its devices take a second; 0 when too few have come to tell.</param>
public readonly record struct DestinationNeeds(TimeSpan Load, TimeSpan Start, ulong DeviceBytesPerSecond)
{
    /// <summary>Load and start.</summary>
    public TimeSpan Time => Load + Start;
}
