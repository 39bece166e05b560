namespace Godwit.Migration;

/// <summary>
/// A reason why this machine cannot be migrated now, known before anything starts. One type per reason, so that callers can tell them
/// apart; the text is for people.
/// </summary>
public abstract record MigrationBlocker
{
    /// <summary>Stable name of the reason in kebab case, for scripts, for example <c>device-without-migration</c>.</summary>
    public abstract string Code { get; }

    /// <summary>What it is about: a device id, or the machine.</summary>
    public required string Subject { get; init; }

    /// <summary>Why, in one sentence, with the value and the limit where there is one.</summary>
    public abstract string Reason { get; }

    /// <summary>What to do to make it go.</summary>
    public abstract string WayOut { get; }

    /// <summary>
    /// The running guest may end it by itself at any moment: a migration that is under way waits for that, for some rounds, before it gives up.
    /// </summary>
    public virtual bool MayPass => false;

    /// <summary>The sentence that <c>query-migrate</c> lists.</summary>
    public sealed override string ToString() => $"{Subject}: {Reason} [{Code}]. {WayOut}";
}
