using System.Buffers;
using System.Text;

namespace Godwit.Migration;

/// <summary>Everything has been sent.</summary>
/// <param name="Rounds">Rounds of pages, the final one included.</param>
/// <param name="Devices">Devices whose state was sent.</param>
/// <param name="States">States of the VMM's models sent.</param>
public readonly record struct PrepareMessage(uint Rounds, int Devices, int States)
{
    internal const int Size = 12;

    /// <summary>Writes it.</summary>
    public void Write(IBufferWriter<byte> writer)
    {
        writer.PutUInt32(Rounds);
        writer.PutUInt32((uint)Devices);
        writer.PutUInt32((uint)States);
    }

    /// <summary>Reads it.</summary>
    /// <exception cref="MigrationStreamException">A field cannot be.</exception>
    public static PrepareMessage Read(in FrameHeader header, ReadOnlySpan<byte> payload)
    {
        var reader = new PayloadReader(header, payload);
        return new PrepareMessage(
            reader.ReadUInt32("rounds"),
            (int)reader.ReadUInt32("devices", int.MaxValue),
            (int)reader.ReadUInt32("states", int.MaxValue));
    }
}

/// <summary>The machine runs on the destination, or is paused there as it was.</summary>
/// <param name="Start">Time from the commit's arrival.</param>
public readonly record struct RunningMessage(TimeSpan Start)
{
    internal const int Size = 8;

    /// <summary>Writes it.</summary>
    public void Write(IBufferWriter<byte> writer) => writer.PutTime(Start);

    /// <summary>Reads it.</summary>
    /// <exception cref="MigrationStreamException">A field cannot be.</exception>
    public static RunningMessage Read(in FrameHeader header, ReadOnlySpan<byte> payload)
    {
        var reader = new PayloadReader(header, payload);
        return new RunningMessage(reader.ReadTime("start time"));
    }
}

/// <summary>The commit point.</summary>
/// <param name="Running">The guest was running before the switchover, so it runs on; else it stays paused.</param>
public readonly record struct CommitMessage(bool Running)
{
    internal const int Size = 1;

    /// <summary>Writes it.</summary>
    public void Write(IBufferWriter<byte> writer) => writer.PutByte(Running ? (byte)1 : (byte)0);

    /// <summary>Reads it.</summary>
    /// <exception cref="MigrationStreamException">A field cannot be.</exception>
    public static CommitMessage Read(in FrameHeader header, ReadOnlySpan<byte> payload)
    {
        var reader = new PayloadReader(header, payload);
        return new CommitMessage(reader.ReadBool("running"));
    }
}

/// <summary>This side has given up.</summary>
/// <param name="Cancelled">Because it was asked to.</param>
/// <param name="Text">Why; cut to <see cref="StreamFormat.MaxFailureBytes"/>.</param>
public readonly record struct FailureMessage(bool Cancelled, string Text)
{
    /// <summary>Writes it.</summary>
    public void Write(IBufferWriter<byte> writer)
    {
        writer.PutByte(Cancelled ? (byte)1 : (byte)0);
        writer.PutRawText(PayloadWriter.Cut(Text, StreamFormat.MaxFailureBytes));
    }

    /// <summary>Reads it. Control characters become blanks: the text ends up on somebody's terminal.</summary>
    /// <exception cref="MigrationStreamException">A field cannot be.</exception>
    public static FailureMessage Read(in FrameHeader header, ReadOnlySpan<byte> payload)
    {
        var reader = new PayloadReader(header, payload);
        bool cancelled = reader.ReadBool("cancelled");
        var text = new StringBuilder(reader.ReadRestAsText("text"));
        for (int i = 0; i < text.Length; i++)
        {
            if (char.IsControl(text[i]))
                text[i] = ' ';
        }

        return new FailureMessage(cancelled, text.ToString());
    }
}
