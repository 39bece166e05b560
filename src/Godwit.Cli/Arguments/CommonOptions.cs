using System.CommandLine;
using System.CommandLine.Parsing;

namespace Godwit.Cli;

/// <summary>Makes options whose errors name the option, the value and the limit.</summary>
internal static class CommonOptions
{
    /// <summary>2 MiB: the granularity of guest memory.</summary>
    public const ulong MemoryGranule = 2UL << 20;

    private const ulong SmallestMemory = 64UL << 20;
    private const ulong LargestMemory = 1UL << 40;

    /// <summary>Path of a monitor to talk to.</summary>
    public static Option<string> Monitor() => new("--monitor")
    {
        Description = "Path of the machine's monitor socket.",
        HelpName = "PATH",
        Required = true,
    };

    /// <summary>One JSON object instead of text.</summary>
    public static Option<bool> Json() => new("--json") { Description = "Print one JSON object instead of text." };

    /// <summary>The safety net for programs that start godwit.</summary>
    public static Option<bool> ExitWithParent() => new("--exit-with-parent")
    {
        Description = "Stop when standard input closes, and leave Ctrl-C to the parent: a parent that holds the other end of the pipe cannot "
            + "leave this process behind, however it ends.",
    };

    /// <summary>Guest memory.</summary>
    public static DefaultedOption<ulong> Memory(ulong byDefault) => Size(
        "--memory",
        $"Guest memory: a multiple of 2M from {ByteSize.Exact(SmallestMemory)} to {ByteSize.Exact(LargestMemory)}.",
        byDefault,
        SmallestMemory,
        LargestMemory,
        MemoryGranule);

    /// <summary>A size with limits.</summary>
    public static DefaultedOption<ulong> Size(
        string name, string description, ulong byDefault, ulong minimum, ulong maximum, ulong granule) => new(name, byDefault)
        {
            Description = $"{description} [default: {ByteSize.Exact(byDefault)}]",
            HelpName = "SIZE",
            CustomParser = result =>
            {
                string text = result.Tokens[0].Value;
                if (!ByteSize.TryParse(text, out ulong bytes))
                {
                    result.AddError($"{name} '{text}' is not a size: a whole number with K, M, G or T, for example 512M");
                }
                else if (bytes < minimum || bytes > maximum)
                {
                    result.AddError($"{name} '{text}' must be from {ByteSize.Exact(minimum)} to {ByteSize.Exact(maximum)}");
                }
                else if (bytes % granule != 0)
                {
                    result.AddError($"{name} '{text}' must be a multiple of {ByteSize.Exact(granule)}");
                }

                return bytes;
            },
        };

    /// <summary>A whole number with limits.</summary>
    public static DefaultedOption<long> Number(string name, string description, long byDefault, long minimum, long maximum) => new(name, byDefault)
    {
        Description = $"{description} [default: {byDefault}]",
        HelpName = "N",
        CustomParser = result =>
        {
            string text = result.Tokens[0].Value;
            if (!long.TryParse(text, out long number) || number < minimum || number > maximum)
            {
                result.AddError($"{name} '{text}' must be a whole number from {minimum} to {maximum}");
            }

            return number;
        },
    };

    /// <summary>A time with limits; null when not given and <paramref name="byDefault"/> is null.</summary>
    public static DefaultedOption<TimeSpan?> Time(
        string name, string description, TimeSpan? byDefault, TimeSpan bare, TimeSpan minimum, TimeSpan maximum) => new(name, byDefault)
        {
            Description = byDefault is { } value ? $"{description} [default: {Duration.Exact(value)}]" : description,
            HelpName = "TIME",
            CustomParser = result =>
            {
                string text = result.Tokens[0].Value;
                if (!Duration.TryParse(text, bare, out TimeSpan time))
                {
                    result.AddError($"{name} '{text}' is not a time: a number with ms, s or m, for example 300ms");
                }
                else if (time < minimum || time > maximum)
                {
                    result.AddError($"{name} '{text}' must be from {Duration.Exact(minimum)} to {Duration.Exact(maximum)}");
                }

                return time;
            },
        };

    /// <summary>One of a few words.</summary>
    public static DefaultedOption<T> Choice<T>(string name, string description, T byDefault, params (string Word, T Value)[] choices)
    {
        string words = string.Join(", ", choices.Select(choice => choice.Word));
        string usual = choices.First(choice => EqualityComparer<T>.Default.Equals(choice.Value, byDefault)).Word;
        var option = new DefaultedOption<T>(name, byDefault)
        {
            Description = $"{description} [default: {usual}]",
            HelpName = string.Join('|', choices.Select(choice => choice.Word)),
            CustomParser = result =>
            {
                string text = result.Tokens[0].Value;
                foreach ((string word, T value) in choices)
                {
                    if (word == text)
                    {
                        return value;
                    }
                }

                result.AddError($"{name} '{text}' is not one of {words}");
                return byDefault;
            },
        };
        option.CompletionSources.Add([.. choices.Select(choice => choice.Word)]);
        return option;
    }

    /// <summary>Turns a <see cref="FormatException"/> of <paramref name="parse"/> into the parser's error.</summary>
    public static T? Parsed<T>(ArgumentResult result, string name, Func<T> parse)
        where T : class
    {
        try
        {
            return parse();
        }
        catch (FormatException e)
        {
            result.AddError($"{name}: {e.Message}");
            return null;
        }
    }
}
