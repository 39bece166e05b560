namespace Godwit.Cli;

/// <summary>
/// A kind and its settings in one argument, QEMU's way: <c>vfio-user,socket=/tmp/a.sock,id=nvme0</c>. A comma inside a value is doubled.
/// </summary>
/// <param name="Kind">What stands before the first comma.</param>
/// <param name="Settings">The settings by name.</param>
internal sealed record KeyValueList(string Kind, IReadOnlyDictionary<string, string> Settings)
{
    /// <summary>Reads <paramref name="text"/>.</summary>
    /// <exception cref="FormatException">Not of that form; the text says where.</exception>
    public static KeyValueList Parse(string text)
    {
        List<string> parts = Split(text);
        if (parts[0].Length == 0 || parts[0].Contains('=', StringComparison.Ordinal))
        {
            throw new FormatException($"'{text}' must begin with a name, as in NAME,key=value");
        }

        var settings = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach (string part in parts.Skip(1))
        {
            int equals = part.IndexOf('=', StringComparison.Ordinal);
            if (equals <= 0)
            {
                throw new FormatException($"'{part}' in '{text}' must be key=value");
            }

            if (!settings.TryAdd(part[..equals], part[(equals + 1)..]))
            {
                throw new FormatException($"'{part[..equals]}' is given twice in '{text}'");
            }
        }

        return new KeyValueList(parts[0], settings);
    }

    /// <summary>Doubles the commas of a value.</summary>
    public static string Escape(string value) => value.Replace(",", ",,", StringComparison.Ordinal);

    private static List<string> Split(string text)
    {
        var parts = new List<string>();
        var part = new System.Text.StringBuilder();
        for (int i = 0; i < text.Length; i++)
        {
            if (text[i] != ',')
            {
                part.Append(text[i]);
            }
            else if (i + 1 < text.Length && text[i + 1] == ',')
            {
                part.Append(',');
                i++;
            }
            else
            {
                parts.Add(part.ToString());
                part.Clear();
            }
        }

        parts.Add(part.ToString());
        return parts;
    }
}
