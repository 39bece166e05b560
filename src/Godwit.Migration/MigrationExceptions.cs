namespace Godwit.Migration;

/// <summary>Refused before anything started.</summary>
public sealed class MigrationBlockedException(IReadOnlyList<MigrationBlocker> blockers)
    : InvalidOperationException("Migration is blocked: " + string.Join("; ", blockers))
{
    /// <summary>Every reason.</summary>
    public IReadOnlyList<MigrationBlocker> Blockers { get; } = blockers;
}

/// <summary>Failed after it started; the text names side, phase and cause.</summary>
public sealed class MigrationFailedException(string message, Exception? inner = null) : Exception(message, inner);
