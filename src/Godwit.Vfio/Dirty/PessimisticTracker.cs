using System.Diagnostics;
using Godwit.Migration;

namespace Godwit.Vfio;

/// <summary>
/// For a device of which nothing is known: what it could write counts as written, at every sync and when it is unmapped. Right with any
/// device; it converges when what the guest maps for writing is small against the link.
/// </summary>
internal sealed class PessimisticTracker(string device, DmaShadow shadow, DirtyMarker marker) : IDeviceDirtySource
{
    private bool _started;
    private long _harvests, _syncs, _ticks, _pages;

    /// <inheritdoc/>
    public string Id => device;

    /// <inheritdoc/>
    public void Start()
    {
        lock (shadow.Gate)
        {
            ThrowIfLost();
            if (_started)
                throw new InvalidOperationException($"{device}: dirty tracking has been started already");
            _started = true;
        }
    }

    /// <inheritdoc/>
    public DirtySyncReport Sync(bool final)
    {
        long began = Stopwatch.GetTimestamp(), marked = marker.Marked;
        lock (shadow.Gate)
        {
            ThrowIfLost();
            if (!_started)
                throw new InvalidOperationException($"{device}: dirty tracking has not been started");
            long pages = 0;
            MappingTable.Cursor cursor = shadow.Installed.Seek(0);
            while (cursor.MoveNext())
            {
                if (!cursor.Current.Writable)
                    continue;
                marker.Mark(cursor.Current.Ram, cursor.Current.Iova.Count);
                pages += (long)cursor.Current.Iova.Count;
            }

            Volatile.Write(ref _pages, pages);
        }

        Volatile.Write(ref _syncs, _syncs + 1);
        Volatile.Write(ref _ticks, _ticks + (Stopwatch.GetTimestamp() - began));
        return new DirtySyncReport(0, marker.Marked - marked, shadow.LiveCount) { UncoveredPages = _pages };
    }

    /// <inheritdoc/>
    public void Stop()
    {
        lock (shadow.Gate)
            _started = false;
    }

    /// <inheritdoc/>
    public void Unmapped(ReadOnlySpan<Mapping> removed)
    {
        if (!_started)
            return;
        foreach (Mapping mapping in removed)
        {
            if (mapping.Writable)
                marker.Mark(mapping.Ram, mapping.Iova.Count);
        }

        Volatile.Write(ref _harvests, _harvests + 1);
    }

    /// <inheritdoc/>
    public DirtyTrackingReport Explain(DirtyTrackingMode mode) => new()
    {
        Device = device,
        Mode = mode,
        Source = DirtySourceKind.Pessimistic,
        Active = Volatile.Read(ref _started),
        UncoveredPages = (ulong)Volatile.Read(ref _pages),
        Harvests = Volatile.Read(ref _harvests),
        Syncs = Volatile.Read(ref _syncs),
        TimeInSyncs = Stopwatch.GetElapsedTime(0, Volatile.Read(ref _ticks)),
    };

    private void ThrowIfLost()
    {
        if (shadow.IsLost)
            throw new DeviceLostException($"{device}: the device has gone, and what it wrote last cannot be known");
    }
}
