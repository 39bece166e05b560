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
