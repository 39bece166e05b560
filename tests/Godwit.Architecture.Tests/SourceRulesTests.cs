using System.Text.RegularExpressions;

namespace Godwit.Architecture.Tests;

/// <summary>Rules about the text of the sources that no analyzer checks.</summary>
public sealed partial class SourceRulesTests
{
    private const int LongestFile = 600;

    /// <summary>Lines above a dangerous one in which its justification must stand.</summary>
    private const int Near = 8;

    [Fact]
    public void No_file_is_longer_than_600_lines() =>
        None(Repository.Sources.Concat(Repository.Files("tests")), lines => lines.Length >= LongestFile ? [lines.Length] : []);

    [Fact]
    public void Nothing_is_left_undone() =>
        None(Repository.Sources, lines => Where(lines, line => Undone().IsMatch(line)));

    [Fact]
    public void Every_unsafe_block_says_why_it_is_safe() =>
        None(Repository.Sources, lines => Where(lines, line => UnsafeBlock().IsMatch(line)).Where(at => !Justified(lines, at)));

    [Fact]
    public void Every_call_that_holds_up_the_collector_says_why_it_may() =>
        None(Repository.Sources, lines => Where(lines, line => line.Contains("[SuppressGCTransition", StringComparison.Ordinal)).Where(at => !Justified(lines, at)));

    /// <summary>
    /// Pointers may also be used in members and types that are marked unsafe. Files of Interop.Linux only declare C functions and
    /// structs; what calls them is elsewhere.
    /// </summary>
    [Fact]
    public void Every_file_with_pointers_says_why_they_are_safe() => None(
        Repository.Sources.Where(file => !file.StartsWith("src/Godwit.Interop.Linux/", StringComparison.Ordinal)),
        lines => lines.Any(line => line.Contains("SAFETY:", StringComparison.Ordinal)) ? [] : Where(lines, line => Dereferences().IsMatch(line)).Take(1));

    [Fact]
    public void C_functions_are_declared_in_Interop_Linux_only() => None(
        Repository.Sources.Where(file => !file.StartsWith("src/Godwit.Interop.Linux/", StringComparison.Ordinal)),
        lines => Where(lines, line => line.Contains("[LibraryImport", StringComparison.Ordinal) || line.Contains("[DllImport", StringComparison.Ordinal)));

    [Fact]
    public void Nothing_is_caught_and_forgotten_without_a_word() =>
        None(Repository.Sources, lines => Where(lines, line => EmptyCatch().IsMatch(line)));

    private static void None(IEnumerable<string> files, Func<string[], IEnumerable<int>> offences)
    {
        List<string> found = [.. files.SelectMany(file => offences(Repository.Lines(file)).Select(line => $"{file}:{line}"))];
        Assert.True(found.Count == 0, $"{found.Count} offences:\n{string.Join('\n', found)}");
    }

    /// <summary>Line numbers, from 1, of code that <paramref name="matches"/>.</summary>
    private static IEnumerable<int> Where(string[] lines, Func<string, bool> matches) =>
        Enumerable.Range(1, lines.Length).Where(number => matches(lines[number - 1]));

    private static bool Justified(string[] lines, int number) =>
        lines.Skip(number - 1 - Near).Take(Near + 3).Any(line => line.Contains("SAFETY:", StringComparison.Ordinal));

    [GeneratedRegex(@"NotImplementedException|\b(TODO|FIXME|HACK|XXX)\b")]
    private static partial Regex Undone();

    [GeneratedRegex(@"^\s*unsafe\s*(\{.*)?$")]
    private static partial Regex UnsafeBlock();

    [GeneratedRegex(@"\w\s*->\s*\w|Unsafe\.(AsRef|Read|Write|As|Add)\b|new (Read)?OnlySpan<\w+>\(\(?\w*\*|^\s*fixed \(")]
    private static partial Regex Dereferences();

    [GeneratedRegex(@"catch(\s*\([^)]*\))?\s*\{\s*\}")]
    private static partial Regex EmptyCatch();
}
