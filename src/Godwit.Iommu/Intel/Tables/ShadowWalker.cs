using Godwit.Iommu.Intel.Spec;
using Godwit.Memory;

namespace Godwit.Iommu.Intel;

/// <summary>Told of each present leaf of a walk in ascending order.</summary>
internal interface ILeafVisitor
{
    /// <summary>False stops the walk; the visitor knows where it wants to go on.</summary>
    bool Visit(in Announcement leaf);
}

/// <summary>How a step of a walk ended.</summary>
internal enum WalkEnd
{
    /// <summary>At the end of the range.</summary>
    Complete,

    /// <summary>By the number of tables.</summary>
    Paused,

    /// <summary>By the visitor.</summary>
    Stopped,
}

/// <summary>
/// Walks a range of a table of either stage. Empty subtrees cost one entry. Tables that share subtables could unfold to far more leaves
/// than they have bytes, so a comparison looks at most at as many tables and leaves together as guest RAM has pages for tables and a device may
/// have announcements live, which is twice as many; what lies beyond is left out and counted. A guest whose tables are a tree meets neither
/// limit. Used under the unit's lock.
/// </summary>
/// <remarks>
/// A device that is told of a mapping uses it without asking again, so first-stage entries are marked accessed, and writable leaves dirty,
/// before they are announced (VT-d 3.6.2 lets a unit cache a translation only when it is marked). That may mark more than the device will
/// write, never less.
/// </remarks>
internal sealed class ShadowWalker(GuestTables tables, AddressSpace system)
{
    /// <summary>Tables visited before a walk pauses, which bounds how long anyone waits for the unit's lock; as many as leaves in a step.</summary>
    private const int TablesPerStep = 4096;

    private readonly ulong[][] _entries = [new ulong[512], new ulong[512], new ulong[512], new ulong[512], new ulong[512]];
    private FlatView? _measured;
    private long _ramPages;
    private long _budget;
    private int _step;
    private ulong _pausedAt;

    /// <summary>Subtrees left out because the budget ran out, and leaves beyond the limit of a device.</summary>
    internal long Refused { get; private set; }

    /// <summary>Tables visited since the unit was created.</summary>
    internal long Visited { get; private set; }

    /// <summary>Tables and leaves that one comparison may look at.</summary>
    internal long ComparisonLimit => RamPages + 16 + AnnouncementLimit;

    /// <summary>Announcements that one device may have live: every page of RAM twice, and some for what is no RAM.</summary>
    internal long AnnouncementLimit => (RamPages * 2) + 0x1_0000;

    private long RamPages
    {
        get
        {
            FlatView view = system.View;
            if (!ReferenceEquals(view, _measured))
            {
                UInt128 bytes = 0;
                foreach (FlatRange range in view.Ranges)
                    bytes += range.Region is RamRegion ? range.Range.Length : 0;
                _ramPages = (long)(bytes >> RamPage.Shift);
                _measured = view;
            }

            return _ramPages;
        }
    }

    /// <summary>Counts a leaf that a device may not have because of <see cref="AnnouncementLimit"/>.</summary>
    internal void Refuse() => Refused++;

    /// <summary>
    /// Visits the valid leaves that overlap [<paramref name="first"/>, <paramref name="last"/>], until the end, or until the visitor stops it,
    /// or until it has visited as many tables as one step may: then <paramref name="pausedAt"/> is where to go on. Takes tables and leaves from
    /// <paramref name="budget"/>, and finds nothing more when it is used up.
    /// </summary>
    internal WalkEnd Walk(in PageTable table, Iova first, Iova last, ILeafVisitor visitor, ref long budget, out Iova pausedAt)
    {
        pausedAt = first;
        ulong highest = (1UL << table.InputBits) - 1;
        if (first.Value > highest)
            return WalkEnd.Complete;
        _step = TablesPerStep;
        _budget = budget;
        var range = new Range(first.Value, Math.Min(last.Value, highest));
        WalkEnd end = Descend(table, table.Root, table.Levels, 0, AccessRights.ReadWrite, range, visitor);
        pausedAt = new Iova(_pausedAt);
        budget = _budget;
        return end;
    }

    private WalkEnd Descend(in PageTable format, ulong table, int level, ulong origin, AccessRights rights, Range range, ILeafVisitor visitor)
    {
        if (_step-- <= 0)
        {
            _pausedAt = Math.Max(origin, range.First);
            return WalkEnd.Paused;
        }

        if (_budget-- <= 0)
        {
            Refused++;
            return WalkEnd.Complete;
        }

        Visited++;
        int shift = SecondStageEntry.PageShift(level);
        int from = range.First <= origin ? 0 : (int)((range.First - origin) >> shift);
        int to = (int)Math.Min(511, (range.Last - origin) >> shift);
        Span<ulong> entries = _entries[level - 1].AsSpan(from, to - from + 1);
        if (!tables.TryRead(table + ((ulong)from * 8), entries))
            return WalkEnd.Complete;
        for (int i = 0; i < entries.Length; i++)
        {
            if (entries[i] == 0)
                continue;
            Child child = format.Stage == TableStage.First
                ? OfFirstStage(table + ((ulong)(from + i) * 8), entries[i], level)
                : OfSecondStage(entries[i], level, format.SnoopBit);
            AccessRights allowed = rights & child.Rights;
            if (allowed == AccessRights.None)
                continue;
            ulong iova = origin + ((ulong)(from + i) << shift);
            WalkEnd end = WalkEnd.Complete;
            if (!child.IsLeaf)
            {
                end = Descend(format, child.Address, level - 1, iova, allowed, range, visitor);
            }
            else if (!InterruptRange.Overlaps(child.Address, SecondStageEntry.PageBytes(level)))
            {
                if (_budget-- <= 0)
                {
                    Refused++;
                    return WalkEnd.Complete;
                }

                if (!visitor.Visit(new Announcement(new Iova(iova), level, new Gpa(child.Address), allowed)))
                    end = WalkEnd.Stopped;
            }

            if (end != WalkEnd.Complete)
                return end;
        }

        return WalkEnd.Complete;
    }

    private static Child OfSecondStage(ulong value, int level, bool snoopBit)
    {
        var entry = new SecondStageEntry(value);
        if (!entry.IsPresent || entry.HasReservedBits(level, GuestTables.HostWidthMask, snoopBit))
            return default;
        return entry.IsLeaf(level) ? new Child(entry.Page(level), entry.Rights, IsLeaf: true) : new Child(entry.Table, entry.Rights, IsLeaf: false);
    }

    private Child OfFirstStage(ulong address, ulong value, int level)
    {
        for (int attempt = 0; attempt < TableWalker.MaxAttempts; attempt++)
        {
            var entry = new FirstStageEntry(value);
            if (!entry.IsPresent || entry.HasReservedBits(level) || !entry.AllowsUser)
                return default;
            bool leaf = entry.IsLeaf(level);
            ulong marks = FirstStageEntry.AccessedBit | (leaf && entry.CanWrite ? FirstStageEntry.DirtyBit : 0);
            MarkResult result = (value & marks) == marks ? MarkResult.Done : tables.TryMark(address, value, marks);
            if (result == MarkResult.Done)
            {
                AccessRights rights = entry.CanWrite ? AccessRights.ReadWrite : AccessRights.Read;
                return new Child(leaf ? entry.Page(level) : entry.Table, rights, leaf);
            }

            if (result == MarkResult.Refused || !tables.TryRead(address, out value))
                return default;
        }

        return default;
    }

    /// <summary>What an entry leads to; the default is nothing.</summary>
    private readonly record struct Child(ulong Address, AccessRights Rights, bool IsLeaf);

    private readonly record struct Range(ulong First, ulong Last);
}
