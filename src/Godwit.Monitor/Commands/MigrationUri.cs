using System.Text.Json;

namespace Godwit.Monitor;

/// <summary>Where to migrate to, as a command gives it: <c>uri</c>, or <c>channels</c> with one main channel (qapi MigrationChannel).</summary>
internal static class MigrationUri
{
    /// <summary>The URI that <paramref name="arguments"/> mean.</summary>
    public static string From(QmpArguments arguments)
    {
        string? uri = arguments.FindString("uri");
        bool hasChannels = arguments.Find("channels", out JsonElement channels);
        return (uri, hasChannels) switch
        {
            (not null, true) => throw new QmpException("Give 'uri' or 'channels', not both"),
            (not null, false) => uri,
            (null, true) => FromChannels(channels),
            _ => throw new QmpException($"Argument 'uri' is missing ({Migration.MigrationUri.Forms})"),
        };
    }

    private static string FromChannels(JsonElement channels)
    {
        if (channels.ValueKind != JsonValueKind.Array || channels.GetArrayLength() != 1)
        {
            throw new QmpException("Argument 'channels' must be an array of exactly one channel");
        }

        JsonElement channel = channels[0];
        string type = Text(channel, "channel-type");
        if (type != "main")
        {
            throw new QmpException($"Channel type '{type}' is not known: only 'main' is");
        }

        if (!channel.TryGetProperty("addr", out JsonElement address))
        {
            throw new QmpException("Argument 'channels' has no 'addr'");
        }

        string transport = Text(address, "transport");
        if (transport != "socket")
        {
            throw new QmpException($"Transport '{transport}' is not known: only 'socket' is");
        }

        string kind = Text(address, "type");
        return kind switch
        {
            "unix" => $"unix:{Text(address, "path")}",
            "fd" => $"fd:{Text(address, "str")}",
            "inet" => $"tcp:{Bracketed(Text(address, "host"))}:{Text(address, "port")}",
            _ => throw new QmpException($"Socket type '{kind}' is not known: 'unix', 'inet' and 'fd' are"),
        };
    }

    private static string Bracketed(string host) => host.Contains(':', StringComparison.Ordinal) ? $"[{host}]" : host;

    private static string Text(JsonElement parent, string name) =>
        parent.ValueKind == JsonValueKind.Object && parent.TryGetProperty(name, out JsonElement value) && value.ValueKind == JsonValueKind.String
            ? value.GetString()!
            : throw new QmpException($"Argument 'channels' needs the string '{name}'");
}
