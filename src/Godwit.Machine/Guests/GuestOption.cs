using System.Globalization;

namespace Godwit.Machine.Guests;

/// <summary>One option of a guest program: a number or a size within limits, or one of a few words (whose value is its index).</summary>
internal sealed record GuestOption(string Name, string Default, string Description)
{
    public long Min { get; init; }

    public long Max { get; init; } = long.MaxValue;

    /// <summary>Bytes: takes the suffixes K, M, G and must be a multiple of this; 0 for a plain number.</summary>
    public long Granularity { get; init; }

    public IReadOnlyList<string> Choices { get; init; } = [];

    /// <summary>The number that <paramref name="text"/> stands for.</summary>
    /// <exception cref="ArgumentException">Not such a value; the option, the value and the limits are named.</exception>
    public long Parse(string text)
    {
        if (Choices.Count > 0)
        {
            for (int i = 0; i < Choices.Count; i++)
            {
                if (Choices[i] == text)
                    return i;
            }

            throw new ArgumentException($"Guest option {Name} is '{text}'; it must be one of {string.Join(", ", Choices)}.");
        }

        if (!TryParseNumber(text, out long value))
            throw new ArgumentException($"Guest option {Name} is '{text}', which is no {(Granularity > 0 ? "size such as 64M" : "number")}.");
        if (value < Min || value > Max)
            throw new ArgumentException($"Guest option {Name} is {text}; it must be from {Format(Min)} to {Format(Max)}.");
        if (Granularity > 0 && value % Granularity != 0)
            throw new ArgumentException($"Guest option {Name} is {text}; it must be a multiple of {Format(Granularity)}.");
        return value;
    }

    /// <summary>The value of each of <paramref name="definitions"/> on a command line of words <c>option=value</c>; absent ones have their defaults.</summary>
    /// <exception cref="ArgumentException">It holds something else.</exception>
    public static IReadOnlyDictionary<string, long> ParseLine(IReadOnlyList<GuestOption> definitions, string commandLine)
    {
        var given = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach (string word in commandLine.Split(' ', StringSplitOptions.RemoveEmptyEntries))
        {
            int equals = word.IndexOf('=', StringComparison.Ordinal);
            if (equals < 0)
                throw new ArgumentException($"'{word}' on the guest's command line is not of the form option=value.");
            given[word[..equals]] = word[(equals + 1)..];
        }

        return definitions.ToDictionary(o => o.Name, o => o.Parse(given.GetValueOrDefault(o.Name, o.Default)), StringComparer.Ordinal);
    }

    private bool TryParseNumber(string text, out long value)
    {
        int shift = 0;
        ReadOnlySpan<char> digits = text;
        if (Granularity > 0 && digits.Length > 1)
        {
            shift = char.ToUpperInvariant(digits[^1]) switch { 'K' => 10, 'M' => 20, 'G' => 30, _ => 0 };
            if (shift > 0)
                digits = digits[..^1];
        }

        return long.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out value)
            && value <= long.MaxValue >> shift
            && (value <<= shift) >= 0;
    }

    private string Format(long value) => Granularity == 0 ? value.ToString(CultureInfo.InvariantCulture) : value switch
    {
        > 0 when value % (1L << 30) == 0 => $"{value >> 30}G",
        > 0 when value % (1L << 20) == 0 => $"{value >> 20}M",
        > 0 when value % (1L << 10) == 0 => $"{value >> 10}K",
        _ => value.ToString(CultureInfo.InvariantCulture),
    };
}
