using Godwit.Memory;

namespace Godwit.Vfio.Tests;

/// <summary>Makes the tracker under test, so that a test can put a faulty one in its place.</summary>
internal delegate DmaLogTracker TrackerFactory(Rig rig, DmaShadow shadow, NoticeBoard notices, Func<IReadOnlyList<CoveragePlan>> plans);

/// <summary>A board, a model device, and between them the shadow and the tracker under test.</summary>
internal sealed class Rig : IDisposable
{
    public Rig(int seed = 0, ModelDeviceTraits? traits = null, IommuAttributes? attributes = null, TrackerFactory? tracker = null, bool listen = true, ulong aperturePages = ModelBoard.AperturePages)
    {
        Board = new ModelBoard(attributes, aperturePages: aperturePages);
        Device = new ModelDevice(traits ?? new ModelDeviceTraits(), new Random(seed));
        var notices = new NoticeBoard();
        notices.Posted += text =>
        {
            lock (Notices)
                Notices.Add(text);
        };
        Shadow = new DmaShadow("dev0", Device, why => CutOffBecause = why, Board.Ram, new GpaResolver(Board.Topology.System), notices);
        Func<IReadOnlyList<CoveragePlan>> plans = () => CoveragePlan.Candidates(Board.Iommu.Attributes, Board.Topology.System.View);
        Tracker = tracker?.Invoke(this, Shadow, notices, plans)
            ?? new DmaLogTracker("dev0", Device, Shadow, new DirtyMarker(Board.Ram.Dirty), plans, notices);
        Shadow.UnmapObserver = Tracker;
        if (listen)
            Board.DeviceSpace.AddListener(Shadow);
    }

    public ModelBoard Board { get; }

    public ModelDevice Device { get; }

    public DmaShadow Shadow { get; }

    public DmaLogTracker Tracker { get; }

    public List<string> Notices { get; } = [];

    public string? CutOffBecause { get; private set; }

    /// <summary>What the table says, to compare with the device.</summary>
    public IReadOnlyList<Mapping> Installed
    {
        get
        {
            lock (Shadow.Gate)
            {
                List<Mapping> result = [];
                MappingTable.Cursor cursor = Shadow.Installed.Seek(0);
                while (cursor.MoveNext())
                    result.AddRange(cursor.Mappings());
                return result;
            }
        }
    }

    /// <summary>Maps pages one by one in one batch, as the guest.</summary>
    public void Map(ulong iovaPage, ulong gpaPage, ulong count = 1, AccessRights rights = AccessRights.ReadWrite) =>
        Board.Iommu.AnnounceMapped(new Iova(iovaPage << 12), count << 12, new Gpa(gpaPage << 12), rights);

    /// <summary>Removes a range, as the guest.</summary>
    public void Unmap(ulong iovaPage, ulong count = 1) => Board.Iommu.AnnounceUnmapped(new Iova(iovaPage << 12), count << 12);

    /// <summary>Starts recording and takes the bits that a start sets.</summary>
    public void StartTracking()
    {
        Board.Ram.Dirty.Start();
        Tracker.Start();
        Dirty();
    }

    /// <summary>The pages marked since they were last taken; takes them, unless they are to be kept.</summary>
    public List<ulong> Dirty(bool keep = false)
    {
        var words = new ulong[ModelBoard.RamPages / 64];
        Board.Ram.Dirty.Drain(default, words);
        if (keep)
            Board.Ram.Dirty.Restore(default, words);
        return [.. Enumerable.Range(0, words.Length * 64).Where(p => (words[p / 64] >> (p % 64) & 1) != 0).Select(p => (ulong)p)];
    }

    public void Dispose() => Board.Dispose();
}
