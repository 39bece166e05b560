using Godwit.Machine.Guests.Drivers.Spec;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Drivers;

/// <summary>
/// A domain's second-stage page table (VT-d 3.7, 9.8): 3 levels for 39 bits, 4 for 48, 5 for 57, leaves of 4 KiB. Table pages come from a pool and
/// stay. Changes reach the unit when the caller has invalidated.
/// </summary>
internal struct SecondStageTable
{
    private const int IndexBits = 9;
    private const ulong IndexMask = (1 << IndexBits) - 1;

    public Gpa Root;
    public uint Levels;

    /// <summary>Pages handed out for tables of all domains; a pool of <see cref="PoolCount"/> pages from <see cref="PoolBase"/>.</summary>
    public Gpa PoolBase;
    public uint PoolCount;
    public uint PoolUsed;

    public static SecondStageTable Create(GuestBus bus, int addressBits, Gpa poolBase, uint poolCount)
    {
        var table = new SecondStageTable { Levels = ((uint)addressBits - RamPage.Shift) / IndexBits, PoolBase = poolBase, PoolCount = poolCount };
        table.Root = table.NewPage(bus);
        return table;
    }

    /// <summary>Points <paramref name="iova"/> at a page of RAM, whatever it pointed at before.</summary>
    public void Map(GuestBus bus, Iova iova, Gpa page, ulong rights) =>
        bus.StoreRelease64(LeafEntry(bus, iova), page.Value | rights);

    /// <summary>Clears the entry; panics when there is none, because the caller has lost count then.</summary>
    public void Unmap(GuestBus bus, Iova iova)
    {
        Gpa entry = LeafEntry(bus, iova);
        if ((bus.Load<ulong>(entry) & (VtdRegisters.EntryRead | VtdRegisters.EntryWrite)) == 0)
            throw new GuestPanicException($"{iova} is unmapped twice");
        bus.StoreRelease64(entry, 0);
    }

    private Gpa LeafEntry(GuestBus bus, Iova iova)
    {
        Gpa table = Root;
        if (Levels is < 3 or > 5 || iova.Value >> (RamPage.Shift + ((int)Levels * IndexBits)) != 0)
            throw new GuestPanicException($"{iova} is outside a table of {Levels} levels");
        for (int level = (int)Levels - 1; level > 0; level--)
        {
            Gpa entry = Entry(table, iova, level);
            ulong value = bus.Load<ulong>(entry);
            if ((value & (VtdRegisters.EntryRead | VtdRegisters.EntryWrite)) == 0)
            {
                value = NewPage(bus).Value | VtdRegisters.EntryRead | VtdRegisters.EntryWrite;
                bus.StoreRelease64(entry, value);
            }

            table = new Gpa(value & VtdRegisters.EntryAddress);
        }

        return Entry(table, iova, 0);
    }

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
