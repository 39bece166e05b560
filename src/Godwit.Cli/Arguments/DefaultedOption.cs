using System.CommandLine;

namespace Godwit.Cli;

/// <summary>
/// An option that has a value when it is not given. The library would print that value as code does (<c>00:00:06</c>); here the
/// description says it as people type it.
/// </summary>
internal sealed class DefaultedOption<T>(string name, T byDefault) : Option<T>(name)
{
    /// <summary>Value when not given.</summary>
    public T Default { get; } = byDefault;
}

/// <summary>Reading <see cref="DefaultedOption{T}"/>.</summary>
internal static class DefaultedOptionExtensions
{
    /// <summary>What was given, or the default.</summary>
    public static T Value<T>(this ParseResult parsed, DefaultedOption<T> option) =>
        parsed.GetResult(option) is null or { Implicit: true } ? option.Default : parsed.GetRequiredValue(option);
}
