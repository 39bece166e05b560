using Godwit.Iommu.Intel;
using Godwit.Memory;
using static Godwit.Iommu.Tests.GuestDriver;

namespace Godwit.Iommu.Tests;

/// <summary>
/// Each bit of the entries from the root to the PASID entry, one by one, of a unit that offers as little as can be: a reserved one is a fault, an
/// ignored one does nothing. The bits are written down from the specification, not from the model.
/// </summary>
public class ReservedBitsTests
{
    /// <summary>Entry, its word of 64 bits, reserved bits, ignored bits, the fault.</summary>
    public static TheoryData<TableKind, string, int, ulong, ulong, int> Entries => new()
    {
        { TableKind.Legacy, "root", 0, 0xFFF0_0000_0000_0FFE, 0, 0x0A },               // 9.1
        { TableKind.Legacy, "root", 1, ulong.MaxValue, 0, 0x0A },
        { TableKind.Legacy, "context", 0, 0xFFF0_0000_0000_0FF0, 0, 0x0B },            // 9.3
        { TableKind.Legacy, "context", 1, 0xFFFF_FFFF_FF00_0080, 0x78, 0x0B },
        { TableKind.ScalableSecond, "root", 0, 0xFFF0_0000_0000_0FFE, 0, 0x3A },       // 9.2
        { TableKind.ScalableSecond, "context", 0, 0xFFF0_0000_0000_01FC, 0xE00, 0x42 }, // 9.4: DTE, PASIDE, PRE are not offered; PDTS may be larger
        { TableKind.ScalableSecond, "context", 1, 0xFFFF_FFFF_FFF0_0000, 0, 0x42 },    // RID_PRIV is not offered
        { TableKind.ScalableSecond, "context", 2, ulong.MaxValue, 0, 0x42 },
        { TableKind.ScalableSecond, "context", 3, ulong.MaxValue, 0, 0x42 },
        { TableKind.ScalableSecond, "directory", 0, 0xFFF0_0000_0000_0FFC, 0, 0x52 },  // 9.5
        { TableKind.ScalableSecond, "PASID", 0, 0xFFF0_0000_0000_0E20, 0, 0x5A },      // 9.6: SSEE and SSADE are not offered
        { TableKind.ScalableSecond, "PASID", 1, 0xFFFF_FFFF_FF7F_0000, 1 << 23, 0x5A }, // nor PGSNP and memory types; PWSNP is
        { TableKind.ScalableSecond, "PASID", 2, 0xFFF0_0000_0000_0F82, 0x71, 0x5A },   // nor ERE and EAFE; SRE, WPE, NXE, SMEP do nothing
        { TableKind.ScalableSecond, "PASID", 3, ulong.MaxValue, 0, 0x5A },
        { TableKind.ScalableSecond, "PASID", 4, ulong.MaxValue, 0, 0x5A },
        { TableKind.ScalableSecond, "PASID", 5, ulong.MaxValue, 0, 0x5A },
        { TableKind.ScalableSecond, "PASID", 6, ulong.MaxValue, 0, 0x5A },
        { TableKind.ScalableSecond, "PASID", 7, ulong.MaxValue, 0, 0x5A },
    };

    [Theory]
    [MemberData(nameof(Entries))]
    public void EachBitIsWhatTheSpecificationSays(TableKind kind, string entry, int word, ulong reserved, ulong ignored, int reason)
    {
        using var guest = new GuestDriver(new IntelIommuOptions { AddressWidth = 48, ScalableMode = kind != TableKind.Legacy }, kind: kind);
        ulong table = guest.AllocateTable();
        guest.Map(table, 0x5000, 0x8000);
        guest.SetContext(guest.Sid(), table, 1);
        guest.SetRootAndEnable();
        ulong at = (ulong)word * 8 + entry switch
        {
            "root" => guest.Root,
            "context" => guest.ContextOf(guest.Sid()),
            "directory" => guest.Directory,
            _ => guest.PasidEntryOf(guest.Sid()),
        };
        ulong good = guest.Read64(at);
        for (int bit = 0; bit < 64; bit++)
        {
            ulong mask = 1UL << bit;
            if (((reserved | ignored) & mask) == 0)
                continue;
            guest.Write64(at, good | mask);
            Forget();
            bool fault = (reserved & mask) != 0;
            Assert.Equal((bit, fault ? MemoryResult.AccessError : MemoryResult.Ok), (bit, guest.DmaRead(0x5000, out _)));
            Assert.Equal((bit, fault ? reason : 0), (bit, TranslationTests.Faults(guest) is [var only] ? only.Reason : 0));
            TranslationTests.ClearFaults(guest);
            guest.Write64(at, good);
            Forget();
            Assert.Equal(MemoryResult.Ok, guest.DmaRead(0x5000, out _));
        }

        void Forget()
        {
            if (guest.Scalable)
                guest.Invalidate(ContextGlobal, PasidCache(3, 0, 0), IotlbGlobal);
            else
                guest.Invalidate(ContextGlobal, IotlbGlobal);
        }
    }
}
