using Godwit.Memory;

namespace Godwit.Migration;

/// <summary>A source of pages that were written without the VMM seeing each write. Marks land in <see cref="GuestRam.Dirty"/>.</summary>
public interface IDirtyTracker
{
    /// <summary>Device or container id.</summary>
    string Id { get; }

    /// <summary>Arms. Called after <see cref="DirtyLog.Start"/>. Throws to fail the migration before anything moved.</summary>
    void Start();

    /// <summary>
    /// Brings everything written up to this call into the bitmap, though what is unmapped while it runs may wait for the next.
    /// <paramref name="final"/>: vCPUs and devices are stopped. Throws when the log is lost and cannot be repaired (dirty-tracking rule 10).
    /// </summary>
    DirtySyncReport Sync(bool final);

    /// <summary>Disarms; never throws for a device that is gone.</summary>
    void Stop();
}

/// <summary>What one sync did.</summary>
/// <param name="Reports">Log reports made to devices.</param>
/// <param name="PagesMarked">Pages newly marked.</param>
/// <param name="Mappings">Mappings live.</param>
public readonly record struct DirtySyncReport(int Reports, long PagesMarked, long Mappings)
{
    /// <summary>Pages that count as dirty at every sync, written or not, because nothing tells; they are among those marked.</summary>
    public long UncoveredPages { get; init; }

    /// <summary>Pages that have been unmapped and of which the log has not been read yet: as many may be marked by the next sync.</summary>
    public long UnharvestedPages { get; init; }
}
