namespace Godwit.Memory;

/// <summary>
/// What changed between two flat views of a space. Offset and region of a removed range are those it was added with. Called on the
/// thread that commits, with the writer lock held: the callee may add or remove listeners of IOMMU regions, and may not change topology
/// or listeners of spaces. An exception does not stop the delivery to others; the commit throws it at its end.
/// </summary>
public interface IMemoryListener
{
    /// <summary>Lower numbers are called first for additions and last for removals.</summary>
    int Priority => 0;

    /// <summary>A commit that changes this space begins.</summary>
    void TransactionBegin() { }

    /// <summary>A range went. All removals of a commit, in all spaces, come before its first addition.</summary>
    void RegionRemoved(in FlatRange range);

    /// <summary>A range came.</summary>
    void RegionAdded(in FlatRange range);

    /// <summary>The commit is complete.</summary>
    void TransactionCommit() { }
}
