namespace Godwit.Migration;

/// <summary>Differences of two descriptions for people.</summary>
internal static class Differences
{
    internal static string Describe(IReadOnlyList<DescriptionDifference> differences) =>
        $"The machines differ in {differences.Count} {(differences.Count == 1 ? "entry" : "entries")}: {string.Join("; ", differences)}";
}
