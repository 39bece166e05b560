using System.Collections.Immutable;
using System.Diagnostics;
using Godwit.Migration;

namespace Godwit.Vfio;

/// <summary>
/// Brings what a device wrote by its own DMA to the migration bitmap, by the device's log. The invariant of dirty-tracking.md is kept here:
/// <list type="bullet">
/// <item>Log bits are IOVAs; they are attributed with what is installed in the host (<see cref="DmaShadow.Installed"/>), and nothing else.</item>
/// <item>A range that is unmapped waits, from when the host has let go of it and before the guest is told, for the reports of the next sync
/// (rule 5), or is marked at once when it cannot wait. So at any time every bit in the device belongs to an installed mapping, to one that waits,
/// or to pages that are marked already. What a sync has read is in its hands (<see cref="GatheredMarks"/>) until it ends.</item>
/// <item>A set bit counts for every mapping that was at its IOVA at any time since the report before: what is installed when the bit is
/// looked at, and what waits (rule 6).</item>
/// <item>After any error of the log, everything mapped and writable counts as dirty, from the moment when the log runs again (rule 10).</item>
/// </list>
/// </summary>
/// <remarks>
/// <see cref="Start"/>, <see cref="Sync"/> and <see cref="Stop"/> come on the migration's thread, <see cref="Unmapped"/> on whichever thread
/// unmaps. Reports are made without the shadow's gate: a vCPU that maps or unmaps waits for no round trip to the device but those of a new
/// start of the log. The gate is taken to attribute the bits that a report brought, some at a time.
/// </remarks>
internal partial class DmaLogTracker : IDeviceDirtySource
{
    /// <summary>Longest bitmap of one report: 4 GiB of IOVA by 4 KiB.</summary>
    internal const int ReportBytes = 128 * 1024;

    /// <summary>Widest gap of windows inside one report: 2 KiB of bitmap, cheaper than any round trip.</summary>
    internal const ulong DefaultBridge = 256;

    /// <summary>Tracking pages in a word of the bitmap; devices clear whole words.</summary>
    internal const ulong WordGranules = 64;

    /// <summary>Coarsest page that a device may answer START with: 1 GiB, the largest page of any IOMMU.</summary>
    internal const ulong LargestGranule = 1UL << 30;

    /// <summary>Starts anew of the log in one migration, to follow what the guest maps: each costs sending what is mapped once more.</summary>
    internal const int MaxRearms = 4;

    /// <summary>Pages whose bits are attributed while the gate is held: some milliseconds at the worst.</summary>
    internal const ulong AttributedAtOnce = 1 << 16;

    /// <summary>Syncs to come that an uncovered page is expected to be sent in, the last one, which costs downtime, counting for most.</summary>
    internal const ulong UncoveredWeight = 16;

    private readonly string _device;
    private readonly IDmaLog _log;
    private readonly DmaShadow _shadow;
    private readonly DirtyMarker _marker;
    private readonly Func<IReadOnlyList<CoveragePlan>> _plans;
    private readonly NoticeBoard _notices;
    private readonly LogBitmap _bitmap;
    private readonly AllocationHistory _history = new();
    private HarvestQueue _waiting = new(), _asked = new(); // unmapped since the sync began, and before; under the gate
    private GatheredMarks _found; // by the reports of a sync
    private MappingWalk _walk, _nextWalk; // over what is installed and asked for, and the same for when the queues have changed places
    private long _plannedEpoch = -1; // of the table when a new start was found not to pay
    private CoveragePlan _plan = CoveragePlan.Nothing;
    private ImmutableArray<IovaPages> _covered = []; // of the plan, what can be reported
    private SyncSteps _steps;
    private ulong _pageSize, _endPage;
    private bool _started, _armed, _rearmed, _stopFailed;
    private DeviceRefusedException? _broken;
    private long _reports, _bits, _pagesReported, _harvests, _syncs, _ticks, _uncovered, _uncoveredNow;
    private int _rearms;
    private DeviceLogLimits? _limits;

    /// <summary>Creates it, idle.</summary>
    /// <param name="device">Id.</param>
    /// <param name="log">The device's log.</param>
    /// <param name="shadow">The device's mappings.</param>
    /// <param name="marker">Where found pages go.</param>
    /// <param name="plans">Plans of coverage to try, best first; asked at each start.</param>
    /// <param name="notices">Told what an operator should know.</param>
    /// <param name="bitmap">Takes the answers of reports; null for one of the length that <see cref="BitmapBytes"/> says.</param>
    public DmaLogTracker(string device, IDmaLog log, DmaShadow shadow, DirtyMarker marker, Func<IReadOnlyList<CoveragePlan>> plans, NoticeBoard notices, LogBitmap? bitmap = null)
    {
        _device = device;
        _log = log;
        _shadow = shadow;
        _marker = marker;
        _plans = plans;
        _notices = notices;
        _bitmap = bitmap ?? new LogBitmap(BitmapBytes(log));
        _found = new GatheredMarks(marker, 0);
        _walk = new MappingWalk([shadow.Installed, .. _asked.Layers]);
        _nextWalk = new MappingWalk([shadow.Installed, .. _waiting.Layers]);
    }

    /// <inheritdoc/>
    public string Id => _device;

    /// <summary>Reports asked of the device.</summary>
    public long Reports => Volatile.Read(ref _reports);

    /// <summary>Dirty 4 KiB pages in them.</summary>
    public long PagesReported => Volatile.Read(ref _pagesReported);

    /// <summary>Times that unmapped ranges were brought in.</summary>
    public long Harvests => Volatile.Read(ref _harvests);

    /// <inheritdoc/>
    public DirtyTrackingReport Explain(DirtyTrackingMode mode)
    {
        CoveragePlan plan = _plan;
        return new DirtyTrackingReport
        {
            Device = _device,
            Mode = mode,
            Source = DirtySourceKind.DeviceLog,
            Active = Volatile.Read(ref _started),
            Coverage = plan.Description,
            ByUse = plan.ByUse,
            CoveredRanges = plan.Ranges.Length,
            CoveredBytes = plan.Ranges.Aggregate(0UL, (sum, range) => sum + range.Bytes),
            Limits = _limits,
            UncoveredPages = (ulong)Volatile.Read(ref _uncovered),
            Rearms = Volatile.Read(ref _rearms),
            Reports = Reports,
            BitsAsked = Volatile.Read(ref _bits),
            PagesReported = PagesReported,
            HarvestsPending = _waiting.Count,
            Harvests = Harvests,
            Syncs = Volatile.Read(ref _syncs),
            TimeInSyncs = Stopwatch.GetElapsedTime(0, Volatile.Read(ref _ticks)),
        };
    }

    /// <summary>What the log covers; nothing while it is not armed.</summary>
    internal CoveragePlan Plan => _plan;

    /// <summary>Bytes of the longest report that is asked of a log.</summary>
    internal static int BitmapBytes(IDmaLog log) => Math.Clamp(log.MaxReportBytes & ~7, 64, ReportBytes);

    /// <summary>Tracking pages in an aligned window.</summary>
    protected virtual ulong WindowGranules => WordGranules;

    /// <summary>Widest gap inside one report, in windows.</summary>
    protected virtual ulong BridgeWindows => DefaultBridge;

    /// <summary>Unmapped mappings that may wait for a report.</summary>
    protected virtual int HarvestLimit => HarvestQueue.DefaultLimit;

    /// <inheritdoc/>
    public void Start()
    {
        // The one thing that needs memory comes before the device is asked for anything, and before vCPUs could have to wait for it.
        var found = new GatheredMarks(_marker, _marker.PageCount);
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
                if (!CanPlanByUse(plans))
                    throw new DirtyLogLostException($"{_device}: the device cannot log its DMA over {(plans.Count > 0 ? plans[0].Description : "an aperture without end")}", refusal);
                if (_limits is null or { TakesWholeAperture: true })
                    _limits = ProbeLimits(plans, refusal);
                _endPage = EndOf(plans);
                Headroom headroom = _history.Want(0);
                if (!TryArmByUse(CoveragePlanner.ByUse(_shadow.Installed, _endPage, _limits, headroom), headroom))
                    _notices.Post($"{_device}: the device {_limits}; everything mapped for writing counts as dirty");
            }

            _found = found;
            _broken = null;
            _rearmed = false;
            _rearms = 0;
            _plannedEpoch = -1;
            _started = true;
        }
    }

    /// <inheritdoc/>
    public DirtySyncReport Sync(bool final)
    {
        long reports = _reports, marked = _marker.Marked, began = Stopwatch.GetTimestamp();
        long unharvested;
        _uncoveredNow = 0;
        lock (_shadow.Gate)
        {
            ThrowIfLost();
            if (!_started)
                throw new InvalidOperationException($"{_device}: dirty tracking has not been started");
            BeginHarvest();
        }

        try
        {
            for (ulong next = 0; _broken is null && Step(ref next);)
                continue;
        }
        finally
        {
            HandOver(); // what was read from the log is nowhere else any more
        }

        lock (_shadow.Gate)
        {
            ThrowIfLost();
            if (_broken is { } cause)
            {
                Repair(cause, final);
                _uncoveredNow = 0; // all that is mapped has just been marked
            }

            _asked.Clear();
            unharvested = (long)_waiting.Pages;
        }

        Volatile.Write(ref _uncovered, _uncoveredNow);
        if (!final && _uncoveredNow > 0 && _plan.ByUse && _rearms < MaxRearms)
            FollowUse();
        Volatile.Write(ref _syncs, _syncs + 1);
        Volatile.Write(ref _ticks, _ticks + (Stopwatch.GetTimestamp() - began));
        return new DirtySyncReport((int)(_reports - reports), _marker.Marked - marked, _shadow.LiveCount)
        {
            UncoveredPages = _uncoveredNow,
            UnharvestedPages = unharvested,
        };
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
            _waiting.Clear();
            _asked.Clear();
            _found = new GatheredMarks(_marker, 0);
            (_plan, _covered, _steps) = (CoveragePlan.Nothing, [], default);
        }
    }

    /// <inheritdoc/>
    public virtual void Unmapped(ReadOnlySpan<Mapping> removed)
    {
        if (!_started)
            return;
        bool logged = _armed && _broken is null, any = false;
        foreach (Mapping mapping in removed)
        {
            if (!mapping.Writable)
                continue;
            any = true;
            if (!(logged && IsCovered(mapping.Iova) && TryWait(mapping)))
                _marker.Mark(mapping.Ram, mapping.Iova.Count);
        }

        if (any)
            Volatile.Write(ref _harvests, _harvests + 1);
    }

    /// <summary>Lets an unmapped mapping wait for a report; false when it cannot.</summary>
    private protected virtual bool TryWait(in Mapping mapping) => _waiting.TryAdd(mapping, HarvestLimit);

    /// <summary>What waits is asked for by this sync, and what is unmapped from here on by the next one.</summary>
    protected virtual void BeginHarvest()
    {
        (_asked, _waiting) = (_waiting, _asked);
        (_walk, _nextWalk) = (_nextWalk, _walk);
    }

    /// <summary>Attributes a part of the last report to everything that was mapped there since the one before. Under the gate.</summary>
    private protected virtual void Attribute(ulong from, ulong end)
    {
        _bitmap.Attribute(_shadow.Installed, _found, from, end);
        AttributeUnmapped(from, end);
    }

    /// <summary>Brings what the reports found to the machine's bitmap.</summary>
    private protected virtual void HandOver() => _found.HandOver();

    /// <summary>The part of <see cref="Attribute"/> for what was unmapped since.</summary>
    private protected void AttributeUnmapped(ulong from, ulong end)
    {
        foreach (MappingTable layer in _asked.Layers)
            _bitmap.Attribute(layer, _found, from, end);
        // Bits of what was unmapped during this sync may have been in this report, and will not come again.
        foreach (MappingTable layer in _waiting.Layers)
            _bitmap.Attribute(layer, _found, from, end);
    }

    /// <summary>
    /// Counts everything mapped for writing as dirty. After the new start, because what was written between the last report and the start is
    /// unknown.
    /// </summary>
    protected virtual void MarkAfterLoss() => MarkEverything();

    /// <summary>What was unmapped since the sync began.</summary>
    private protected HarvestQueue Waiting => _waiting;

    /// <summary>What was unmapped before it.</summary>
    private protected HarvestQueue Asked => _asked;

    /// <summary>The last report, for variants that attribute it otherwise.</summary>
    private protected LogBitmap Bitmap => _bitmap;

    private bool Step(ref ulong next)
    {
        SyncStep step = _steps.Next(ref _walk, ref next);
        switch (step.Kind)
        {
            case SyncStepKind.Report:
                try
                {
                    Report(step.Range);
                }
                catch (DeviceRefusedException e)
                {
                    lock (_shadow.Gate)
                        _broken = e; // ends the sync, which repairs
                }

                return true;
            case SyncStepKind.Uncovered:
                MarkUncovered(step);
                _uncoveredNow += (long)step.Range.Count;
                if (_plan.ByUse)
                    _history.Missed(step.Range, _covered.AsSpan());
                return true;
            default:
                return false;
        }
    }

    /// <summary>Counts what lies outside coverage as dirty, once more at every sync (rule 3).</summary>
    private protected virtual void MarkUncovered(in SyncStep step) => _marker.Mark(step.Ram, step.Range.Count);

    private void Report(IovaPages window)
    {
        ulong granule = _pageSize >> IovaPages.Shift;
        Volatile.Write(ref _reports, _reports + 1);
        Volatile.Write(ref _bits, _bits + (long)(window.Count / granule));
        _log.ReportDmaLog(window, _pageSize, _bitmap.Prepare(window, granule));
        ulong pages = _bitmap.CountPages();
        if (pages == 0)
            return;
        Volatile.Write(ref _pagesReported, _pagesReported + (long)pages);
        for (ulong from = window.First; (from = _bitmap.NextSet(from, window.End)) < window.End; from += AttributedAtOnce)
        {
            if (granule == 1) // whole words need no shifting; a word of a coarse log may be more than is attributed at once
                from -= (from - window.First) % WordGranules;
            lock (_shadow.Gate)
                Attribute(from, Math.Min(from + AttributedAtOnce, window.End));
        }
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

    private void MarkEverything()
    {
        MarkWritable(_shadow.Installed);
        foreach (MappingTable layer in _asked.Layers)
            MarkWritable(layer);
        foreach (MappingTable layer in _waiting.Layers)
            MarkWritable(layer);
        _asked.Clear();
        _waiting.Clear();
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
