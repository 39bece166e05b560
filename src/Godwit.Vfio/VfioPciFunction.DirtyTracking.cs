using System.Collections.Immutable;
using Godwit.Memory;
using Godwit.Migration;

namespace Godwit.Vfio;

/// <content>How the device's writes are followed, and what speaks against it.</content>
public sealed partial class VfioPciFunction
{
    private readonly DirtyLog _dirtyLog;
    private readonly bool _logsDma;
    private IDeviceDirtySource _source = null!; // chosen in the constructor, and again when it is attached
    private DirtySourceChoice _choice;
    private DeviceRefusedException? _loggingRefused;
    private CoveragePlan? _probed;
    private bool _pluggedDuringMigration;

    /// <summary>How the device's writes are followed, for status.</summary>
    public DirtyTrackingReport DirtyTracking => _source.Explain(_options.DirtyTracking);

    void IDirtyTracker.Start()
    {
        _source.Start();
        _pluggedDuringMigration = false;
    }

    DirtySyncReport IDirtyTracker.Sync(bool final) => _source.Sync(final);

    void IDirtyTracker.Stop() => _source.Stop();

    private ImmutableArray<CoveragePlan> Plans() => CoveragePlan.Candidates(IommuAttributes, _topology.System.View);

    private void ChooseSource(bool nested)
    {
        _choice = DirtySourceChoice.Of(Id, _options.DirtyTracking, _logsDma, _device.HostIommu?.Traits, nested, _leavesState);
        var marker = new DirtyMarker(_dirtyLog);
        _source = _choice.Kind switch
        {
            DirtySourceKind.DeviceLog => new DmaLogTracker(Id, _device, _shadow, marker, () => Plans(), _notices),
            DirtySourceKind.HostIommu => new HostIommuTracker(Id, _device.HostIommu!, _shadow, marker, _notices),
            DirtySourceKind.Pessimistic => new PessimisticTracker(Id, _shadow, marker),
            _ => new NoDirtySource(Id),
        };
        _shadow.UnmapObserver = _source;
    }

    /// <summary>Before anything is mapped: what is in front of it is known now.</summary>
    private void PrepareTracking()
    {
        _pluggedDuringMigration = _dirtyLog.Enabled;
        if (IommuAttributes is { IsNested: true })
            ChooseSource(nested: true);
        if (_source is not DmaLogTracker log)
            return;
        try
        {
            // A real start and stop, so that a refusal is known before a migration (dirty-tracking rule 12).
            _probed = log.Probe(out _loggingRefused);
        }
        catch (DeviceLostException)
        {
            // Lost says so, and is a blocker itself.
        }

        if (_probed is null && log.Limits is { TakesAnything: true } limits)
            _notices.Post($"{Id}: the device {limits}; during a migration its log follows what the guest maps, and what is outside is sent in every round");
    }

    private void AddTrackingBlockers(List<MigrationBlocker> blockers)
    {
        if (_choice.Missing is { } missing)
            blockers.Add(missing);
        if (!_attached)
            return;
        IommuAttributes? iommu = IommuAttributes;
        if (iommu?.NotMigratable is { } cause)
            blockers.Add(new IommuNotMigratableBlocker { Subject = Id, Cause = cause });
        if (_pluggedDuringMigration && _dirtyLog.Enabled)
            blockers.Add(new PluggedDuringMigrationBlocker { Subject = Id });
        switch (_source)
        {
            case DmaLogTracker log:
                AddLogBlockers(blockers, log, iommu);
                break;
            case HostIommuTracker:
                ulong most = HostIommuTracker.LargestMapping(_device.HostIommu!.Traits);
                ulong largest = CoveragePlan.RamRanges(_topology.System.View).Max(r => r.Count);
                if (largest > most)
                    blockers.Add(new HostIommuBitmapLimitBlocker { Subject = Id, Limit = most << IovaPages.Shift, Needed = largest << IovaPages.Shift });
                break;
        }
    }

    private void AddLogBlockers(List<MigrationBlocker> blockers, DmaLogTracker log, IommuAttributes? iommu)
    {
        ImmutableArray<CoveragePlan> plans = Plans();
        if (iommu is { IsNested: true })
            blockers.Add(new NestedTranslationBlocker { Subject = Id });
        else if (plans.IsEmpty && log.Limits is not { TakesAnything: true })
            blockers.Add(new IommuWithoutApertureBlocker { Subject = Id, Answer = log.Limits?.Refusal ?? "not asked" });
        else if (_probed is null && _loggingRefused is { } refused && plans.Any(p => !p.Translated))
            blockers.Add(new DirtyLoggingRefusedBlocker { Subject = Id, Coverage = plans[0].Description, Answer = refused.Errno.ToString() });
    }
}
