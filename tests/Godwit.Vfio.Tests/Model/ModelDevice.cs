using Godwit.Interop.Linux;
using Godwit.Memory;

namespace Godwit.Vfio.Tests;

/// <summary>How a <see cref="ModelDevice"/> is limited and what goes wrong in it.</summary>
internal sealed record ModelDeviceTraits
{
    /// <summary>Page size of the log, whatever is asked for.</summary>
    public ulong LogPageSize { get; init; } = 4096;

    /// <summary>Reading a bit of the log clears the whole 64-bit word that it is in, seen from IOVA 0.</summary>
    public bool ClearsWholeWords { get; init; }

    /// <summary>Longest range that START takes, in pages.</summary>
    public ulong LongestRange { get; init; } = ulong.MaxValue;

    /// <summary>Most ranges of one START.</summary>
    public int MaxRanges { get; init; } = 256;

    /// <summary>Pages of all ranges together, least and most (mlx5: pg_track_log_min_addr_space and _max_).</summary>
    public ulong MinSpan { get; init; }

    /// <summary>See <see cref="MinSpan"/>.</summary>
    public ulong MaxSpan { get; init; } = ulong.MaxValue;

    /// <summary>All ranges become one region with the gaps between them (pds), which are logged too.</summary>
    public bool OneRegion { get; init; }

    /// <summary>Most mappings.</summary>
    public int MaxMappings { get; init; } = 65535;

    /// <summary>Answers of one report, in bytes.</summary>
    public int MaxReportBytes { get; init; } = 1 << 20;

    /// <summary>Chance, in percent, that a report fails and the log is lost.</summary>
    public int ReportFailsPercent { get; init; }

    /// <summary>Once a report has failed, all fail until a new START.</summary>
    public bool FailureSticks { get; init; }
}

/// <summary>
/// A device with mappings and a log of its own, as strict as hardware: it reaches memory only through what is mapped at that moment, logs by
/// IOVA in tracking pages, forgets what has been read. Nothing of the room under test is used in it. Thread-safe.
/// </summary>
internal sealed class ModelDevice(ModelDeviceTraits traits, Random random) : IDmaMapper, IDmaLog
{
    private readonly Lock _gate = new();
    private readonly SortedList<ulong, (ulong Pages, RamPage Ram, bool Writable)> _mappings = [];
    private readonly List<(bool Map, IovaPages Iova, RamPage Ram, bool Writable)> _queue = [];
    private readonly HashSet<ulong> _log = []; // tracking pages
    private IovaPages[]? _armed;
    private bool _broken;

    /// <summary>Called where a device may do DMA of its own: between queued operations, in the middle of a report.</summary>
    public Action? Meanwhile { get; set; }

    /// <summary>Called for each page that a DMA wrote, with its RAM page, at the moment of the write.</summary>
    public Action<RamPage>? Wrote { get; set; }

    /// <summary>Decides whether a map is refused, and how.</summary>
    public Func<IovaPages, Errno>? RefuseMap { get; set; }

    /// <summary>Decides whether an unmap is refused, and how.</summary>
    public Func<IovaPages, Errno>? RefuseUnmap { get; set; }

    /// <summary>Everything asked of the device, one line each; only while not null.</summary>
    public List<string>? Calls { get; set; }

    /// <summary>Reports asked.</summary>
    public int Reports { get; private set; }

    /// <summary>Bits asked for in reports.</summary>
    public ulong BitsAsked { get; private set; }

    public int MaxMappings => traits.MaxMappings;

    public int MaxReportBytes => traits.MaxReportBytes;

    /// <summary>Gone: every call fails.</summary>
    public bool Gone { get; set; }

    public int MappingCount
    {
        get
        {
            lock (_gate)
                return _mappings.Count;
        }
    }

    /// <summary>What is mapped, ascending.</summary>
    public IReadOnlyList<Mapping> Mappings
    {
        get
        {
            lock (_gate)
                return [.. _mappings.Select(m => new Mapping(new IovaPages(m.Key, m.Value.Pages), m.Value.Ram, m.Value.Writable))];
        }
    }

    /// <summary>Pages marked in the log and not read yet.</summary>
    public int LoggedPages
    {
        get
        {
            lock (_gate)
                return _log.Count;
        }
    }

    /// <summary>The device writes into the page at an IOVA; false when it faults.</summary>
    public bool Dma(ulong iovaPage)
    {
        lock (_gate)
        {
            if (!TryTranslate(iovaPage, out RamPage ram, out bool writable) || !writable)
                return false;
            Wrote?.Invoke(ram);
            if (_armed is not null && _armed.Any(r => r.First <= iovaPage && iovaPage < r.End))
                _log.Add(iovaPage / TrackingPages);
            return true;
        }
    }

    /// <summary>Any page that it may write now, by IOVA; null when there is none.</summary>
    public ulong? AnyWritable(Random choice)
    {
        lock (_gate)
        {
            if (_mappings.Count == 0)
                return null;
            int at = choice.Next(_mappings.Count);
            (ulong pages, _, bool writable) = _mappings.GetValueAtIndex(at);
            return writable ? _mappings.GetKeyAtIndex(at) + (ulong)choice.NextInt64((long)pages) : null;
        }
    }

    public void QueueMap(IovaPages iova, RamBlock block, ulong offset, bool writable)
    {
        Note($"map {iova} {(writable ? "rw" : "r")}");
        _queue.Add((true, iova, block.FirstPage + (offset >> RamPage.Shift), writable));
    }

    public void QueueUnmap(IovaPages iova)
    {
        Note($"unmap {iova}");
        _queue.Add((false, iova, default, false));
    }

    public void Flush(List<DmaFailure> failures)
    {
        ThrowIfGone();
        for (int i = 0; i < _queue.Count; i++)
        {
            Meanwhile?.Invoke();
            lock (_gate)
            {
                Errno errno = _queue[i].Map ? Map(_queue[i]) : Unmap(_queue[i].Iova);
                if (errno != Errno.None)
                    failures.Add(new DmaFailure(i, errno));
            }
        }

        Note("flush");
        _queue.Clear();
        Meanwhile?.Invoke();
    }

    public bool SupportsDmaLogging() => true;

    public ulong StartDmaLogging(ulong pageSize, ReadOnlySpan<IovaPages> ranges)
    {
        ThrowIfGone();
        lock (_gate)
        {
            Note($"start {string.Join(' ', ranges.ToArray())}");
            if (_armed is not null)
                throw new DeviceRefusedException("DMA_LOGGING_START", Errno.EINVAL);
            ulong end = 0;
            foreach (IovaPages range in ranges)
            {
                if (range.Count == 0 || range.First < end || range.Count > traits.LongestRange)
                    throw new DeviceRefusedException("DMA_LOGGING_START", range.Count > traits.LongestRange ? Errno.ENOTSUP : Errno.EINVAL);
                if (range.End >= IovaPages.SpacePages)
                    throw new DeviceRefusedException("DMA_LOGGING_START", Errno.EOVERFLOW);
                end = range.End;
            }

            if (ranges.Length > traits.MaxRanges)
                throw new DeviceRefusedException("DMA_LOGGING_START", Errno.E2BIG);
            ulong span = 0;
            foreach (IovaPages range in ranges)
                span += range.Count;
            if (traits.OneRegion)
                span = ranges[^1].End - ranges[0].First;
            if (span < traits.MinSpan || span > traits.MaxSpan)
                throw new DeviceRefusedException("DMA_LOGGING_START", Errno.ENOTSUP);
            _armed = traits.OneRegion ? [IovaPages.Between(ranges[0].First, ranges[^1].End)] : ranges.ToArray();
            _log.Clear();
            _broken = false;
            return traits.LogPageSize;
        }
    }

    public void StopDmaLogging()
    {
        ThrowIfGone();
        lock (_gate)
        {
            Note("stop");
            if (_armed is null)
                throw new DeviceRefusedException("DMA_LOGGING_STOP", Errno.EINVAL);
            _armed = null;
            _log.Clear();
        }
    }

    public void ReportDmaLog(IovaPages range, ulong pageSize, Span<ulong> bitmap)
    {
        ThrowIfGone();
        lock (_gate)
        {
            Note($"report {range}");
            Reports++;
            BitsAsked += range.Count / (pageSize >> RamPage.Shift);
            Assert.Equal(Math.Max(traits.LogPageSize, 4096), pageSize);
            Assert.Equal(0UL, range.First % TrackingPages);
            Assert.Equal(0UL, range.Count % TrackingPages);
            Assert.True((ulong)bitmap.Length * 64 >= range.Count / TrackingPages);
            if (_armed is null)
                throw new DeviceRefusedException("DMA_LOGGING_REPORT", Errno.EINVAL);
            if (_broken || random.Next(100) < traits.ReportFailsPercent)
            {
                _broken = traits.FailureSticks;
                _log.Clear(); // what was in it is gone
                throw new DeviceRefusedException("DMA_LOGGING_REPORT", Errno.EIO);
            }

            ulong first = range.First / TrackingPages, end = range.End / TrackingPages;
            foreach (ulong page in _log.Where(p => p >= first && p < end))
                bitmap[(int)((page - first) / 64)] |= 1UL << (int)((page - first) % 64);
            if (traits.ClearsWholeWords)
                (first, end) = (first / 64 * 64, (end + 63) / 64 * 64);
            _log.RemoveWhere(p => p >= first && p < end);
        }

        Meanwhile?.Invoke();
    }

    private ulong TrackingPages => Math.Max(traits.LogPageSize, 4096) >> RamPage.Shift;

    private Errno Map((bool Map, IovaPages Iova, RamPage Ram, bool Writable) operation)
    {
        if (RefuseMap?.Invoke(operation.Iova) is { } errno and not Errno.None)
            return errno;
        Assert.True(_mappings.Count < traits.MaxMappings, "mapped beyond the limit");
        int next = FirstAbove(operation.Iova.First);
        if ((next > 0 && _mappings.GetKeyAtIndex(next - 1) + _mappings.GetValueAtIndex(next - 1).Pages > operation.Iova.First)
            || (next < _mappings.Count && _mappings.GetKeyAtIndex(next) < operation.Iova.End))
        {
            Assert.True(RefuseUnmap is not null, $"{operation.Iova} is mapped over another mapping");
            return Errno.EEXIST;
        }

        _mappings.Add(operation.Iova.First, (operation.Iova.Count, operation.Ram, operation.Writable));
        return Errno.None;
    }

    private Errno Unmap(IovaPages iova)
    {
        if (RefuseUnmap?.Invoke(iova) is { } errno and not Errno.None)
            return errno;
        if (!_mappings.TryGetValue(iova.First, out var mapping) || mapping.Pages != iova.Count)
            return Errno.ENOENT;
        _mappings.Remove(iova.First);
        return Errno.None;
    }

    private int FirstAbove(ulong page)
    {
        int low = 0, high = _mappings.Count;
        while (low < high)
        {
            int middle = (low + high) / 2;
            if (_mappings.GetKeyAtIndex(middle) <= page)
                low = middle + 1;
            else
                high = middle;
        }

        return low;
    }

    private bool TryTranslate(ulong page, out RamPage ram, out bool writable)
    {
        int low = FirstAbove(page);
        (ram, writable) = (default, false);
        if (low == 0)
            return false;
        (ulong pages, RamPage first, writable) = _mappings.GetValueAtIndex(low - 1);
        ulong offset = page - _mappings.GetKeyAtIndex(low - 1);
        ram = first + offset;
        return offset < pages;
    }

    private void Note(string call) => Calls?.Add(call);

    private void ThrowIfGone()
    {
        if (Gone)
            throw new DeviceLostException("the model device has gone");
    }
}
