using Godwit.Memory;

namespace Godwit.Vfio.Tests;

/// <summary>
/// An IOMMU whose guest tables and announced mappings are two things: the guest edits its tables whenever it likes, and an invalidation
/// compares and announces, as VT-d with caching mode does.
/// </summary>
internal sealed class ModelIommu(ulong pages, IommuAttributes attributes) : IommuRegion("model iommu", (UInt128)pages << RamPage.Shift)
{
    private readonly Lock _unit = new();
    private readonly List<(IIommuListener Listener, BusRange Range)> _listeners = [];
    private readonly List<(ulong First, ulong Count)> _gone = [];
    private readonly List<(ulong First, ulong Count, ulong Gpa, AccessRights Rights)> _come = [];
    private readonly GuestTables _announced = new(pages);

    /// <summary>What the guest's tables say now, page by page.</summary>
    public GuestTables Tables { get; } = new(pages);

    /// <summary>Set: pages that follow each other on both sides are announced as one, as large pages are; else one by one.</summary>
    public bool AnnouncesRuns { get; set; }

    /// <summary>Set: it cannot announce mappings.</summary>
    public bool Mute { get; set; }

    /// <summary>What it says of itself; a test may make it another model.</summary>
    public IommuAttributes Is { get; set; } = attributes;

    public override IommuAttributes Attributes => Is;

    public ulong PageCount => pages;

    public int ListenerCount => _listeners.Count;

    /// <summary>The guest invalidates a range: what differs from what was announced is announced, all removals first.</summary>
    public void Invalidate(ulong first, ulong end)
    {
        lock (_unit)
        {
            _gone.Clear();
            _come.Clear();
            for (ulong page = _announced.Next(first, end); page < end; page = _announced.Next(page + 1, end))
            {
                if (Tables.Has(page) && Tables[page] == _announced[page])
                    continue;
                _announced.Remove(page);
                if (_gone.Count > 0 && _gone[^1].First + _gone[^1].Count == page)
                    _gone[^1] = (_gone[^1].First, _gone[^1].Count + 1);
                else
                    _gone.Add((page, 1));
            }

            for (ulong page = Tables.Next(first, end); page < end; page = Tables.Next(page + 1, end))
            {
                if (_announced.Has(page))
                    continue;
                (ulong gpa, AccessRights rights) = _announced[page] = Tables[page];
                if (AnnouncesRuns && _come.Count > 0 && _come[^1] is var last && last.First + last.Count == page && last.Gpa + last.Count == gpa && last.Rights == rights)
                    _come[^1] = last with { Count = last.Count + 1 };
                else
                    _come.Add((page, 1, gpa, rights));
            }

            foreach ((IIommuListener listener, BusRange range) in _listeners)
            {
                listener.BatchBegin();
                foreach ((ulong page, ulong count) in _gone)
                {
                    if (Clip(range, page, count) is { } c)
                        listener.Unmapped(new Iova(c.First << 12), (c.End - c.First) << 12);
                }

                foreach ((ulong page, ulong count, ulong gpa, AccessRights rights) in _come)
                {
                    if (Clip(range, page, count) is { } c)
                        listener.Mapped(new Iova(c.First << 12), (c.End - c.First) << 12, new Gpa((gpa + (c.First - page)) << 12), rights);
                }

                listener.BatchEnd();
            }
        }
    }

    /// <summary>A new life: both are empty, and nobody is told.</summary>
    public void Forget()
    {
        lock (_unit)
        {
            Tables.Clear();
            _announced.Clear();
        }
    }

    /// <summary>Announces one mapping of any length, without tables.</summary>
    public void AnnounceMapped(Iova iova, ulong length, Gpa target, AccessRights rights) =>
        Announce(l => l.Mapped(iova, length, target, rights));

    /// <summary>Announces one removal.</summary>
    public void AnnounceUnmapped(Iova iova, ulong length) => Announce(l => l.Unmapped(iova, length));

    /// <summary>One batch of announcements.</summary>
    public void Announce(Action<IIommuListener> events)
    {
        lock (_unit)
        {
            foreach ((IIommuListener listener, BusRange range) in _listeners)
            {
                listener.BatchBegin();
                events(new Clipped(listener, range));
                listener.BatchEnd();
            }
        }
    }

    /// <summary>Passes on what lies in a listener's range.</summary>
    private sealed class Clipped(IIommuListener listener, BusRange range) : IIommuListener
    {
        public void Mapped(Iova iova, ulong length, Gpa target, AccessRights rights)
        {
            if (Clip(range, iova.Value >> 12, length >> 12) is { } c)
                listener.Mapped(new Iova(c.First << 12), (c.End - c.First) << 12, new Gpa(target.Value + (c.First << 12) - iova.Value), rights);
        }

        public void Unmapped(Iova iova, ulong length)
        {
            if (Clip(range, iova.Value >> 12, length >> 12) is { } c)
                listener.Unmapped(new Iova(c.First << 12), (c.End - c.First) << 12);
        }
    }

    public override IommuTranslation Translate(Iova iova, AccessRights wanted, in TransactionAttributes attributes)
    {
        lock (_unit)
        {
            ulong page = iova.Value >> 12;
            return page < pages && _announced.Has(page) && _announced[page] is var entry && (entry.Rights & wanted) == wanted
                ? new IommuTranslation(new Iova(page << 12), new Gpa(entry.GpaPage << 12), 4095, entry.Rights)
                : new IommuTranslation(new Iova(page << 12), default, 4095, AccessRights.None);
        }
    }

    public override void AddListener(IIommuListener listener, BusRange range)
    {
        lock (_unit)
        {
            if (Mute)
                throw new NotSupportedException("no caching mode");
            _listeners.Add((listener, range));
            listener.BatchBegin();
            for (ulong page = _announced.Next(0, pages); page < pages; page = _announced.Next(page + 1, pages))
            {
                (ulong gpa, AccessRights rights) = _announced[page];
                if (Clip(range, page, 1) is not null)
                    listener.Mapped(new Iova(page << 12), 4096, new Gpa(gpa << 12), rights);
            }

            listener.BatchEnd();
        }
    }

    public override void RemoveListener(IIommuListener listener)
    {
        lock (_unit)
            Assert.Equal(1, _listeners.RemoveAll(l => ReferenceEquals(l.Listener, listener)));
    }

    private static (ulong First, ulong End)? Clip(BusRange range, ulong page, ulong count)
    {
        ulong first = Math.Max(page, range.First.Value >> 12), end = Math.Min(page + count, (range.Last.Value >> 12) + 1);
        return first < end ? (first, end) : null;
    }
}
