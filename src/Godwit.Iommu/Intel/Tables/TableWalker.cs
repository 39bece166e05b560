using Godwit.Iommu.Intel.Spec;
using Godwit.Memory;

namespace Godwit.Iommu.Intel;

/// <summary>Walks a guest's page table for one address. Lock-free, allocation-free, any thread.</summary>
internal sealed class TableWalker(GuestTables tables)
{
    /// <summary>
    /// Most times that one walk begins anew because the guest changed an entry between its being read and being marked. A guest that keeps
    /// doing so has its request blocked; one that shares its tables with its own CPUs' paging needs one repetition now and then.
    /// </summary>
    internal const int MaxAttempts = 8;

    /// <summary>
    /// The leaf for <paramref name="iova"/>, or why not. The leaf's rights are those that may be cached: a first-stage page that is not marked
    /// dirty yet comes without the right to write unless writing was wanted, so that the first write is walked again.
    /// </summary>
    internal FaultReason Walk(in PageTable table, Iova iova, AccessRights wanted, out Announcement leaf) => table.Stage switch
    {
        TableStage.LegacySecond => WalkLegacy(table, iova, wanted, out leaf),
        TableStage.Second => WalkSecond(table, iova, wanted, out leaf),
        _ => WalkFirst(table, iova, wanted, out leaf),
    };

    // Tables have 52 bits at most: entries by their format, roots because more are reserved (ContextLookup).
    private static BusAddress EntryAddress(ulong table, Iova iova, int level) =>
        new(table + (((iova.Value >> SecondStageEntry.PageShift(level)) & 511) * 8));

    private static Announcement Leaf(Iova iova, int level, ulong page, AccessRights rights) =>
        new(new Iova(iova.Value & ~(SecondStageEntry.PageBytes(level) - 1)), level, new Gpa(page), rights);

    // Rights are judged on the way down, before reserved bits.
    private FaultReason WalkLegacy(in PageTable table, Iova iova, AccessRights wanted, out Announcement leaf)
    {
        leaf = default;
        if (iova.Value >> table.InputBits != 0)
            return FaultReason.AddressBeyondWidth;
        ulong at = table.Root;
        AccessRights rights = AccessRights.ReadWrite;
        using RamReader ram = tables.Open();
        for (int level = table.Levels; level > 0; level--)
        {
            if (!ram.TryReadUInt64(EntryAddress(at, iova, level), out ulong value))
                return level == table.Levels ? FaultReason.ContextInvalid : FaultReason.TableAccess; // the root: LCT.4.3
            var entry = new SecondStageEntry(value);
            rights &= entry.Rights;
            if ((wanted & AccessRights.Write & ~rights) != 0)
                return FaultReason.WriteDenied;
            if ((wanted & AccessRights.Read & ~rights) != 0 || rights == AccessRights.None)
                return FaultReason.ReadDenied;
            if (entry.HasReservedBits(level, GuestTables.HostWidthMask, table.SnoopBit))
                return FaultReason.TableReserved;
            if (entry.IsLeaf(level))
            {
                ulong page = entry.Page(level);
                if (InterruptRange.Overlaps(page, SecondStageEntry.PageBytes(level)))
                    return FaultReason.OutputInInterruptRange;
                leaf = Leaf(iova, level, page, rights);
                return FaultReason.None;
            }

            at = entry.Table;
        }

        return FaultReason.TableReserved;
    }

    private FaultReason WalkSecond(in PageTable table, Iova iova, AccessRights wanted, out Announcement leaf)
    {
        leaf = default;
        if (iova.Value >> table.InputBits != 0)
            return FaultReason.SecondStageBeyondWidth;
        ulong at = table.Root;
        AccessRights rights = AccessRights.ReadWrite;
        using RamReader ram = tables.Open();
        for (int level = table.Levels; level > 0; level--)
        {
            if (!ram.TryReadUInt64(EntryAddress(at, iova, level), out ulong value))
                return level == table.Levels ? FaultReason.SecondStageRootAccess : FaultReason.SecondStageAccess;
            var entry = new SecondStageEntry(value);
            rights &= entry.Rights;
            if (rights == AccessRights.None)
                return FaultReason.SecondStageDenied;
            if (entry.HasReservedBits(level, GuestTables.HostWidthMask, table.SnoopBit))
                return FaultReason.SecondStageReserved;
            if (entry.IsLeaf(level))
                return Finish(Leaf(iova, level, entry.Page(level), rights), wanted, out leaf);
            at = entry.Table;
        }

        return FaultReason.SecondStageReserved;
    }

    private static FaultReason Finish(in Announcement found, AccessRights wanted, out Announcement leaf)
    {
        leaf = default;
        if ((wanted & AccessRights.Write & ~found.Rights) != 0)
            return FaultReason.ScalableWriteDenied;
        if ((wanted & AccessRights.Read & ~found.Rights) != 0)
            return FaultReason.ScalableReadDenied;
        if (InterruptRange.Overlaps(found.Target.Value, found.Length))
            return FaultReason.ScalableOutputInInterruptRange;
        leaf = found;
        return FaultReason.None;
    }

    private FaultReason WalkFirst(in PageTable table, Iova iova, AccessRights wanted, out Announcement leaf)
    {
        leaf = default;
        int sign = 64 - SecondStageEntry.PageShift(table.Levels + 1);
        if ((ulong)((long)(iova.Value << sign) >> sign) != iova.Value)
            return FaultReason.NotCanonical;
        // The unit says that nothing above its last IOVA can be mapped, so the upper half passes as little as an address beyond the host's
        // width does (docs/vtd.md).
        if (iova.Value >> table.InputBits != 0)
            return FaultReason.ScalableBeyondWidth;
        // Nearly always an earlier walk has marked everything, and nothing need be remembered.
        return TryWalkFirst(table, iova, wanted, [], out leaf) ?? WalkAndMark(table, iova, wanted, out leaf);
    }

    private FaultReason WalkAndMark(in PageTable table, Iova iova, AccessRights wanted, out Announcement leaf)
    {
        Span<Visited> visited = stackalloc Visited[5];
        for (int attempt = 0; attempt < MaxAttempts; attempt++)
        {
            if (TryWalkFirst(table, iova, wanted, visited, out leaf) is { } settled)
                return settled;
        }

        leaf = default;
        return FaultReason.FirstStageUpdateFailed;
    }

    /// <summary>
    /// Null when an entry has to be marked and <paramref name="visited"/>, which remembers the way to it, is empty; or when the guest changed one
    /// before it could be marked.
    /// </summary>
    private FaultReason? TryWalkFirst(in PageTable table, Iova iova, AccessRights wanted, Span<Visited> visited, out Announcement leaf)
    {
        leaf = default;
        AccessRights rights = AccessRights.ReadWrite;
        ulong at = table.Root;
        ulong marked = ulong.MaxValue; // bits that all entries have
        using RamReader ram = tables.Open();
        for (int level = table.Levels; level > 0; level--)
        {
            BusAddress address = EntryAddress(at, iova, level);
            if (!ram.TryReadUInt64(address, out ulong value))
                return level == table.Levels ? FaultReason.FirstStageRootAccess : FaultReason.FirstStageAccess;
            var entry = new FirstStageEntry(value);
            if (!entry.IsPresent)
                return FaultReason.FirstStageNotPresent;
            if (entry.HasReservedBits(level))
                return FaultReason.FirstStageReserved;
            if (!entry.AllowsUser)
                return FaultReason.PrivilegeDenied;
            if (!entry.CanWrite)
                rights = AccessRights.Read;
            marked &= value;
            if (!visited.IsEmpty)
                visited[level - 1] = new Visited(address.Value, value);
            if (!entry.IsLeaf(level))
            {
                at = entry.Table;
                continue;
            }

            FaultReason fault = Finish(Leaf(iova, level, entry.Page(level), rights), wanted, out leaf);
            if (fault != FaultReason.None || wanted == AccessRights.None)
                return fault;
            bool write = (wanted & AccessRights.Write) != 0;
            if (!write && !entry.IsDirty)
                leaf = leaf with { Rights = rights & AccessRights.Read };
            if ((marked & FirstStageEntry.AccessedBit) != 0 && (!write || entry.IsDirty))
                return FaultReason.None;
            return visited.IsEmpty ? null : Mark(visited[(level - 1)..table.Levels], write);
        }

        return FaultReason.FirstStageReserved;
    }

    /// <summary>Sets A in each entry, from the root down, and D in the leaf, the first one, for a write (VT-d 3.6.2).</summary>
    private FaultReason? Mark(ReadOnlySpan<Visited> visited, bool write)
    {
        for (int index = visited.Length - 1; index >= 0; index--)
        {
            ulong marks = FirstStageEntry.AccessedBit | (write && index == 0 ? FirstStageEntry.DirtyBit : 0);
            (ulong address, ulong value) = visited[index];
            if ((value & marks) == marks)
                continue;
            switch (tables.TryMark(address, value, marks))
            {
                case MarkResult.Changed:
                    return null;
                case MarkResult.Refused:
                    return FaultReason.FirstStageUpdateFailed;
            }
        }

        return FaultReason.None;
    }

    /// <summary>An entry of the walk: where, and what it was.</summary>
    private readonly record struct Visited(ulong Address, ulong Value);
}
