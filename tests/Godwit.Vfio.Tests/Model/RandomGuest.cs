using Godwit.Memory;

namespace Godwit.Vfio.Tests;

/// <summary>A guest that edits its tables, invalidates, and moves its device between domains, at random.</summary>
internal sealed class RandomGuest(ModelBoard board, Random random)
{
    /// <summary>IOVAs that it uses: some windows around the interrupt window, and few enough to be reused all the time.</summary>
    private const ulong FirstIova = 0xF20;
    private const ulong IovaCount = 0x240;

    /// <summary>A second cluster for large mappings.</summary>
    private const ulong LargeIova = 0x2000;

    /// <summary>One thing that a guest does.</summary>
    public void Step()
    {
        ModelIommu iommu = board.Iommu;
        ulong iova = FirstIova + (ulong)random.NextInt64((long)IovaCount);
        ulong count = (ulong)random.Next(1, random.Next(3) == 0 ? 60 : 5);
        switch (random.Next(20))
        {
            case < 7: // map, with or without telling
                ulong gpa = AnyGpa(count);
                AccessRights rights = random.Next(4) == 0 ? AccessRights.Read : AccessRights.ReadWrite;
                for (ulong i = 0; i < count; i++)
                {
                    if (iova + i != ModelBoard.InterruptWindow)
                        iommu.Tables[iova + i] = (gpa + i, rights);
                }

                break;
            case < 12: // clear, with or without telling
                for (ulong i = 0; i < count; i++)
                    iommu.Tables.Remove(iova + i);
                break;
            case < 16:
                iommu.Invalidate(iova, iova + count);
                return;
            case 16: // a mapping of many pages, without tables
                ulong pages = 8UL << random.Next(7);
                ulong first = LargeIova + (ulong)random.Next(4) * ModelBoard.BlockPages;
                iommu.AnnounceUnmapped(new Iova(first << 12), ModelBoard.BlockPages << 12);
                if (random.Next(3) != 0)
                    iommu.AnnounceMapped(new Iova(first << 12), pages << 12, new Gpa((random.Next(2) == 0 ? ModelBoard.LowGpa : ModelBoard.HighGpa) << 12), AccessRights.ReadWrite);
                return;
            case 17:
                iommu.Invalidate(0, LargeIova);
                return;
            case 18: // part of a large mapping goes
                iommu.AnnounceUnmapped(new Iova((LargeIova + (ulong)random.NextInt64(2048)) << 12), count << 12);
                return;
            default:
                if (random.Next(3) == 0)
                    board.SetPassThrough(!board.IsPassThrough);
                return;
        }

        if (random.Next(3) != 0)
            iommu.Invalidate(iova, iova + count);
    }

    private ulong AnyGpa(ulong count) => random.Next(12) switch
    {
        0 => ModelBoard.MmioGpa,
        1 => ModelBoard.RomGpa,
        2 => ModelBoard.LowGpa + ModelBoard.BlockPages - 2, // runs out of RAM
        < 7 => ModelBoard.LowGpa + (ulong)random.NextInt64((long)(ModelBoard.BlockPages - count)),
        _ => ModelBoard.HighGpa + (ulong)random.NextInt64((long)(ModelBoard.BlockPages - count)),
    };
}
