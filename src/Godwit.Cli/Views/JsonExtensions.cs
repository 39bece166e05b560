using System.Text.Json;

namespace Godwit.Cli;

/// <summary>Reading members of replies that may be absent, because another version or another program answered.</summary>
internal static class JsonExtensions
{
    /// <summary>The member at <paramref name="path"/>, or undefined.</summary>
    public static JsonElement At(this JsonElement element, params ReadOnlySpan<string> path)
    {
        foreach (string name in path)
        {
            if (element.ValueKind != JsonValueKind.Object || !element.TryGetProperty(name, out element))
            {
                return default;
            }
        }

        return element;
    }

    /// <summary>A whole number; 0 when absent.</summary>
    public static long Long(this JsonElement element, params ReadOnlySpan<string> path) => element.MaybeLong(path) ?? 0;

    /// <summary>A whole number, or null when absent.</summary>
    public static long? MaybeLong(this JsonElement element, params ReadOnlySpan<string> path)
    {
        JsonElement value = element.At(path);
        return value.ValueKind == JsonValueKind.Number && value.TryGetInt64(out long number) ? number : null;
    }

    /// <summary>A number; 0 when absent.</summary>
    public static double Double(this JsonElement element, params ReadOnlySpan<string> path)
    {
        JsonElement value = element.At(path);
        return value.ValueKind == JsonValueKind.Number ? value.GetDouble() : 0;
    }

    /// <summary>A string, or null when absent.</summary>
    public static string? Text(this JsonElement element, params ReadOnlySpan<string> path)
    {
        JsonElement value = element.At(path);
        return value.ValueKind == JsonValueKind.String ? value.GetString() : null;
    }

    /// <summary>The strings of an array; none when absent.</summary>
    public static IReadOnlyList<string> Texts(this JsonElement element, params ReadOnlySpan<string> path)
    {
        JsonElement value = element.At(path);
        return value.ValueKind == JsonValueKind.Array ? [.. value.EnumerateArray().Select(each => each.GetString() ?? string.Empty)] : [];
    }
}
