namespace Godwit.Memory;

/// <summary>What one listener is to be told of one commit.</summary>
internal sealed class ViewChange(IMemoryListener listener, IReadOnlyList<FlatRange> removed, IReadOnlyList<FlatRange> added)
{
    /// <summary>The ranges only in <paramref name="old"/> and those only in <paramref name="now"/>; a changed attribute makes a range both.</summary>
    internal static (List<FlatRange> Removed, List<FlatRange> Added) Compare(ReadOnlySpan<FlatRange> old, ReadOnlySpan<FlatRange> now)
    {
        List<FlatRange> removed = [];
        List<FlatRange> added = [];
        int o = 0;
        int n = 0;
        while (o < old.Length || n < now.Length)
        {
            if (o < old.Length && n < now.Length && old[o] == now[n])
            {
                o++;
                n++;
            }
            else if (n == now.Length || (o < old.Length && old[o].Range.First <= now[n].Range.First))
            {
                removed.Add(old[o++]);
            }
            else
            {
                added.Add(now[n++]);
            }
        }

        return (removed, added);
    }

    /// <summary>Tells everybody: begins, removals by falling priority, additions by rising priority, commits. Collects what they throw.</summary>
    internal static void Tell(IEnumerable<ViewChange> changes, List<Exception> errors)
    {
        ViewChange[] rising = [.. changes.OrderBy(change => change.Priority)];
        foreach (ViewChange change in rising)
            Guarded(change.Begin, errors);
        foreach (ViewChange change in rising.Reverse())
            change.TellRemoved(errors);
        foreach (ViewChange change in rising)
            change.TellAdded(errors);
        foreach (ViewChange change in rising)
            Guarded(change.Commit, errors);
    }

    private int Priority { get; } = listener.Priority;

    private static void Guarded(Action call, List<Exception> errors)
    {
        // One listener's failure must not leave the others with a picture that is half old: it is kept and thrown by the commit.
        try
        {
            call();
        }
        catch (Exception exception)
        {
            errors.Add(exception);
        }
    }

    private void Begin() => listener.TransactionBegin();

    private void Commit() => listener.TransactionCommit();

    private void TellRemoved(List<Exception> errors)
    {
        foreach (FlatRange range in removed)
            Guarded(() => listener.RegionRemoved(range), errors);
    }

    private void TellAdded(List<Exception> errors)
    {
        foreach (FlatRange range in added)
            Guarded(() => listener.RegionAdded(range), errors);
    }
}
