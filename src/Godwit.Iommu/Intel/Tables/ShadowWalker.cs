using Godwit.Iommu.Intel.Spec;
using Godwit.Memory;

namespace Godwit.Iommu.Intel;

/// <summary>Told of each present leaf of a walk in ascending order.</summary>
internal interface ILeafVisitor
{
    void Visit(in Announcement leaf);
}

/// <summary>
/// Walks a range of a second-stage table. Empty subtrees cost one entry. Tables that share subtables could unfold to far more leaves
/// than they have bytes, so a walk visits at most as many tables as guest RAM has pages, and a device has at most twice as many
/// announcements live; what lies beyond is left out and counted. A guest whose tables are a tree meets neither limit. Used under the
/// unit's lock.
/// </summary>
internal sealed class ShadowWalker(GuestTables tables, AddressSpace system)
{
    private readonly ulong[][] _entries = [new ulong[512], new ulong[512], new ulong[512], new ulong[512], new ulong[512]];
    private FlatView? _measured;
    private long _ramPages;
    private long _budget;

    /// <summary>Subtrees left out because the budget ran out, and leaves beyond the limit of a device.</summary>
    internal long Refused { get; private set; }

    /// <summary>Tables visited since the unit was created.</summary>
    internal long Visited { get; private set; }

    /// <summary>Tables that one walk may visit.</summary>
    internal long TableLimit => RamPages + 16;

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

    /// <summary>Visits every valid leaf that overlaps [<paramref name="first"/>, <paramref name="last"/>].</summary>
    internal void Walk(in ContextEntry context, Iova first, Iova last, int addressWidth, ILeafVisitor visitor)
    {
        int level = context.Levels;
        int width = Math.Min(addressWidth, SecondStageEntry.PageShift(level + 1));
        ulong highest = (1UL << width) - 1;
        if (first.Value > highest)
            return;
        _budget = TableLimit;
        Descend(context.Table, level, 0, AccessRights.ReadWrite, first.Value, Math.Min(last.Value, highest), visitor);
    }

    private void Descend(ulong table, int level, ulong origin, AccessRights rights, ulong first, ulong last, ILeafVisitor visitor)
    {
        if (_budget-- <= 0)
        {
            Refused++;
            return;
        }

        Visited++;
        int shift = SecondStageEntry.PageShift(level);
        int from = first <= origin ? 0 : (int)((first - origin) >> shift);
        int to = (int)Math.Min(511, (last - origin) >> shift);
        Span<ulong> entries = _entries[level - 1].AsSpan(from, to - from + 1);
        if (!tables.TryRead(table + ((ulong)from * 8), entries))
            return;
        for (int i = 0; i < entries.Length; i++)
        {
            var entry = new SecondStageEntry(entries[i]);
            if (!entry.IsPresent || entry.HasReservedBits(level, GuestTables.HostWidthMask))
                continue;
            AccessRights allowed = rights & ((entry.CanRead ? AccessRights.Read : 0) | (entry.CanWrite ? AccessRights.Write : 0));
            if (allowed == AccessRights.None)
                continue;
            ulong iova = origin + ((ulong)(from + i) << shift);
            if (!entry.IsLeaf(level))
            {
                Descend(entry.Table, level - 1, iova, allowed, first, last, visitor);
            }
            else if (!InterruptRange.Overlaps(entry.Page(level), SecondStageEntry.PageBytes(level)))
            {
                var leaf = new Announcement(new Iova(iova), level, new Gpa(entry.Page(level)), allowed);
                visitor.Visit(leaf);
            }
        }
    }
}
