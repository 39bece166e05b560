using System.Text.Json;

namespace Godwit.Monitor;

/// <summary>The arguments of one command, read with their types and ranges. Names were checked before the command is called.</summary>
internal sealed class QmpArguments
{
    private readonly JsonElement _object;

    /// <summary>Takes the <c>arguments</c> member, or default when there is none, and refuses names that are not in <paramref name="known"/>.</summary>
    public QmpArguments(JsonElement arguments, IReadOnlyList<string> known)
    {
        _object = arguments;
        if (arguments.ValueKind == JsonValueKind.Undefined)
        {
            return;
        }

        if (arguments.ValueKind != JsonValueKind.Object)
        {
            throw new QmpException($"'arguments' must be an object, not {Kind(arguments)}");
        }

        foreach (JsonProperty argument in arguments.EnumerateObject())
        {
            if (!known.Contains(argument.Name, StringComparer.Ordinal))
            {
                string takes = known.Count == 0 ? "the command takes none" : $"known are {string.Join(", ", known)}";
                throw new QmpException($"Argument '{argument.Name}' is not known: {takes}");
            }
        }
    }

    /// <summary>A string that must be there.</summary>
    public string RequireString(string name) => FindString(name) ?? throw new QmpException($"Argument '{name}' is missing");

    /// <summary>A string, or null when absent.</summary>
    public string? FindString(string name)
    {
        if (!TryFind(name, JsonValueKind.String, "a string", out JsonElement value))
        {
            return null;
        }

        return value.GetString();
    }

    /// <summary>A whole number from <paramref name="minimum"/> to <paramref name="maximum"/>, or null when absent.</summary>
    public long? FindInteger(string name, long minimum, long maximum)
    {
        if (!TryFind(name, JsonValueKind.Number, "a whole number", out JsonElement value))
        {
            return null;
        }

        if (!value.TryGetInt64(out long number) || number < minimum || number > maximum)
        {
            throw new QmpException($"Argument '{name}' must be a whole number from {minimum} to {maximum}, not {value.GetRawText()}");
        }

        return number;
    }

    /// <summary>A truth value, or null when absent.</summary>
    public bool? FindBoolean(string name)
    {
        if (!Find(name, out JsonElement value))
        {
            return null;
        }

        return value.ValueKind switch
        {
            JsonValueKind.True => true,
            JsonValueKind.False => false,
            _ => throw new QmpException($"Argument '{name}' must be true or false, not {Kind(value)}"),
        };
    }

    /// <summary>Any value, or undefined when absent.</summary>
    public bool Find(string name, out JsonElement value)
    {
        value = default;
        return _object.ValueKind == JsonValueKind.Object && _object.TryGetProperty(name, out value);
    }

    /// <summary>What kind of JSON value <paramref name="value"/> is, in words for an error.</summary>
    public static string Kind(JsonElement value) => value.ValueKind switch
    {
        JsonValueKind.Object => "an object",
        JsonValueKind.Array => "an array",
        JsonValueKind.String => "a string",
        JsonValueKind.Number => "a number",
        JsonValueKind.True or JsonValueKind.False => "a truth value",
        _ => "null",
    };

    private bool TryFind(string name, JsonValueKind kind, string words, out JsonElement value)
    {
        if (!Find(name, out value))
        {
            return false;
        }

        return value.ValueKind == kind ? true : throw new QmpException($"Argument '{name}' must be {words}, not {Kind(value)}");
    }
}
