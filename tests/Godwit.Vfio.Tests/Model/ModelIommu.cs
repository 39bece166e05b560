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
    private readonly SortedDictionary<ulong, (ulong GpaPage, AccessRights Rights)> _announced = [];

    /// <summary>What the guest's tables say now, page by page.</summary>
    public SortedDictionary<ulong, (ulong GpaPage, AccessRights Rights)> Tables { get; } = [];

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
            List<(ulong First, ulong Count)> gone = [];
            List<(ulong First, ulong Count, ulong Gpa, AccessRights Rights)> come = [];
            foreach (ulong page in _announced.Keys.Where(p => p >= first && p < end).ToList())
            {
                if (Tables.TryGetValue(page, out var now) && now == _announced[page])
                    continue;
                _announced.Remove(page);
                if (gone.Count > 0 && gone[^1].First + gone[^1].Count == page)
                    gone[^1] = (gone[^1].First, gone[^1].Count + 1);
                else
                    gone.Add((page, 1));
            }

            foreach ((ulong page, (ulong gpa, AccessRights rights)) in Tables.Where(t => t.Key >= first && t.Key < end && !_announced.ContainsKey(t.Key)).ToList())
            {
                _announced[page] = (gpa, rights);
                come.Add((page, 1, gpa, rights));
            }

            foreach ((IIommuListener listener, BusRange range) in _listeners)
            {
                listener.BatchBegin();
                foreach ((ulong page, ulong count) in gone)
                {
                    if (Clip(range, page, count) is { } c)
                        listener.Unmapped(new Iova(c.First << 12), (c.End - c.First) << 12);
                }

                foreach ((ulong page, ulong count, ulong gpa, AccessRights rights) in come)
                {
                    if (Clip(range, page, count) is { } c)
                        listener.Mapped(new Iova(c.First << 12), (c.End - c.First) << 12, new Gpa((gpa + (c.First - page)) << 12), rights);
                }

                listener.BatchEnd();
            }
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
            return _announced.TryGetValue(page, out var entry) && (entry.Rights & wanted) == wanted
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
            foreach ((ulong page, (ulong gpa, AccessRights rights)) in _announced)
            {
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
