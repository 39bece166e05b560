using System.Diagnostics.CodeAnalysis;

namespace Godwit.Migration;

/// <summary>
/// The peer sent something that is not the migration stream, or the stream was damaged on its way: which frame, which field, what it
/// said and what it may say.
/// </summary>
public sealed class MigrationStreamException : IOException
{
    /// <summary>Creates it; see the properties.</summary>
    public MigrationStreamException(ulong? sequence, FrameType? type, string field, string value, string limit)
        : base($"Migration stream, {Place(sequence, type)}: {field} is {value}; {limit}")
    {
        Sequence = sequence;
        Type = type;
        Field = field;
        Value = value;
        Limit = limit;
    }

    /// <summary>Number of the frame within its direction, or null in the preface.</summary>
    public ulong? Sequence { get; }

    /// <summary>Type of the frame, where it is known.</summary>
    public FrameType? Type { get; }

    /// <summary>The field that is wrong, for example <c>length</c>.</summary>
    public string Field { get; }

    /// <summary>What it said.</summary>
    public string Value { get; }

    /// <summary>What it may say, as the rest of a sentence.</summary>
    public string Limit { get; }

    /// <summary>The peer closed the connection here; nothing that did arrive was wrong.</summary>
    public bool Ended { get; private init; }

    internal static MigrationStreamException Truncated(ulong? sequence, FrameType? type, string field, int got, int wanted) =>
        new(sequence, type, field, $"{got} bytes long", $"it has {wanted}: the peer closed the connection") { Ended = true };

    [DoesNotReturn]
    internal static void Throw(in FrameHeader header, string field, string value, string limit) =>
        throw new MigrationStreamException(header.Sequence, header.Type, field, value, limit);

    [DoesNotReturn]
    internal static void Throw(in FrameHeader header, string field, ulong value, string limit) =>
        Throw(header, field, $"{value}", limit);

    private static string Place(ulong? sequence, FrameType? type) => (sequence, type) switch
    {
        (null, _) => "preface",
        (_, null) => $"frame {sequence}",
        _ => $"frame {sequence} ({type})",
    };
}
