using Godwit.Memory;

namespace Godwit.Vfio.Bench;

/// <summary>A device with mappings, tracked: the real shadow, table and tracker over a <see cref="BenchDevice"/>.</summary>
internal sealed class Scene : IDisposable
{
    /// <summary>64 GiB, of which nothing is touched; what is mapped beyond is mapped several times.</summary>
    private const ulong RamPages = 1UL << 24;

    private readonly ulong[] _iovas;
    private readonly int _apertureBits;

    public Scene(Layout layout, int count, int apertureBits, ulong[] iovas)
    {
        (Layout, _iovas, _apertureBits) = (layout, iovas, apertureBits);
        Ram = new GuestRam();
        var topology = new MemoryTopology();
        RamBlock block = Ram.Add("ram", RamPages << 12);
        using (topology.Begin())
            topology.Add(topology.SystemRoot, default, new RamRegion("ram", block));
        Shadow = new DmaShadow("bench", Device, _ => throw new InvalidOperationException(), Ram, new GpaResolver(topology.System), new NoticeBoard());
        Marker = new DirtyMarker(Ram.Dirty);
        ulong pages = Layouts.PagesOf(layout);
        // Any order of RAM, so that no two mappings continue each other but large ones.
        for (int i = 0; i < count; i++)
            Shadow.GuestMapped(new Iova(iovas[i] << 12), pages << 12, new Gpa(RamOf(i).Index << 12), AccessRights.ReadWrite);
        Shadow.Commit();
        Tracker = new DmaLogTracker("bench", Device, Shadow, Marker, () => [new CoveragePlan([new IovaPages(0, AperturePages)], false, true, "all")], new NoticeBoard());
        Shadow.UnmapObserver = Tracker;
        Ram.Dirty.Start();
        Tracker.Start();
    }

    public Layout Layout { get; }

    public GuestRam Ram { get; }

    public BenchDevice Device { get; } = new();

    public DmaShadow Shadow { get; }

    public DirtyMarker Marker { get; }

    public DmaLogTracker Tracker { get; }

    public ulong AperturePages => 1UL << (_apertureBits - 12);

    public int Count => _iovas.Length;

    /// <summary>First IOVA page of a mapping.</summary>
    public ulong IovaOf(int i) => _iovas[i];

    /// <summary>First RAM page of a mapping.</summary>
    public RamPage RamOf(int i)
    {
        ulong pages = Layouts.PagesOf(Layout);
        ulong slots = RamPages / pages;
        return new RamPage((Layout == Layout.Large ? (ulong)i % slots : (ulong)i * 0x9E37_79B1 % slots) * pages);
    }

    /// <summary>Pages that the device writes: a share of everything that is mapped, in a million, ascending.</summary>
    public ulong[] Dirty(int perMillion, Random random)
    {
        ulong each = Layouts.PagesOf(Layout);
        var result = new List<ulong>();
        for (int i = 0; i < _iovas.Length; i++)
        {
            for (ulong page = 0; page < each; page++)
            {
                if (perMillion == 1_000_000 || random.Next(1_000_000) < perMillion)
                    result.Add(_iovas[i] + page);
            }
        }

        return [.. result];
    }

    public void Dispose()
    {
        Tracker.Stop();
        Ram.Dispose();
    }
}
