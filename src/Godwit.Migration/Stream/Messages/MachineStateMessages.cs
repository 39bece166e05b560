using System.Buffers;

namespace Godwit.Migration;

/// <summary>State of one of the VMM's models begins.</summary>
/// <param name="Index">Its place in load order, from 0.</param>
/// <param name="Version">Version of its format.</param>
/// <param name="Id">Its id, 1 to 255 bytes of UTF-8.</param>
public readonly record struct MachineStateBeginMessage(int Index, int Version, string Id)
{
    internal const int FixedSize = 12;

    /// <summary>Writes it.</summary>
    public void Write(IBufferWriter<byte> writer)
    {
        writer.PutUInt32((uint)Index);
        writer.PutUInt32((uint)Version);
        writer.PutText(Id);
    }

    /// <summary>Reads it.</summary>
    /// <exception cref="MigrationStreamException">A field cannot be.</exception>
    public static MachineStateBeginMessage Read(in FrameHeader header, ReadOnlySpan<byte> payload)
    {
        var reader = new PayloadReader(header, payload);
        var result = new MachineStateBeginMessage(
            (int)reader.ReadUInt32("index", int.MaxValue),
            (int)reader.ReadUInt32("version", int.MaxValue),
            reader.ReadText(StreamFormat.MaxNameBytes, "id"));
        reader.End();
        return result;
    }
}

/// <summary>That state is complete.</summary>
/// <param name="Index">As in MachineStateBegin.</param>
/// <param name="Bytes">Bytes in all its frames.</param>
public readonly record struct MachineStateEndMessage(int Index, ulong Bytes)
{
    internal const int Size = 12;

    /// <summary>Writes it.</summary>
    public void Write(IBufferWriter<byte> writer)
    {
        writer.PutUInt32((uint)Index);
        writer.PutUInt64(Bytes);
    }

    /// <summary>Reads it.</summary>
    /// <exception cref="MigrationStreamException">A field cannot be.</exception>
    public static MachineStateEndMessage Read(in FrameHeader header, ReadOnlySpan<byte> payload)
    {
        var reader = new PayloadReader(header, payload);
        return new MachineStateEndMessage((int)reader.ReadUInt32("index", int.MaxValue), reader.ReadUInt64("bytes"));
    }
}
