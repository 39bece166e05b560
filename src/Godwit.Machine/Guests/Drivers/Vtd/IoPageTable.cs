using Godwit.Machine.Guests.Drivers.Spec;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Drivers;

/// <summary>
/// A domain's page table: second stage (VT-d 3.7, 9.8) with 3 levels for 39 bits, 4 for 48, 5 for 57, or first stage (3.6, 9.7) with 4 or 5;
/// leaves of 4 KiB. Table pages come from a pool and stay. Changes reach the unit when the caller has invalidated.
/// </summary>
internal struct IoPageTable
{
    private const int IndexBits = 9;
    private const ulong IndexMask = (1 << IndexBits) - 1;

    public Gpa Root;
    public uint Levels;
    public bool FirstStage;

    /// <summary>Pages handed out for tables of all domains; a pool of <see cref="PoolCount"/> pages from <see cref="PoolBase"/>.</summary>
    public Gpa PoolBase;
    public uint PoolCount;
    public uint PoolUsed;

    /// <summary>Width of the IOVAs that can be handed out: the upper half of a first stage's space is not for devices here, as it is not in a process (3.6, canonical addresses).</summary>
    public readonly int UsableBits => RamPage.Shift + ((int)Levels * IndexBits) - (FirstStage ? 1 : 0);

    public static IoPageTable Create(GuestBus bus, int addressBits, bool firstStage, Gpa poolBase, uint poolCount)
    {
        var table = new IoPageTable
        {
            Levels = ((uint)addressBits - RamPage.Shift) / IndexBits,
            FirstStage = firstStage,
            PoolBase = poolBase,
            PoolCount = poolCount,
        };
        table.Root = table.NewPage(bus);
        return table;
    }

    /// <summary>Points <paramref name="iova"/> at a page of RAM, whatever it pointed at before.</summary>
    public void Map(GuestBus bus, Iova iova, Gpa page, ulong rights) =>
        bus.StoreRelease64(LeafEntry(bus, iova), page.Value | Encode(rights));

    /// <summary>Clears the entry; panics when there is none, because the caller has lost count then.</summary>
    public void Unmap(GuestBus bus, Iova iova)
    {
        Gpa entry = LeafEntry(bus, iova);
        if (!IsPresent(bus.Load<ulong>(entry)))
            throw new GuestPanicException($"{iova} is unmapped twice");
        bus.StoreRelease64(entry, 0);
    }

    private Gpa LeafEntry(GuestBus bus, Iova iova)
    {
        Gpa table = Root;
        if (Levels is < 3 or > 5 || iova.Value >> UsableBits != 0)
            throw new GuestPanicException($"{iova} is outside a table of {Levels} levels");
        for (int level = (int)Levels - 1; level > 0; level--)
        {
            Gpa entry = Entry(table, iova, level);
            ulong value = bus.Load<ulong>(entry);
            if (!IsPresent(value))
            {
                value = NewPage(bus).Value | Encode(VtdRegisters.EntryRead | VtdRegisters.EntryWrite);
                bus.StoreRelease64(entry, value);
            }

            table = new Gpa(value & VtdRegisters.EntryAddress);
        }

        return Entry(table, iova, 0);
    }

    /// <summary>The first stage has no entries that can be written and not read: bit 0 is "present" there. Requests have user privilege.</summary>
    private readonly ulong Encode(ulong rights) => FirstStage
        ? VtdRegisters.Present | (rights & VtdRegisters.EntryWrite) | VtdRegisters.EntryUser
        : rights;

    private readonly bool IsPresent(ulong entry) =>
        (entry & (FirstStage ? VtdRegisters.Present : VtdRegisters.EntryRead | VtdRegisters.EntryWrite)) != 0;

    private static Gpa Entry(Gpa table, Iova iova, int level) =>
        table + (((iova.Value >> (RamPage.Shift + (level * IndexBits))) & IndexMask) * sizeof(ulong));

    private Gpa NewPage(GuestBus bus)
    {
        if (PoolUsed >= PoolCount)
            throw new GuestPanicException($"all {PoolCount} pages for IOMMU tables are used");
        Gpa page = PoolBase + ((ulong)PoolUsed++ << RamPage.Shift);
        bus.Fill(page, RamPage.Size, 0);
        return page;
    }
}
