using Godwit.Iommu.Intel;
using Godwit.Memory;

namespace Godwit.Iommu.Tests;

/// <summary>Bits of page-table entries that the unit takes and that do nothing, one by one, in the entry of a page and in those above it.</summary>
public class IgnoredBitsTests
{
    /// <summary>PWT, PCD, PAT or what is there above leaves, G, EA, 62:52 and XD (VT-d 9.7).</summary>
    public static TheoryData<int, int> FirstStage => Bits([3, 4, 8, 9, 10, 11, .. Enumerable.Range(52, 12)], levels: 4);

    /// <summary>X, memory type, A, D, 61:52 and 63 (VT-d 9.8).</summary>
    public static TheoryData<int, int> SecondStage => Bits([2, 3, 4, 5, 6, 8, 9, 10, .. Enumerable.Range(52, 10), 63], levels: 4);

    [Theory]
    [MemberData(nameof(FirstStage))]
    public void OfAFirstStageEntry(int level, int bit) => Check(TableKind.ScalableFirst, level, bit);

    [Theory]
    [MemberData(nameof(SecondStage))]
    public void OfASecondStageEntry(int level, int bit) => Check(TableKind.ScalableSecond, level, bit);

    [Theory]
    [MemberData(nameof(SecondStage))]
    public void OfASecondStageEntryInLegacyMode(int level, int bit) => Check(TableKind.Legacy, level, bit);

    /// <summary>PAT of a page is bit 7, of a large one bit 12.</summary>
    [Theory]
    [InlineData(1, 7)]
    [InlineData(2, 12)]
    [InlineData(3, 12)]
    public void PatOfAFirstStagePage(int level, int bit) => Check(TableKind.ScalableFirst, level, bit, large: level);

    private static void Check(TableKind kind, int level, int bit, int large = 1)
    {
        using var guest = new GuestDriver(new IntelIommuOptions { AddressWidth = 48, ScalableMode = kind != TableKind.Legacy }, kind: kind);
        ulong table = guest.AllocateTable(), iova = 0x40_0000_0000 + 0x1000;
        guest.Map(table, large == 1 ? iova : 0x40_0000_0000, large == 1 ? 0x8000ul : 0, level: large);
        ulong entry = guest.EntryOf(table, iova, level);
        guest.Write64(entry, guest.Read64(entry) | (1UL << bit));
        guest.SetContext(guest.Sid(), table, 1);
        guest.SetRootAndEnable();
        Assert.Equal(MemoryResult.Ok, guest.DmaWrite(iova, 9));
        Assert.Equal(9ul, guest.Read64(large == 1 ? 0x8000ul : 0x1000));
        Assert.Empty(TranslationTests.Faults(guest));
        Assert.NotEqual(0ul, guest.Read64(entry) & (1UL << bit)); // marks do not lose it
    }

    private static TheoryData<int, int> Bits(int[] bits, int levels)
    {
        var data = new TheoryData<int, int>();
        for (int level = 1; level <= levels; level++)
        {
            foreach (int bit in bits)
                data.Add(level, bit);
        }

        return data;
    }
}
