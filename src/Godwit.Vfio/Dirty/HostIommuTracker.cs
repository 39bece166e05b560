using System.Diagnostics;
using System.Numerics;
using Godwit.Memory;
using Godwit.Migration;

namespace Godwit.Vfio;

/// <summary>
/// Brings what a device wrote to the migration bitmap, by the dirty bits of the host's IOMMU. The bits belong to mappings and die with them, so
/// they are read whenever one goes (dirty-tracking rule 5); they are attributed with what is installed in the host, and nothing else.
/// </summary>
/// <remarks>
/// A query never cuts a mapping: type1 refuses that, and a bit of a large IOMMU page that is cut would be cleared for the part that was not
/// asked about. Threads as for <see cref="DmaLogTracker"/>.
/// <para>
/// With <see cref="HostIommuShape.UnmapForgets"/> a mapping that goes counts as written whole, whatever its size: a query before the unmap would miss
/// what the device writes between the two, and after it there is nothing to ask.
/// </para>
/// </remarks>
internal class HostIommuTracker : IDeviceDirtySource
{
    /// <summary>Longest bitmap of a query that joins mappings: 4 GiB of IOVA by 4 KiB. Bounds how long a vCPU may wait for the gate.</summary>
    internal const int QueryBytes = 128 * 1024;

    /// <summary>Widest hole inside one query, where holes are allowed: 2 KiB of bitmap, cheaper than a system call.</summary>
    internal const ulong BridgePages = 256 * 64;

    private readonly string _device;
    private readonly IHostIommu _host;
    private readonly DmaShadow _shadow;
    private readonly DirtyMarker _marker;
    private readonly NoticeBoard _notices;
    private readonly ulong _granule; // 4 KiB pages in one of its pages
    private readonly List<Mapping> _unread = []; // of the batch that is being unmapped
    private LogBitmap _bitmap = new(QueryBytes);
    private bool _started, _restarted;
    private DeviceRefusedException? _broken;
    private long _queries, _bits, _pagesReported, _harvests, _syncs, _ticks, _uncovered, _uncoveredNow;

    /// <summary>Creates it, idle.</summary>
    public HostIommuTracker(string device, IHostIommu host, DmaShadow shadow, DirtyMarker marker, NoticeBoard notices)
    {
        _device = device;
        _host = host;
        _shadow = shadow;
        _marker = marker;
        _notices = notices;
        _granule = Math.Max(host.Traits.PageBytes, RamPage.Size) >> RamPage.Shift;
    }

    /// <inheritdoc/>
    public string Id => _device;

    /// <summary>4 KiB pages that one bitmap can hold at most.</summary>
    public static ulong LargestMapping(HostIommuTraits traits)
    {
        ulong granule = Math.Max(traits.PageBytes, RamPage.Size) >> RamPage.Shift;
        return traits.MaxBitmapBits < IovaPages.SpacePages / granule ? traits.MaxBitmapBits * granule : IovaPages.SpacePages;
    }

    /// <inheritdoc/>
    public void Start()
    {
        lock (_shadow.Gate)
        {
            ThrowIfLost();
            if (_started)
                throw new InvalidOperationException($"{_device}: dirty tracking has been started already");
            try
            {
                _host.StartDirtyTracking();
            }
            catch (DeviceRefusedException e)
            {
                throw new DirtyLogLostException($"{_device}: the host's IOMMU does not set dirty bits ({e.Errno})", e);
            }

            _broken = null;
            _restarted = false;
            _started = true;
        }
    }

    /// <inheritdoc/>
    public DirtySyncReport Sync(bool final)
    {
        long queries = _queries, marked = _marker.Marked, began = Stopwatch.GetTimestamp();
        _uncoveredNow = 0;
        ulong next = 0;
        bool more = true;
        while (more)
        {
            lock (_shadow.Gate)
            {
                ThrowIfLost();
                if (!_started)
                    throw new InvalidOperationException($"{_device}: dirty tracking has not been started");
                if (_broken is { } cause)
                {
                    Repair(cause, final);
                    break; // all that is mapped has just been marked
                }

                more = Step(ref next);
            }
        }

        Volatile.Write(ref _uncovered, _uncoveredNow);
        Volatile.Write(ref _syncs, _syncs + 1);
        Volatile.Write(ref _ticks, _ticks + (Stopwatch.GetTimestamp() - began));
        return new DirtySyncReport((int)(_queries - queries), _marker.Marked - marked, _shadow.LiveCount) { UncoveredPages = _uncoveredNow };
    }

    /// <inheritdoc/>
    public void Stop()
    {
        lock (_shadow.Gate)
        {
            if (!_started)
                return;
            _started = false;
            _broken = null;
            StopBits();
        }
    }

    /// <inheritdoc/>
    public virtual bool TryUnmap(in Mapping mapping)
    {
        if (!_started || !mapping.Writable)
            return false;
        if (_host.Traits.Shape == HostIommuShape.UnmapWithBitmap && Fits(mapping.Iova))
        {
            _host.UnmapWithDirty(mapping.Iova, Prepare(mapping.Iova));
            Take(mapping);
            return true;
        }

        _unread.Add(mapping); // marked when the host has let go of it
        return false;
    }

    /// <inheritdoc/>
    public void Unmapped(ReadOnlySpan<Mapping> removed)
    {
        if (!_started)
            return;
        foreach (Mapping mapping in _unread)
            _marker.Mark(mapping.Ram, mapping.Iova.Count);
        _unread.Clear();
        Volatile.Write(ref _harvests, _harvests + 1);
    }

    /// <inheritdoc/>
    public DirtyTrackingReport Explain(DirtyTrackingMode mode) => new()
    {
        Device = _device,
        Mode = mode,
        Source = DirtySourceKind.HostIommu,
        Active = Volatile.Read(ref _started),
        Coverage = _host.Traits.TracksWrites ? "what is mapped" : "what is mapped, all of it counting as written",
        UncoveredPages = (ulong)Volatile.Read(ref _uncovered),
        Reports = Volatile.Read(ref _queries),
        BitsAsked = Volatile.Read(ref _bits),
        PagesReported = Volatile.Read(ref _pagesReported),
        Harvests = Volatile.Read(ref _harvests),
        Syncs = Volatile.Read(ref _syncs),
        TimeInSyncs = Stopwatch.GetElapsedTime(0, Volatile.Read(ref _ticks)),
    };

    /// <summary>What was written between the loss of the bits and the new start is unknown.</summary>
    protected virtual void MarkAfterLoss() => MarkMapped();

    /// <summary>Whether queries end where mappings do.</summary>
    protected virtual bool KeepsMappingsWhole => true;

    private bool Step(ref ulong next)
    {
        if (!NextRun(ref next, out IovaPages run, out RamPage ram, out bool fits))
            return false;
        if (!fits)
        {
            _marker.Mark(ram, run.Count);
            _uncoveredNow += (long)run.Count;
            return true;
        }

        try
        {
            Volatile.Write(ref _queries, _queries + 1);
            _host.QueryDirty(run, Prepare(run));
            ulong pages = _bitmap.CountPages();
            if (pages > 0)
            {
                Volatile.Write(ref _pagesReported, _pagesReported + (long)pages);
                _bitmap.Attribute(_shadow.Installed, _marker);
            }
        }
        catch (DeviceRefusedException e)
        {
            _broken = e; // the next turn of the loop repairs
        }

        return true;
    }

    /// <summary>
    /// The next mappings to ask about in one query, from <paramref name="next"/> on, which moves behind them; or one that no bitmap can hold,
    /// with the RAM behind it.
    /// </summary>
    private bool NextRun(ref ulong next, out IovaPages run, out RamPage ram, out bool fits)
    {
        ulong bridge = _host.Traits.Shape == HostIommuShape.UnmapWithBitmap ? BridgePages : 0;
        ulong budget = Math.Min(QueryBytes * 8UL * _granule, LargestMapping(_host.Traits));
        ulong start = 0, end = 0; // of the query; none while end is 0
        (run, ram, fits) = (default, default, true);
        MappingTable.Cursor cursor = _shadow.Installed.Seek(next);
        while (cursor.MoveNext())
        {
            // The table joins mappings that continue each other; what may not be cut is each of them.
            Mapping joined = cursor.Current;
            ulong each = cursor.MappingPages;
            if (!joined.Writable)
                continue;
            ulong first = joined.Iova.First >= next ? joined.Iova.First : joined.Iova.First + ((next - joined.Iova.First) / each * each);
            if (!Fits(new IovaPages(first, each)))
            {
                if (end > 0)
                    break;
                (run, ram, fits) = (IovaPages.Between(first, joined.Iova.End), joined.Ram + (first - joined.Iova.First), false);
                next = run.End;
                return true;
            }

            if (end == 0)
                start = first;
            else if (first > end + bridge || first + each - start > budget)
                break;
            ulong room = Math.Max(1, (start + budget - first) / each);
            end = first + (Math.Min((joined.Iova.End - first) / each, room) * each);
            if (end < joined.Iova.End)
                break;
        }

        if (end == 0)
            return false;
        if (!KeepsMappingsWhole)
            (start, end) = (Math.Max(start, next), Math.Min(end, Math.Max(start, next) + 64));
        run = IovaPages.Between(start, end);
        next = run.End;
        return true;
    }

    private bool Fits(IovaPages iova) =>
        iova.Count <= LargestMapping(_host.Traits) && ((iova.First | iova.Count) & (_granule - 1)) == 0;

    private Span<ulong> Prepare(IovaPages range)
    {
        // Grows to the largest mapping seen, which is no larger than RAM, and then never again.
        if (_bitmap.Capacity * _granule < range.Count)
            _bitmap = new LogBitmap(checked((int)BitOperations.RoundUpToPowerOf2((range.Count / _granule + 63) / 64) * sizeof(ulong)));
        Volatile.Write(ref _bits, _bits + (long)(range.Count / _granule));
        return _bitmap.Prepare(range, _granule);
    }

    private void Take(in Mapping mapping)
    {
        ulong pages = _bitmap.CountPages();
        if (pages == 0)
            return;
        Volatile.Write(ref _pagesReported, _pagesReported + (long)pages);
        _bitmap.Attribute(mapping, _marker);
    }

    /// <summary>Bits cannot be read: set them anew, once a migration, and count everything mapped for writing as dirty from then on (rule 10).</summary>
    private void Repair(DeviceRefusedException cause, bool final)
    {
        string lost = $"{_device}: the dirty bits of the host's IOMMU cannot be read ({cause.Operation}: {cause.Errno})";
        if (final)
        {
            // The device stands still, so nothing can be written after this.
            MarkAfterLoss();
            _broken = null;
            _notices.Post($"{lost} at the switchover; everything mapped for writing is sent again");
            return;
        }

        if (_restarted)
            throw new DirtyLogLostException($"{lost} for the second time", cause);
        _restarted = true;
        StopBits();
        try
        {
            _host.StartDirtyTracking();
        }
        catch (DeviceRefusedException e)
        {
            throw new DirtyLogLostException($"{lost}, and it refused to set them anew ({e.Errno})", cause);
        }

        MarkAfterLoss();
        _broken = null;
        _notices.Post($"{lost}; they are set anew and everything mapped for writing is sent again");
    }

    private void StopBits()
    {
        try
        {
            _host.StopDirtyTracking();
        }
        catch (IOException e) when (e is DeviceRefusedException or DeviceLostException)
        {
            _notices.Post($"{_device}: the host's IOMMU does not stop setting dirty bits: {e.Message}");
        }
    }

    private void MarkMapped()
    {
        MappingTable.Cursor cursor = _shadow.Installed.Seek(0);
        while (cursor.MoveNext())
        {
            if (cursor.Current.Writable)
                _marker.Mark(cursor.Current.Ram, cursor.Current.Iova.Count);
        }
    }

    private void ThrowIfLost()
    {
        if (_shadow.IsLost)
            throw new DeviceLostException($"{_device}: the device has gone, and what it wrote last cannot be known");
    }
}
