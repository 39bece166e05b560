using System.Buffers;

namespace Godwit.Migration;

/// <summary>A machine's description on the wire: a count, then name and value pairs in order of name.</summary>
public static class DescriptionMessage
{
    /// <summary>Writes it.</summary>
    public static void Write(IBufferWriter<byte> writer, MachineDescription description)
    {
        writer.PutUInt32((uint)description.Entries.Count);
        foreach ((string name, string value) in description.Entries)
        {
            writer.PutText(name);
            writer.PutText(value);
        }
    }

    /// <summary>Reads it.</summary>
    /// <exception cref="MigrationStreamException">A field cannot be.</exception>
    public static MachineDescription Read(in FrameHeader header, ReadOnlySpan<byte> payload)
    {
        var reader = new PayloadReader(header, payload);
        uint count = reader.ReadUInt32("entries", StreamFormat.MaxDescriptionEntries);
        var entries = new List<KeyValuePair<string, string>>();
        for (uint i = 0; i < count; i++)
        {
            string name = reader.ReadText(StreamFormat.MaxNameBytes, "name");
            string value = reader.ReadText(StreamFormat.MaxValueBytes, "value");
            if (MachineDescription.Fault(name, value) is { } fault)
                reader.Fail("entry", i, fault);
            if (entries.Count > 0 && string.CompareOrdinal(entries[^1].Key, name) >= 0)
                reader.Fail("entry", i, $"names are distinct and in order, {name} is not");
            entries.Add(new(name, value));
        }

        reader.End();
        return new MachineDescription(entries);
    }
}

/// <summary>Why the destination takes no migration: every difference of the descriptions.</summary>
public static class RefusalMessage
{
    /// <summary>Writes it.</summary>
    public static void Write(IBufferWriter<byte> writer, IReadOnlyList<DescriptionDifference> differences)
    {
        // All of two descriptions of the largest size, and two bytes more for each name, are less than a frame.
        writer.PutUInt32((uint)differences.Count);
        foreach (DescriptionDifference difference in differences)
        {
            writer.PutText(difference.Name);
            PutOptional(writer, difference.Source);
            PutOptional(writer, difference.Destination);
        }
    }

    /// <summary>Reads it.</summary>
    /// <exception cref="MigrationStreamException">A field cannot be.</exception>
    public static IReadOnlyList<DescriptionDifference> Read(in FrameHeader header, ReadOnlySpan<byte> payload)
    {
        var reader = new PayloadReader(header, payload);
        uint count = reader.ReadUInt32("differences", 2 * StreamFormat.MaxDescriptionEntries);
        var differences = new List<DescriptionDifference>();
        for (uint i = 0; i < count; i++)
        {
            string name = reader.ReadText(StreamFormat.MaxNameBytes, "name");
            string? source = ReadOptional(ref reader, "source value");
            string? destination = ReadOptional(ref reader, "destination value");
            if ((MachineDescription.Fault(name, source ?? "") ?? MachineDescription.Fault(name, destination ?? "")) is { } fault)
                reader.Fail("difference", i, fault);
            differences.Add(new DescriptionDifference(name, source, destination));
        }

        reader.End();
        return differences;
    }

    private static void PutOptional(IBufferWriter<byte> writer, string? value)
    {
        writer.PutByte(value is null ? (byte)0 : (byte)1);
        if (value is not null)
            writer.PutText(value);
    }

    private static string? ReadOptional(ref PayloadReader reader, string field) =>
        reader.ReadBool(field + " present") ? reader.ReadText(StreamFormat.MaxValueBytes, field) : null;
}
