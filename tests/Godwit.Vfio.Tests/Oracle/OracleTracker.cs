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

    /// <summary>A harvest credits only what was unmapped, and drops the bits of neighbours that are still mapped.</summary>
    HarvestDropsNeighbours,
}

/// <summary>The tracker under test with one fault, or none.</summary>
internal sealed class OracleTracker : DmaLogTracker
{
    private readonly Rig _rig;
    private readonly DmaShadow _shadow;
    private readonly DirtyMarker _marker;
    private readonly Mutation _mutation;
    private readonly ulong _threshold;

    public OracleTracker(Rig rig, DmaShadow shadow, NoticeBoard notices, Func<IReadOnlyList<CoveragePlan>> plans, Mutation mutation, ulong threshold)
        : this(rig, shadow, Marker(rig, mutation), notices, plans, mutation, threshold)
    {
    }

    private OracleTracker(Rig rig, DmaShadow shadow, DirtyMarker marker, NoticeBoard notices, Func<IReadOnlyList<CoveragePlan>> plans, Mutation mutation, ulong threshold)
        : base("dev0", rig.Device, shadow, marker, plans, notices)
    {
        _rig = rig;
        _shadow = shadow;
        _marker = marker;
        _mutation = mutation;
        _threshold = threshold;
    }

    protected override ulong HarvestThreshold => _threshold;

    protected override ulong WindowGranules => _mutation == Mutation.ClearNeighbours ? 1UL : base.WindowGranules;

    protected override ulong BridgeWindows => _mutation == Mutation.ClearNeighbours ? 0 : base.BridgeWindows;

    public override void Unmapped(ReadOnlySpan<Mapping> removed)
    {
        if (_mutation != Mutation.DropUnmapHarvest)
            base.Unmapped(removed);
    }

    protected override void MarkAfterLoss()
    {
        if (_mutation != Mutation.ForgetAfterLoss)
            base.MarkAfterLoss();
    }

    protected override void MarkAfterRearm()
    {
        if (_mutation != Mutation.ForgetAfterRearm)
            base.MarkAfterRearm();
    }

    private protected override void Attribute(IovaPages window, MappingTable? unmapped)
    {
        if (_mutation == Mutation.WalkGuestTables)
            Bitmap.Attribute(GuestTables(), _marker);
        else if (_mutation != Mutation.HarvestDropsNeighbours || unmapped is null)
            Bitmap.Attribute(_shadow.Installed, _marker);
        if (unmapped is not null)
            Bitmap.Attribute(unmapped, _marker);
    }

    private MappingTable GuestTables()
    {
        if (_rig.Board.IsPassThrough)
            return _shadow.Installed;
        var table = new MappingTable();
        foreach ((ulong page, (ulong gpa, AccessRights rights)) in _rig.Board.Iommu.Tables)
        {
            if (ModelBoard.TryRamOf(gpa, out RamPage ram) && (rights & AccessRights.Write) != 0)
                table.TryInsert(new Mapping(new IovaPages(page, 1), ram, true));
        }

        return table;
    }

    private static DirtyMarker Marker(Rig rig, Mutation mutation) =>
        mutation == Mutation.GpaAsRamOffset ? new GpaMarker(rig.Board.Ram.Dirty) : new DirtyMarker(rig.Board.Ram.Dirty);

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
