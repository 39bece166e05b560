using System.Numerics;
using Godwit.Memory;

namespace Godwit.Vfio;

/// <content>What the log is started for: finding out what the device accepts, starting, and starting anew to follow what the guest maps.</content>
internal partial class DmaLogTracker
{
    /// <summary>
    /// Tries the plans on the device with a real start and stop, so that a refusal is known before a migration (rule 12). Returns what was
    /// accepted, or null with the last refusal.
    /// </summary>
    public CoveragePlan? Probe(out DeviceRefusedException? refusal)
    {
        refusal = null;
        lock (_shadow.Gate)
        {
            IReadOnlyList<CoveragePlan> plans = _plans();
            foreach (CoveragePlan plan in plans)
            {
                try
                {
                    ulong pageBytes = _log.StartDmaLogging(RamPage.Size, plan.Ranges.AsSpan());
                    _log.StopDmaLogging();
                    _limits = new DeviceLogLimits { PageBytes = pageBytes, TakesWholeAperture = true };
                    return plan;
                }
                catch (DeviceRefusedException e)
                {
                    refusal = e;
                }
            }

            if (CanPlanByUse(plans))
                _limits = ProbeLimits(plans, refusal);
        }

        return null;
    }

    /// <summary>What the log accepts; null before <see cref="Probe"/> or <see cref="Start"/>, and when all or nothing was asked of it.</summary>
    public DeviceLogLimits? Limits => _limits;

    /// <summary>Behind a translating vIOMMU what is mapped may be little. By GPA it is all of RAM, and there is nothing to choose.</summary>
    private static bool CanPlanByUse(IReadOnlyList<CoveragePlan> plans) => plans.Count == 0 || plans.Any(p => p.Translated);

    private protected static ulong EndOf(IReadOnlyList<CoveragePlan> plans) =>
        plans.Count == 0 ? IovaPages.SpacePages - 1 : plans.Max(p => p.Ranges.Max(r => r.End));

    /// <summary>Finds out what the log accepts that has refused everything.</summary>
    private protected virtual DeviceLogLimits ProbeLimits(IReadOnlyList<CoveragePlan> plans, DeviceRefusedException? refusal)
    {
        try
        {
            return new LogProbe(_log).Run(EndOf(plans), refusal?.Errno.ToString());
        }
        catch (DeviceRefusedException e)
        {
            // Its STOP: nothing can be planned with a log that cannot be stopped.
            _stopFailed = true;
            return new DeviceLogLimits { TakesAnything = false, Refusal = e.Message };
        }
    }

    /// <summary>
    /// Arms what fits around what is mapped, with fewer ranges if the device does not take as many: one that joins ranges counts the gaps as well
    /// (mlx5). False when it takes nothing; everything counts as uncovered then.
    /// </summary>
    private bool TryArmByUse(CoveragePlan? plan, Headroom headroom)
    {
        int ranges = _limits!.MaxRanges;
        while (plan is not null)
        {
            try
            {
                Arm(plan);
                return true;
            }
            catch (DeviceRefusedException)
            {
                ranges = Math.Min(ranges, plan.Ranges.Length) / 2;
                plan = ranges == 0 ? null : CoveragePlanner.ByUse(_shadow.Installed, _endPage, _limits with { MaxRanges = ranges }, headroom);
            }
        }

        return false;
    }

    /// <summary>
    /// Coverage follows what the guest maps (rule 4). Bits of what is still mapped or waits need not be read before the stop, because all of it is
    /// marked after the start. Planned without the gate, by two walks over the table: the sync has just counted what is uncovered.
    /// </summary>
    private void FollowUse()
    {
        long epoch = _shadow.Installed.Epoch;
        if (epoch == _plannedEpoch)
            return;
        _plannedEpoch = epoch;
        Headroom headroom = _history.Want(_rearms + 1);
        CoveragePlan? plan = CoveragePlanner.ByUse(_shadow.Installed, _endPage, _limits!, headroom);
        if (plan is null)
            return;
        (ulong mapped, ulong uncovered) = CoveragePlanner.Count(_shadow.Installed, plan.Ranges);
        ulong before = (ulong)_uncoveredNow;
        if (before <= uncovered || (before - uncovered) * UncoveredWeight < mapped)
            return;
        lock (_shadow.Gate)
        {
            ThrowIfLost();
            if (_broken is not null || !_armed)
                return;
            Volatile.Write(ref _rearms, _rearms + 1);
            _armed = false;
            StopLog();
            if (!TryArmByUse(plan, headroom))
            {
                (_plan, _covered, _steps) = (CoveragePlan.Nothing, [], default);
                _notices.Post($"{_device}: the device did not start its log of DMA again; everything mapped for writing counts as dirty");
            }

            MarkAfterRearm();
        }
    }

    /// <summary>What was written between the stop and the start is unknown.</summary>
    protected virtual void MarkAfterRearm() => MarkEverything();

    private void Arm(CoveragePlan plan)
    {
        ulong pageSize = StartLog(plan);
        // A device may count the words that it clears from the start of its region (pds, drivers/vfio/pci/pds/dirty.c): only when that is on a border of
        // words by IOVA as well does no report touch a word of its neighbour.
        if (plan.AlignedTo(WordGranules * (Math.Max(pageSize, RamPage.Size) >> IovaPages.Shift)) is { } aligned)
        {
            StopLog();
            plan = aligned;
            pageSize = StartLog(plan);
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

    private ulong StartLog(CoveragePlan plan)
    {
        ulong pageSize = _log.StartDmaLogging(RamPage.Size, plan.Ranges.AsSpan());
        if (BitOperations.IsPow2(pageSize) && pageSize <= LargestGranule)
            return pageSize;
        StopLog();
        throw new DirtyLogLostException($"{_device}: the device logs by pages of {pageSize} bytes; powers of two up to {LargestGranule} are possible");
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
}
