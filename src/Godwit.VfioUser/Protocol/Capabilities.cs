using System.Buffers;
using System.Text;
using System.Text.Json;

namespace Godwit.VfioUser;

/// <summary>What a side says of itself in VERSION (vfio-user specification, "Capabilities"). Unknown names are ignored.</summary>
internal sealed record Capabilities
{
    /// <summary>Most descriptors that the sender takes in one message.</summary>
    public int MaxMessageFds { get; init; } = WireLimits.DefaultMessageFds;

    /// <summary>Most data in one message towards the sender.</summary>
    public int MaxTransfer { get; init; } = WireLimits.MaxTransfer;

    /// <summary>Page sizes of DMA mappings, one bit each; not 0.</summary>
    public ulong PageSizes { get; init; } = WireLimits.PageSize;

    /// <summary>The smallest of <see cref="PageSizes"/>: every mapping is a multiple of it.</summary>
    public ulong SmallestPage => PageSizes & (0 - PageSizes);

    /// <summary>Most DMA mappings at once.</summary>
    public int MaxDmaMaps { get; init; } = WireLimits.DefaultDmaMaps;

    /// <summary>Whether REGION_WRITE_MULTI is understood.</summary>
    public bool WriteMultiple { get; init; }

    /// <summary>The "migration" object that libvfio-user and QEMU send: page size of dirty bitmaps, or null when absent.</summary>
    public ulong? MigrationPageSize { get; init; }

    /// <summary>The "twin_socket" object, or null when absent.</summary>
    public TwinSocketCapability? TwinSocket { get; init; }

    /// <summary>Reads VERSION's text, NUL included, or nothing at all, which means every default.</summary>
    /// <exception cref="VfioUserProtocolException">The text is no JSON, or a value is of the wrong kind or out of its range.</exception>
    public static Capabilities Parse(ReadOnlySpan<byte> text)
    {
        if (text.IsEmpty)
            return new Capabilities();
        if (text.Length > WireLimits.MaxVersionJson)
            throw new VfioUserProtocolException($"VERSION carries {text.Length} bytes of JSON; the limit is {WireLimits.MaxVersionJson}.");
        if (text[^1] != 0)
            throw new VfioUserProtocolException("VERSION carries JSON without its terminating NUL.");
        text = text[..^1];
        int end = text.IndexOf((byte)0);
        if (end >= 0)
            throw new VfioUserProtocolException("VERSION carries JSON with a NUL inside.");
        try
        {
            var reader = new Utf8JsonReader(text, new JsonReaderOptions { MaxDepth = 8 });
            return ParseRoot(ref reader);
        }
        catch (Exception e) when (e is JsonException or InvalidOperationException) // the latter: an escape that is no character
        {
            throw new VfioUserProtocolException($"VERSION carries malformed JSON: {e.Message}");
        }
    }

    /// <summary>Writes VERSION's text with its NUL. Short: QEMU takes no reply above 198 bytes.</summary>
    public byte[] Format()
    {
        var buffer = new ArrayBufferWriter<byte>(256);
        using (var writer = new Utf8JsonWriter(buffer))
        {
            writer.WriteStartObject();
            writer.WriteStartObject("capabilities"u8);
            writer.WriteNumber("max_msg_fds"u8, MaxMessageFds);
            writer.WriteNumber("max_data_xfer_size"u8, MaxTransfer);
            writer.WriteNumber("pgsizes"u8, PageSizes);
            writer.WriteNumber("max_dma_maps"u8, MaxDmaMaps);
            if (MigrationPageSize is { } pageSize)
            {
                writer.WriteStartObject("migration"u8);
                writer.WriteNumber("pgsize"u8, pageSize);
                writer.WriteEndObject();
            }
            if (WriteMultiple)
                writer.WriteBoolean("write_multiple"u8, true);
            if (TwinSocket is { } twin)
            {
                writer.WriteStartObject("twin_socket"u8);
                writer.WriteBoolean("supported"u8, twin.Supported);
                if (twin.FileIndex is { } index)
                    writer.WriteNumber("fd_index"u8, index);
                writer.WriteEndObject();
            }
            writer.WriteEndObject();
            writer.WriteEndObject();
        }
        buffer.Write("\0"u8);
        return buffer.WrittenSpan.ToArray();
    }

    private static Capabilities ParseRoot(ref Utf8JsonReader reader)
    {
        Capabilities? result = null;
        Expect(ref reader, JsonTokenType.StartObject, "VERSION's JSON");
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            if (reader.ValueTextEquals("capabilities"u8))
            {
                if (result is not null)
                    throw new VfioUserProtocolException("The peer says capabilities twice.");
                Expect(ref reader, JsonTokenType.StartObject, "capabilities");
                result = ParseCapabilities(ref reader);
            }
            else
            {
                reader.Skip();
            }
        }
        // Anything but white space after the object is an error; reading on makes the reader say so.
        if (reader.Read())
            throw new VfioUserProtocolException("VERSION carries more than one JSON value.");
        return result ?? new Capabilities();
    }

    private static Capabilities ParseCapabilities(ref Utf8JsonReader reader)
    {
        var result = new Capabilities();
        var seen = new HashSet<string>(StringComparer.Ordinal);
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            string name = reader.GetString()!;
            // Two values for one name: whichever is taken, the peer may mean the other.
            if (!seen.Add(name))
                throw new VfioUserProtocolException($"The peer says {name} twice.");
            switch (name)
            {
                case "max_msg_fds":
                    result = result with { MaxMessageFds = (int)ReadNumber(ref reader, name, 0, 1024) };
                    break;
                case "max_data_xfer_size":
                    result = result with { MaxTransfer = (int)ReadNumber(ref reader, name, WireLimits.MinTransfer, int.MaxValue) };
                    break;
                case "pgsizes":
                    result = result with { PageSizes = ReadNumber(ref reader, name, 1, ulong.MaxValue) };
                    break;
                case "max_dma_maps":
                    result = result with { MaxDmaMaps = (int)ReadNumber(ref reader, name, 0, int.MaxValue) };
                    break;
                case "write_multiple":
                    result = result with { WriteMultiple = ReadBoolean(ref reader, name) };
                    break;
                case "migration":
                    result = result with { MigrationPageSize = ReadMigration(ref reader) };
                    break;
                case "twin_socket":
                    result = result with { TwinSocket = ReadTwinSocket(ref reader) };
                    break;
                default:
                    reader.Skip();
                    break;
            }
        }
        return result;
    }

    private static ulong? ReadMigration(ref Utf8JsonReader reader)
    {
        Expect(ref reader, JsonTokenType.StartObject, "migration");
        ulong? pageSize = null;
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            if (!reader.ValueTextEquals("pgsize"u8))
            {
                reader.Skip();
                continue;
            }
            pageSize = ReadNumber(ref reader, "migration.pgsize", 1, ulong.MaxValue);
            if (!ulong.IsPow2(pageSize.Value) || pageSize < WireLimits.PageSize)
                throw new VfioUserProtocolException($"The peer's migration.pgsize {pageSize} is no power of two of at least {WireLimits.PageSize}.");
        }
        return pageSize;
    }

    private static TwinSocketCapability ReadTwinSocket(ref Utf8JsonReader reader)
    {
        Expect(ref reader, JsonTokenType.StartObject, "twin_socket");
        var result = new TwinSocketCapability(false);
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            if (reader.ValueTextEquals("supported"u8))
                result = result with { Supported = ReadBoolean(ref reader, "twin_socket.supported") };
            else if (reader.ValueTextEquals("fd_index"u8))
                result = result with { FileIndex = (int)ReadNumber(ref reader, "twin_socket.fd_index", 0, 1024) };
            else
                reader.Skip();
        }
        return result;
    }

    private static ulong ReadNumber(ref Utf8JsonReader reader, string name, ulong min, ulong max)
    {
        Expect(ref reader, JsonTokenType.Number, name);
        if (!reader.TryGetUInt64(out ulong value) || value < min || value > max)
            throw new VfioUserProtocolException($"The peer's {name} is {Encoding.UTF8.GetString(reader.ValueSpan)}; it must be from {min} to {max}.");
        return value;
    }

    private static bool ReadBoolean(ref Utf8JsonReader reader, string name)
    {
        if (!reader.Read() || reader.TokenType is not (JsonTokenType.True or JsonTokenType.False))
            throw new VfioUserProtocolException($"The peer's {name} is no boolean but {reader.TokenType}.");
        return reader.GetBoolean();
    }

    private static void Expect(ref Utf8JsonReader reader, JsonTokenType type, string name)
    {
        if (!reader.Read() || reader.TokenType != type)
            throw new VfioUserProtocolException($"The peer's {name} is not of kind {type} but {reader.TokenType}.");
    }
}

/// <summary>Whether the device's own commands get a socket of their own.</summary>
/// <param name="Supported">By the side that says so.</param>
/// <param name="FileIndex">In the server's answer: which of its descriptors is the socket.</param>
internal readonly record struct TwinSocketCapability(bool Supported, int? FileIndex = null);
