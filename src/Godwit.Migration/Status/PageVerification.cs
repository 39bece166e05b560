namespace Godwit.Migration;

/// <summary>Result of the page comparison.</summary>
/// <param name="PagesCompared">Pages whose checksums were compared: all of RAM.</param>
/// <param name="PagesDiffering">How many differ.</param>
/// <param name="FirstDifferences">The first few, by name: block, offset.</param>
public sealed record PageVerification(long PagesCompared, long PagesDiffering, IReadOnlyList<string> FirstDifferences);
