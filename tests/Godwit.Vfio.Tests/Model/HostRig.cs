using Godwit.Memory;

namespace Godwit.Vfio.Tests;

/// <summary>A board, a device behind a model of the host's IOMMU, and between them the shadow and the tracker under test.</summary>
internal sealed class HostRig : IDisposable
{
    public HostRig(ModelHostIommuTraits traits, int seed = 0, Func<HostRig, HostIommuTracker>? tracker = null)
    {
        Board = new ModelBoard();
        Host = new ModelHostIommu(traits, new Random(seed));
        NoticeBoard.Posted += Notices.Add;
        Shadow = new DmaShadow("dev0", Host, why => CutOffBecause = why, Board.Ram, new GpaResolver(Board.Topology.System), NoticeBoard);
        Tracker = tracker?.Invoke(this) ?? new HostIommuTracker("dev0", Host, Shadow, new DirtyMarker(Board.Ram.Dirty), NoticeBoard);
        Shadow.UnmapObserver = Tracker;
        Board.DeviceSpace.AddListener(Shadow);
    }

    public ModelBoard Board { get; }

    public ModelHostIommu Host { get; }

    public NoticeBoard NoticeBoard { get; } = new();

    public DmaShadow Shadow { get; }

    public HostIommuTracker Tracker { get; }

    public List<string> Notices { get; } = [];

    public string? CutOffBecause { get; private set; }

    public void Map(ulong iovaPage, ulong gpaPage, ulong count = 1, AccessRights rights = AccessRights.ReadWrite) =>
        Board.Iommu.AnnounceMapped(new Iova(iovaPage << 12), count << 12, new Gpa(gpaPage << 12), rights);

    public void Unmap(ulong iovaPage, ulong count = 1) => Board.Iommu.AnnounceUnmapped(new Iova(iovaPage << 12), count << 12);

    /// <summary>Starts recording and takes the bits that a start sets.</summary>
    public void StartTracking()
    {
        Board.Ram.Dirty.Start();
        Tracker.Start();
        Dirty();
        Host.Calls = [];
    }

    /// <summary>Takes the pages marked since the last call.</summary>
    public List<ulong> Dirty()
    {
        var words = new ulong[ModelBoard.RamPages / 64];
        Board.Ram.Dirty.Drain(default, words);
        return [.. Enumerable.Range(0, words.Length * 64).Where(p => (words[p / 64] >> (p % 64) & 1) != 0).Select(p => (ulong)p)];
    }

    /// <summary>What was asked since the last call.</summary>
    public List<string> Calls()
    {
        List<string> calls = [.. Host.Calls!];
        Host.Calls!.Clear();
        return calls;
    }

    public void Dispose() => Board.Dispose();
}
