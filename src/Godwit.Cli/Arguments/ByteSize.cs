using System.Globalization;

namespace Godwit.Cli;

/// <summary>Sizes as people type them: a whole number of bytes, or one with K, M, G or T for powers of 1024.</summary>
internal static class ByteSize
{
    private const string Units = "KMGT";

    /// <summary>Reads <paramref name="text"/>; false when it is no size or does not fit 64 bits.</summary>
    public static bool TryParse(string text, out ulong bytes)
    {
        bytes = 0;
        if (text.Length == 0)
        {
            return false;
        }

        int unit = Units.IndexOf(char.ToUpperInvariant(text[^1]), StringComparison.Ordinal);
        ReadOnlySpan<char> digits = unit < 0 ? text : text.AsSpan(0, text.Length - 1);
        if (!ulong.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out ulong number))
        {
            return false;
        }

        int shift = 10 * (unit + 1);
        bytes = number << shift;
        return bytes >> shift == number;
    }

    /// <summary>The shortest exact form that <see cref="TryParse"/> reads.</summary>
    public static string Exact(ulong bytes)
    {
        int unit = 0;
        while (unit < Units.Length && bytes != 0 && bytes % 1024 == 0)
        {
            bytes /= 1024;
            unit++;
        }

        return unit == 0 ? $"{bytes}" : $"{bytes}{Units[unit - 1]}";
    }

    /// <summary>For people: three digits and a unit, for example <c>1.07 GiB</c>.</summary>
    public static string Rounded(double bytes)
    {
        int unit = 0;
        while (bytes >= 1000 && unit < Units.Length)
        {
            bytes /= 1024;
            unit++;
        }

        string number = bytes.ToString(bytes >= 100 || unit == 0 ? "0" : bytes >= 10 ? "0.0" : "0.00", CultureInfo.InvariantCulture);
        return unit == 0 ? $"{number} B" : $"{number} {Units[unit - 1]}iB";
    }
}
