using Godwit.Memory;

namespace Godwit.Vfio.Tests;

/// <summary>
/// A small machine: two RAM blocks with a hole between them (so that a GPA is no RAM offset), something that is no RAM, a read-only window,
/// and slots for devices, each behind a domain of its own.
/// </summary>
internal sealed class ModelBoard : IDisposable
{
    /// <summary>Pages in each of the two blocks: 2 MiB.</summary>
    public const ulong BlockPages = 512;

    /// <summary>GPA page of the first block.</summary>
    public const ulong LowGpa = 16;

    /// <summary>GPA page of something that is no RAM.</summary>
    public const ulong MmioGpa = 0x800;

    /// <summary>GPA page of a read-only window onto the first 16 pages of the second block.</summary>
    public const ulong RomGpa = 0x900;

    /// <summary>Pages that the vIOMMU can translate, unless a test has more: 64 MiB.</summary>
    public const ulong AperturePages = 1 << 14;

    /// <summary>Page of the interrupt window, one page long, by IOVA and by GPA.</summary>
    public const ulong InterruptWindow = 0xFEE;

    /// <summary>GPA page of the second block: above the aperture, where only a device in pass-through gets.</summary>
    public const ulong HighGpa = AperturePages + 0x100;

    public ModelBoard(IommuAttributes? attributes = null, IMmioHandler? interrupts = null, int slots = 1, ulong aperturePages = AperturePages)
    {
        interrupts ??= new Nothing();
        Topology = new MemoryTopology();
        Ram = new GuestRam();
        Low = Ram.Add("low", BlockPages << 12);
        High = Ram.Add("high", BlockPages << 12);
        using (Topology.Begin())
        {
            Topology.Add(Topology.SystemRoot, At(LowGpa), new RamRegion("low", Low));
            Topology.Add(Topology.SystemRoot, At(HighGpa), new RamRegion("high", High));
            Topology.Add(Topology.SystemRoot, At(MmioGpa), new MmioRegion("bar", 0x10000, new Nothing()));
            Topology.Add(Topology.SystemRoot, At(RomGpa), new AliasRegion("rom", new RamRegion("rom ram", High, readOnly: true), 0, 16 << 12));
            Topology.Add(Topology.SystemRoot, At(InterruptWindow), new MmioRegion("interrupts by gpa", 0x1000, interrupts));
            Slots = [.. Enumerable.Range(0, slots).Select(_ =>
                new ModelSlot(Topology, new ModelIommu(aperturePages, attributes ?? new IommuAttributes(true, new Iova((aperturePages << 12) - 1))), interrupts))];
        }
    }

    public MemoryTopology Topology { get; }

    public GuestRam Ram { get; }

    public RamBlock Low { get; }

    public RamBlock High { get; }

    /// <summary>Places for devices.</summary>
    public IReadOnlyList<ModelSlot> Slots { get; }

    /// <summary>Of the first slot.</summary>
    public ModelIommu Iommu => Slots[0].Iommu;

    /// <summary>Of the first slot.</summary>
    public AddressSpace DeviceSpace => Slots[0].Space;

    /// <summary>Of the first slot.</summary>
    public bool IsPassThrough => Slots[0].IsPassThrough;

    /// <summary>Pages of RAM.</summary>
    public static ulong RamPages => 2 * BlockPages;

    /// <summary>The GPA page of a RAM page, the long way round.</summary>
    public static ulong GpaOf(RamPage page) => page.Index < BlockPages ? LowGpa + page.Index : HighGpa + (page.Index - BlockPages);

    /// <summary>The RAM page behind a writable GPA page.</summary>
    public static bool TryRamOf(ulong gpaPage, out RamPage ram)
    {
        if (gpaPage - LowGpa < BlockPages)
            ram = new RamPage(gpaPage - LowGpa);
        else if (gpaPage - HighGpa < BlockPages)
            ram = new RamPage(BlockPages + (gpaPage - HighGpa));
        else
            ram = default;
        return gpaPage - LowGpa < BlockPages || gpaPage - HighGpa < BlockPages;
    }

    /// <summary>The guest moves the device of the first slot between a translated and a pass-through domain.</summary>
    public void SetPassThrough(bool passThrough) => Slots[0].SetPassThrough(passThrough);

    public void Dispose() => Ram.Dispose();

    internal static BusAddress At(ulong page) => new(page << 12);

    private sealed class Nothing : IMmioHandler
    {
        public ulong Read(ulong offset, int size, in TransactionAttributes attributes) => 0;

        public void Write(ulong offset, ulong value, int size, in TransactionAttributes attributes)
        {
        }
    }
}
