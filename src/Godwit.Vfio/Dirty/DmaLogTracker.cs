using System.Collections.Immutable;
using System.Numerics;
using Godwit.Memory;
using Godwit.Migration;

namespace Godwit.Vfio;

/// <summary>
/// Brings what a device wrote by its own DMA to the migration bitmap, by the device's log. The invariant of dirty-tracking.md is kept here:
/// <list type="bullet">
/// <item>Log bits are IOVAs; they are attributed with what is installed in the host (<see cref="DmaShadow.Installed"/>), and nothing else.</item>
/// <item>A range that is unmapped is brought in when the host has let go of it and before the guest is told (rule 5), so at any later time
/// every bit in the device belongs to an installed mapping, or to pages that are marked already.</item>
/// <item>After any error of the log, everything mapped and writable counts as dirty, from the moment when the log runs again (rule 10).</item>
/// </list>
/// </summary>
/// <remarks>
/// <see cref="Start"/>, <see cref="Sync"/> and <see cref="Stop"/> come on the migration's thread, <see cref="Unmapped"/> on whichever thread
/// unmaps; the shadow's gate is held for one report at a time, so a vCPU waits for one round trip to the device at most.
/// </remarks>
internal class DmaLogTracker : IDirtyTracker, IUnmapObserver
{
    /// <summary>
    /// Batches of unmaps up to this many writable pages are marked dirty without asking the device. A driver unmaps a buffer after the device
    /// has written it, so asking would cost a round trip on the vCPU's way only to hear so; being wrong costs sending at most 2 MiB again.
    /// </summary>
    internal const ulong DefaultHarvestThreshold = 512;

    /// <summary>Longest bitmap of one report: 4 GiB of IOVA by 4 KiB. Bounds how long a vCPU may wait for the gate.</summary>
    internal const int ReportBytes = 128 * 1024;

    /// <summary>Widest gap of windows inside one report: 2 KiB of bitmap, cheaper than any round trip.</summary>
    internal const ulong DefaultBridge = 256;

    /// <summary>Coarsest page that a device may answer START with: 1 GiB, the largest page of any IOMMU.</summary>
    internal const ulong LargestGranule = 1UL << 30;

    private readonly string _device;
    private readonly IDmaLog _log;
    private readonly DmaShadow _shadow;
    private readonly DirtyMarker _marker;
    private readonly Func<IReadOnlyList<CoveragePlan>> _plans;
    private readonly NoticeBoard _notices;
    private readonly LogBitmap _bitmap;
    private readonly MappingTable _harvest = new();
    private CoveragePlan _plan = CoveragePlan.Nothing;
    private ImmutableArray<IovaPages> _covered = []; // of the plan, what can be reported
    private SyncSteps _steps;
    private ulong _pageSize;
    private bool _started, _armed, _rearmed, _stopFailed;
    private DeviceRefusedException? _broken;
    private long _reports, _pagesReported, _harvests;

    /// <summary>Creates it, idle.</summary>
    /// <param name="device">Id.</param>
    /// <param name="log">The device's log.</param>
    /// <param name="shadow">The device's mappings.</param>
    /// <param name="marker">Where found pages go.</param>
    /// <param name="plans">Plans of coverage to try, best first; asked at each start.</param>
    /// <param name="notices">Told what an operator should know.</param>
    public DmaLogTracker(string device, IDmaLog log, DmaShadow shadow, DirtyMarker marker, Func<IReadOnlyList<CoveragePlan>> plans, NoticeBoard notices)
    {
        _device = device;
        _log = log;
        _shadow = shadow;
        _marker = marker;
        _plans = plans;
        _notices = notices;
        _bitmap = new LogBitmap(Math.Clamp(log.MaxReportBytes & ~7, 64, ReportBytes));
    }

    /// <inheritdoc/>
    public string Id => _device;

    /// <summary>Reports asked of the device.</summary>
    public long Reports => Volatile.Read(ref _reports);

    /// <summary>Dirty 4 KiB pages in them.</summary>
    public long PagesReported => Volatile.Read(ref _pagesReported);

    /// <summary>Times that unmapped ranges were brought in.</summary>
    public long Harvests => Volatile.Read(ref _harvests);

    /// <summary>What the log covers; nothing while it is not armed.</summary>
    internal CoveragePlan Plan => _plan;

    /// <summary>Tracking pages in an aligned window: a word of the bitmap, because devices clear whole words.</summary>
    protected virtual ulong WindowGranules => 64;

    /// <summary>Widest gap inside one report, in windows.</summary>
    protected virtual ulong BridgeWindows => DefaultBridge;

    /// <summary>Writable pages in a batch of unmaps from which the device is asked.</summary>
    protected virtual ulong HarvestThreshold => DefaultHarvestThreshold;

    /// <summary>
    /// Tries the plans on the device with a real start and stop, so that a refusal is known before a migration (rule 12). Returns what was
    /// accepted, or null with the last refusal.
    /// </summary>
    public CoveragePlan? Probe(out DeviceRefusedException? refusal)
    {
        refusal = null;
        lock (_shadow.Gate)
        {
            foreach (CoveragePlan plan in _plans())
            {
                try
                {
                    _log.StartDmaLogging(RamPage.Size, plan.Ranges.AsSpan());
                    _log.StopDmaLogging();
                    return plan;
                }
                catch (DeviceRefusedException e)
                {
                    refusal = e;
                }
            }
        }

        return null;
    }

    /// <inheritdoc/>
    public void Start()
    {
        lock (_shadow.Gate)
        {
            ThrowIfLost();
            if (_started)
                throw new InvalidOperationException($"{_device}: dirty tracking has been started already");
            if (_stopFailed)
                StopLog(); // an old log that could not be stopped would make the device refuse the new one
            (_plan, _covered, _steps) = (CoveragePlan.Nothing, [], default);
            DeviceRefusedException? refusal = null;
            IReadOnlyList<CoveragePlan> plans = _plans();
            foreach (CoveragePlan plan in plans)
            {
                try
                {
                    Arm(plan);
                    break;
                }
                catch (DeviceRefusedException e)
                {
                    refusal = e;
                }
            }

            if (!_armed)
            {
                // Behind a translating vIOMMU what is mapped may be little, so counting all of it as dirty can work (rule 3). By GPA it is all of RAM.
                if (refusal is null || !plans.Any(p => p.Translated))
                    throw new DirtyLogLostException($"{_device}: the device cannot log its DMA over {(plans.Count > 0 ? plans[0].Description : "an aperture without end")}", refusal);
                _notices.Post($"{_device}: the device refused to log its DMA ({refusal.Errno}); everything mapped for writing counts as dirty");
            }

            _broken = null;
            _rearmed = false;
            _started = true;
        }
    }

    /// <inheritdoc/>
    public DirtySyncReport Sync(bool final)
    {
        long reports = _reports, marked = _marker.Marked;
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

        return new DirtySyncReport((int)(_reports - reports), _marker.Marked - marked, _shadow.LiveCount);
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
            if (_armed || _stopFailed)
                StopLog();
            _armed = false;
            (_plan, _covered, _steps) = (CoveragePlan.Nothing, [], default);
        }
    }

    /// <inheritdoc/>
    public virtual void Unmapped(ReadOnlySpan<Mapping> removed)
    {
        if (!_started)
            return;
        ulong pages = 0;
        foreach (Mapping mapping in removed)
            pages += mapping.Writable ? mapping.Iova.Count : 0;
        if (pages == 0)
            return;
        Volatile.Write(ref _harvests, _harvests + 1);
        bool ask = _armed && _broken is null && pages > HarvestThreshold;
        foreach (Mapping mapping in removed)
        {
            // The same IOVA unmapped twice in one batch cannot be told apart by the log: the later one is marked.
            if (mapping.Writable && !(ask && IsCovered(mapping.Iova) && _harvest.TryInsert(mapping)))
                _marker.Mark(mapping.Ram, mapping.Iova.Count);
        }

        if (ask)
            Harvest();
    }

    /// <summary>Attributes the report over <paramref name="window"/> to what is installed, and to <paramref name="unmapped"/> if that was harvested.</summary>
    private protected virtual void Attribute(IovaPages window, MappingTable? unmapped)
    {
        // Bits that belong to no mapping are left over from ranges that were marked when they were unmapped.
        _bitmap.Attribute(_shadow.Installed, _marker);
        if (unmapped is not null)
            _bitmap.Attribute(unmapped, _marker);
    }

    /// <summary>
    /// Counts everything mapped for writing as dirty. After the new start, because what was written between the last report and the start is
    /// unknown.
    /// </summary>
    protected virtual void MarkAfterLoss() => MarkWritable(_shadow.Installed);

    /// <summary>The last report, for variants that attribute it otherwise.</summary>
    private protected LogBitmap Bitmap => _bitmap;

    private bool Step(ref ulong next)
    {
        SyncStep step = _steps.Next(_shadow.Installed, ref next);
        switch (step.Kind)
        {
            case SyncStepKind.Report:
                try
                {
                    Report(step.Range, unmapped: null);
                }
                catch (DeviceRefusedException e)
                {
                    _broken = e; // the next turn of the loop repairs
                }

                return true;
            case SyncStepKind.Uncovered:
                _marker.Mark(step.Ram, step.Range.Count);
                return true;
            default:
                return false;
        }
    }

    private void Harvest()
    {
        try
        {
            ulong next = 0;
            while (_steps.Next(_harvest, ref next) is { Kind: SyncStepKind.Report } step)
                Report(step.Range, _harvest);
        }
        catch (DeviceRefusedException e)
        {
            // The next sync repairs or fails the migration. What was to be harvested is known here only.
            _broken = e;
            MarkWritable(_harvest);
        }
        finally
        {
            _harvest.Clear();
        }
    }

    private void Report(IovaPages window, MappingTable? unmapped)
    {
        ulong granule = _pageSize >> IovaPages.Shift;
        Volatile.Write(ref _reports, _reports + 1);
        _log.ReportDmaLog(window, _pageSize, _bitmap.Prepare(window, granule));
        ulong pages = _bitmap.CountPages();
        if (pages == 0)
            return;
        Volatile.Write(ref _pagesReported, _pagesReported + (long)pages);
        Attribute(window, unmapped);
    }

    private void Arm(CoveragePlan plan)
    {
        ulong pageSize = _log.StartDmaLogging(RamPage.Size, plan.Ranges.AsSpan());
        if (!BitOperations.IsPow2(pageSize) || pageSize > LargestGranule)
        {
            StopLog();
            throw new DirtyLogLostException($"{_device}: the device logs by pages of {pageSize} bytes; powers of two up to {LargestGranule} are possible");
        }

        // The log may be finer than ours; it is asked by our pages then. If coarser, a bit stands for all of our pages in it (rule 7).
        _pageSize = Math.Max(pageSize, RamPage.Size);
        ulong granule = _pageSize >> IovaPages.Shift;
        ulong window = granule * WindowGranules;
        ulong budget = Math.Max(_bitmap.Capacity * granule / window * window, window);
        // A coarse page at the very top of the space could only be reported by a range that ends at 2^64 (rule 9): it counts as uncovered.
        ulong top = IovaPages.SpacePages - granule;
        _covered = plan.Ranges.Any(r => r.End > top)
            ? [.. plan.Ranges.Where(r => r.First < top).Select(r => IovaPages.Between(r.First, Math.Min(r.End, top)))]
            : plan.Ranges;
        _steps = new SyncSteps(_covered.AsMemory(), window, granule, budget, BridgeWindows * window);
        _plan = plan;
        _armed = true;
    }

    /// <summary>The log is lost: start it anew, once a migration, and count everything mapped for writing as dirty from then on.</summary>
    private void Repair(DeviceRefusedException cause, bool final)
    {
        string lost = $"{_device}: the device lost its log of DMA ({cause.Operation}: {cause.Errno})";
        if (final)
        {
            // The device stands still, so nothing can be written after this.
            MarkAfterLoss();
            _broken = null;
            _notices.Post($"{lost} at the switchover; everything mapped for writing is sent again");
            return;
        }

        if (_rearmed)
            throw new DirtyLogLostException($"{lost} for the second time", cause);
        _rearmed = true;
        _armed = false;
        StopLog();
        try
        {
            Arm(_plan);
        }
        catch (DeviceRefusedException e)
        {
            throw new DirtyLogLostException($"{lost} and refused to start it again ({e.Errno})", cause);
        }

        MarkAfterLoss();
        _broken = null;
        _notices.Post($"{lost}; it was started again and everything mapped for writing is sent again");
    }

    private void StopLog()
    {
        try
        {
            _log.StopDmaLogging();
            _stopFailed = false;
        }
        catch (IOException e) when (e is DeviceRefusedException or DeviceLostException)
        {
            _stopFailed = e is DeviceRefusedException;
            _notices.Post($"{_device}: the device's log of DMA could not be stopped: {e.Message}");
        }
    }

    private void MarkWritable(MappingTable table)
    {
        MappingTable.Cursor cursor = table.Seek(0);
        while (cursor.MoveNext())
        {
            if (cursor.Current.Writable)
                _marker.Mark(cursor.Current.Ram, cursor.Current.Iova.Count);
        }
    }

    private bool IsCovered(IovaPages range)
    {
        foreach (IovaPages covered in _covered)
        {
            if (covered.First <= range.First && range.End <= covered.End)
                return true;
        }

        return false;
    }

    private void ThrowIfLost()
    {
        if (_shadow.IsLost)
            throw new DeviceLostException($"{_device}: the device has gone, and what it wrote last cannot be known");
    }
}
