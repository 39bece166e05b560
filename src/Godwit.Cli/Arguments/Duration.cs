using System.Globalization;

namespace Godwit.Cli;

/// <summary>Times as people type them: a number with <c>ms</c>, <c>s</c> or <c>m</c>.</summary>
internal static class Duration
{
    /// <summary>Reads <paramref name="text"/>; a bare number counts <paramref name="bare"/>.</summary>
    public static bool TryParse(string text, TimeSpan bare, out TimeSpan time)
    {
        (string digits, TimeSpan unit) = text switch
        {
            _ when text.EndsWith("ms", StringComparison.OrdinalIgnoreCase) => (text[..^2], TimeSpan.FromMilliseconds(1)),
            _ when text.EndsWith('s') => (text[..^1], TimeSpan.FromSeconds(1)),
            _ when text.EndsWith('m') => (text[..^1], TimeSpan.FromMinutes(1)),
            _ => (text, bare),
        };
        time = default;
        if (!decimal.TryParse(digits, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out decimal number)
            || number > 1_000_000_000)
        {
            return false;
        }

        time = TimeSpan.FromTicks((long)(number * unit.Ticks));
        return true;
    }

    /// <summary>The shortest exact form that <see cref="TryParse"/> reads, for times of whole milliseconds.</summary>
    public static string Exact(TimeSpan time) => time.Ticks switch
    {
        var ticks when ticks != 0 && ticks % TimeSpan.TicksPerMinute == 0 => $"{ticks / TimeSpan.TicksPerMinute}m",
        var ticks when ticks != 0 && ticks % TimeSpan.TicksPerSecond == 0 => $"{ticks / TimeSpan.TicksPerSecond}s",
        var ticks => $"{ticks / TimeSpan.TicksPerMillisecond}ms",
    };

    /// <summary>For people: <c>812 µs</c>, <c>41.3 ms</c>, <c>2.35 s</c>.</summary>
    public static string Rounded(TimeSpan time) => time.TotalSeconds switch
    {
        < 0.001 => $"{time.TotalMicroseconds:0} µs",
        < 1 => $"{time.TotalMilliseconds:0.0} ms",
        _ => $"{time.TotalSeconds:0.00} s",
    };
}
