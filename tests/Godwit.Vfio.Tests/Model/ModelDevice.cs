using Godwit.Interop.Linux;
using Godwit.Memory;

namespace Godwit.Vfio.Tests;

/// <summary>
/// A device with mappings and a log of its own, as strict as hardware: it reaches memory only through what is mapped at that moment, logs by
/// IOVA in tracking pages, forgets what has been read. Nothing of the room under test is used in it. Thread-safe.
/// </summary>
internal sealed class ModelDevice(ModelDeviceTraits traits, Random random) : IDmaMapper, IDmaLog
{
    private readonly Lock _gate = new();
    private readonly SortedList<ulong, (ulong Pages, RamPage Ram, bool Writable)> _mappings = [];
    private readonly List<(bool Map, IovaPages Iova, RamPage Ram, bool Writable)> _queue = [];
    private readonly ModelLog _log = new(traits, random);

    /// <summary>
    /// Called where a device may do DMA of its own: between queued operations, after a report was made and before it is looked at.
    /// </summary>
    public Action? Meanwhile { get; set; }

    /// <summary>Called between a report and its answer, when guests may map and unmap as well.</summary>
    public Action? Reported { get; set; }

    /// <summary>Called while the log is stopped and not yet started.</summary>
    public Action? Restarting { get; set; }

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
                return _log.Marked;
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
            _log.Write(iovaPage);
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
        if (Calls is not null)
            Note($"map {iova} {(writable ? "rw" : "r")}");
        _queue.Add((true, iova, block.FirstPage + (offset >> RamPage.Shift), writable));
    }

    public void QueueUnmap(IovaPages iova)
    {
        if (Calls is not null)
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
        if (Calls is not null)
            Note($"start {string.Join(' ', ranges.ToArray())}");
        lock (_gate)
            _log.Start(ranges);
        return traits.LogPageSize;
    }

    public void StopDmaLogging()
    {
        ThrowIfGone();
        if (Calls is not null)
            Note("stop");
        lock (_gate)
            _log.Stop();
        Restarting?.Invoke();
    }

    public void ReportDmaLog(IovaPages range, ulong pageSize, Span<ulong> bitmap)
    {
        ThrowIfGone();
        if (Calls is not null)
            Note($"report {range}");
        Assert.Equal(_log.Granule << IovaPages.Shift, pageSize);
        if (range.First % _log.Granule != 0 || range.Count % _log.Granule != 0 || (ulong)bitmap.Length * 64 < range.Count / _log.Granule)
            Assert.Fail($"{range} is asked of a log of {pageSize}-byte pages with {bitmap.Length} words");
        lock (_gate)
        {
            Reports++;
            BitsAsked += range.Count / _log.Granule;
            _log.Report(range, bitmap);
        }

        Meanwhile?.Invoke();
        Reported?.Invoke();
    }

    private Errno Map((bool Map, IovaPages Iova, RamPage Ram, bool Writable) operation)
    {
        if (RefuseMap?.Invoke(operation.Iova) is { } errno and not Errno.None)
            return errno;
        if (_mappings.Count >= traits.MaxMappings)
            Assert.Fail("mapped beyond the limit");
        int next = FirstAbove(operation.Iova.First);
        if ((next > 0 && _mappings.GetKeyAtIndex(next - 1) + _mappings.GetValueAtIndex(next - 1).Pages > operation.Iova.First)
            || (next < _mappings.Count && _mappings.GetKeyAtIndex(next) < operation.Iova.End))
        {
            if (RefuseUnmap is null)
                Assert.Fail($"{operation.Iova} is mapped over another mapping");
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
