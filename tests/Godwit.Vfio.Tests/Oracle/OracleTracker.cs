using System.Collections.Concurrent;
using System.Numerics;
using Godwit.Memory;

namespace Godwit.Vfio.Tests;

/// <summary>Faults that can be put into the tracker, each a mistake that somebody has made (dirty-tracking, "Proof").</summary>
public enum Mutation
{
    /// <summary>None: the tracker as it is.</summary>
    None,

    /// <summary>What was written through a mapping that is unmapped is forgotten.</summary>
    DropUnmapHarvest,

    /// <summary>Log bits are attributed with the guest's tables as they are at the sync, instead of with what is installed.</summary>
    WalkGuestTables,

    /// <summary>Reports are not aligned, on a device that clears whole words.</summary>
    ClearNeighbours,

    /// <summary>The number of a GPA's page is taken for the number of a RAM page.</summary>
    GpaAsRamOffset,

    /// <summary>After the log was lost it is started again, and what was written meanwhile is forgotten.</summary>
    ForgetAfterLoss,

    /// <summary>The log is started anew for other ranges, and what was written meanwhile is forgotten (rule 4's last step).</summary>
    ForgetAfterRearm,

    /// <summary>What is unmapped and waits for a report is not credited with the bits of it.</summary>
    HarvestCreditsInstalledOnly,

    /// <summary>A report credits what waited when the sync began, and not what was unmapped since.</summary>
    ForgetUnmappedDuringSync,

    /// <summary>What waits for a report is forgotten when the log is started anew.</summary>
    ForgetWaitingAtRearm,

    /// <summary>An IOVA that is used again shows only its new page: what waits there is forgotten instead of credited too.</summary>
    ReuseForgetsTheOldPage,

    /// <summary>What lies outside coverage is counted once, and not at every sync.</summary>
    UncoveredOnce,

    /// <summary>What is unmapped outside coverage is forgotten.</summary>
    ForgetUncoveredUnmap,

    /// <summary>What a sync's reports found is handed over when the next sync begins.</summary>
    HandOverAtTheNextSync,

    /// <summary>Of mappings that are looked at one after the other because most of them were written, the last one's bit is forgotten.</summary>
    ForgetTheLastInARow,
}

/// <summary>The tracker under test with one fault, or none.</summary>
internal sealed class OracleTracker : DmaLogTracker
{
    private readonly ModelSlot _slot;
    private readonly ModelDevice _device;
    private readonly DmaShadow _shadow;
    private readonly DirtyMarker _marker;
    private readonly Mutation _mutation;
    private readonly int _limit;
    private int _syncs;

    public OracleTracker(string id, ModelSlot slot, ModelDevice device, DmaShadow shadow, DirtyLog log, NoticeBoard notices, Func<IReadOnlyList<CoveragePlan>> plans, Mutation mutation, int limit)
        : this(id, slot, device, shadow, mutation == Mutation.GpaAsRamOffset ? new GpaMarker(log) : new DirtyMarker(log), notices, plans, mutation, limit)
    {
    }

    private OracleTracker(string id, ModelSlot slot, ModelDevice device, DmaShadow shadow, DirtyMarker marker, NoticeBoard notices, Func<IReadOnlyList<CoveragePlan>> plans, Mutation mutation, int limit)
        : base(id, device, shadow, marker, plans, notices, new OracleBitmap(device, mutation))
    {
        _slot = slot;
        _device = device;
        _shadow = shadow;
        _marker = marker;
        _mutation = mutation;
        _limit = limit;
    }

    /// <summary>
    /// What devices like this one were found to accept before; null asks every one. A probe is some fifty refusals, which cost more than the rest of a
    /// life.
    /// </summary>
    public ConcurrentDictionary<(ModelDeviceTraits Device, int EndBits), DeviceLogLimits>? KnownLimits { get; init; }

    /// <summary>Of the device, as far as a probe finds them out.</summary>
    public ModelDeviceTraits Traits { get; init; } = new();

    protected override int HarvestLimit => _limit;

    protected override ulong WindowGranules => _mutation == Mutation.ClearNeighbours ? 1UL : base.WindowGranules;

    protected override ulong BridgeWindows => _mutation == Mutation.ClearNeighbours ? 0 : base.BridgeWindows;

    public override void Unmapped(ReadOnlySpan<Mapping> removed)
    {
        switch (_mutation)
        {
            case Mutation.DropUnmapHarvest:
                return;
            case Mutation.ForgetUncoveredUnmap:
                foreach (Mapping mapping in removed)
                {
                    if (Plan.Ranges.Any(r => r.Overlaps(mapping.Iova)))
                        base.Unmapped([mapping]);
                }

                return;
            default:
                base.Unmapped(removed);
                return;
        }
    }

    protected override void BeginHarvest()
    {
        base.BeginHarvest();
        if (_mutation == Mutation.HandOverAtTheNextSync)
            base.HandOver();
        _syncs++;
    }

    private protected override void HandOver()
    {
        if (_mutation != Mutation.HandOverAtTheNextSync)
            base.HandOver();
    }

    private protected override bool TryWait(in Mapping mapping)
    {
        if (_mutation == Mutation.ReuseForgetsTheOldPage && Waiting.Layers[0].TryTakeFirst(mapping.Iova, out _))
            return TryWait(mapping);
        return base.TryWait(mapping);
    }

    protected override void MarkAfterLoss()
    {
        if (_mutation != Mutation.ForgetAfterLoss)
            base.MarkAfterLoss();
    }

    protected override void MarkAfterRearm()
    {
        if (_mutation == Mutation.ForgetWaitingAtRearm)
            Waiting.Clear();
        if (_mutation != Mutation.ForgetAfterRearm)
            base.MarkAfterRearm();
    }

    private protected override void MarkUncovered(in SyncStep step)
    {
        if (_mutation != Mutation.UncoveredOnce || _syncs <= 1)
            base.MarkUncovered(step);
    }

    private protected override void Attribute(ulong from, ulong end)
    {
        switch (_mutation)
        {
            case Mutation.WalkGuestTables:
                Bitmap.Attribute(GuestTables(), _marker, from, end);
                AttributeUnmapped(from, end);
                break;
            case Mutation.ForgetUnmappedDuringSync:
                Bitmap.Attribute(_shadow.Installed, _marker, from, end);
                foreach (MappingTable layer in Asked.Layers)
                    Bitmap.Attribute(layer, _marker, from, end);
                break;
            case Mutation.HarvestCreditsInstalledOnly:
                Bitmap.Attribute(_shadow.Installed, _marker, from, end);
                break;
            default:
                base.Attribute(from, end);
                break;
        }
    }

    private protected override DeviceLogLimits ProbeLimits(IReadOnlyList<CoveragePlan> plans, DeviceRefusedException? refusal)
    {
        if (KnownLimits is not null)
            return KnownLimits.GetOrAdd((Traits, BitOperations.Log2(EndOf(plans))), key => new LogProbe(new ModelDevice(key.Device, new Random(0))).Run(1UL << key.EndBits, null));
        // A life goes on the same way whether the device was asked or not.
        Action? restarting = _device.Restarting;
        _device.Restarting = null;
        DeviceLogLimits limits = base.ProbeLimits(plans, refusal);
        _device.Restarting = restarting;
        return limits;
    }

    private MappingTable GuestTables()
    {
        if (_slot.IsPassThrough)
            return _shadow.Installed;
        var table = new MappingTable();
        GuestTables tables = _slot.Iommu.Tables;
        for (ulong page = tables.Next(0, ModelBoard.AperturePages); page < ModelBoard.AperturePages; page = tables.Next(page + 1, ModelBoard.AperturePages))
        {
            if (ModelBoard.TryRamOf(tables[page].GpaPage, out RamPage ram) && (tables[page].Rights & AccessRights.Write) != 0)
                table.TryInsert(new Mapping(new IovaPages(page, 1), ram, true));
        }

        return table;
    }

    /// <summary>Goes through mappings in a row after few set bits already: what is mapped here is small.</summary>
    private sealed class OracleBitmap(ModelDevice device, Mutation mutation) : LogBitmap(BitmapBytes(device), inRow: 3)
    {
        private protected override int PassInRow(ref MappingTable.Cursor cursor, ulong end, Span<RamPage> pages, out int found)
        {
            int seen = base.PassInRow(ref cursor, end, pages, out found);
            if (mutation == Mutation.ForgetTheLastInARow && found > 0)
                found--;
            return seen;
        }
    }

    private sealed class GpaMarker(DirtyLog log) : DirtyMarker(log)
    {
        public override void Mark(RamPage first, ulong count)
        {
            for (ulong i = 0; i < count; i++)
            {
                ulong page = ModelBoard.GpaOf(first + i);
                if (page < ModelBoard.RamPages)
                    base.Mark(new RamPage(page), 1);
            }
        }

        public override void Mark(ReadOnlySpan<RamPage> pages, bool many)
        {
            foreach (RamPage page in pages)
                Mark(page, 1);
        }

        public override void Mark(RamPage first, ReadOnlySpan<ulong> bits, ulong count)
        {
            for (ulong i = 0; i < count; i++)
            {
                if ((bits[(int)(i / 64)] >> (int)(i % 64) & 1) != 0)
                    Mark(first + i, 1);
            }
        }
    }
}
