using System.Buffers;
using System.Text.Json;

namespace Godwit.Monitor;

/// <summary>Writes the messages that a server sends, each one line (QMP specification, 2.2, 2.4 and 2.5).</summary>
internal static class QmpMessages
{
    /// <summary>First message of a session. The version has QEMU's shape because clients look for its members.</summary>
    public static byte[] Greeting() => Line(static writer =>
    {
        writer.WriteStartObject();
        writer.WriteStartObject("QMP");
        writer.WritePropertyName("version");
        WriteVersion(writer);
        writer.WriteStartArray("capabilities");
        writer.WriteEndArray();
        writer.WriteEndObject();
        writer.WriteEndObject();
    });

    /// <summary>What <c>query-version</c> returns.</summary>
    public static void WriteVersion(Utf8JsonWriter writer)
    {
        Version version = typeof(QmpMessages).Assembly.GetName().Version ?? new Version(0, 0, 0);
        writer.WriteStartObject();
        writer.WriteStartObject("qemu");
        writer.WriteNumber("major", version.Major);
        writer.WriteNumber("minor", version.Minor);
        writer.WriteNumber("micro", version.Build);
        writer.WriteEndObject();
        writer.WriteString("package", $"godwit-{version.ToString(3)}");
        writer.WriteEndObject();
    }

    /// <summary>Reply of a command that worked; an empty <paramref name="result"/> becomes an empty object.</summary>
    public static byte[] Return(ReadOnlyMemory<byte> result, JsonElement id) => Line(writer =>
    {
        writer.WriteStartObject();
        writer.WritePropertyName("return");
        writer.WriteRawValue(result.IsEmpty ? "{}"u8 : result.Span, skipInputValidation: true);
        WriteId(writer, id);
        writer.WriteEndObject();
    });

    /// <summary>Reply of a command that was refused.</summary>
    public static byte[] Error(string errorClass, string description, JsonElement id) => Line(writer =>
    {
        writer.WriteStartObject();
        writer.WriteStartObject("error");
        writer.WriteString("class", errorClass);
        writer.WriteString("desc", description);
        writer.WriteEndObject();
        WriteId(writer, id);
        writer.WriteEndObject();
    });

    /// <summary>An event, with the time at which it happened.</summary>
    public static byte[] Event(string name, Action<Utf8JsonWriter>? data, DateTimeOffset at) => Line(writer =>
    {
        writer.WriteStartObject();
        writer.WriteStartObject("timestamp");
        writer.WriteNumber("seconds", at.ToUnixTimeSeconds());
        writer.WriteNumber("microseconds", at.Ticks % TimeSpan.TicksPerSecond / TimeSpan.TicksPerMicrosecond);
        writer.WriteEndObject();
        writer.WriteString("event", name);
        if (data is not null)
        {
            writer.WriteStartObject("data");
            data(writer);
            writer.WriteEndObject();
        }

        writer.WriteEndObject();
    });

    private static void WriteId(Utf8JsonWriter writer, JsonElement id)
    {
        if (id.ValueKind != JsonValueKind.Undefined)
        {
            writer.WritePropertyName("id");
            id.WriteTo(writer);
        }
    }

    private static byte[] Line(Action<Utf8JsonWriter> write)
    {
        var buffer = new ArrayBufferWriter<byte>(256);
        using (var writer = new Utf8JsonWriter(buffer))
        {
            write(writer);
        }

        buffer.Write("\r\n"u8);
        return buffer.WrittenSpan.ToArray();
    }
}
