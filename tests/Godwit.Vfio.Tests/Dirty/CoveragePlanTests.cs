using Godwit.Memory;

namespace Godwit.Vfio.Tests;

public sealed class CoveragePlanTests
{
    private static readonly IovaPages LowRam = new(ModelBoard.LowGpa, ModelBoard.BlockPages);
    private static readonly IovaPages HighRam = new(ModelBoard.HighGpa, ModelBoard.BlockPages);
    private static readonly IovaPages Rom = new(ModelBoard.RomGpa, 16);

    [Fact]
    public void WithoutAVIommuRamIsCoveredByGpa()
    {
        using var board = new ModelBoard();
        CoveragePlan plan = Assert.Single(CoveragePlan.Candidates(null, board.Topology.System.View));
        Assert.Equal([LowRam, Rom, HighRam], plan.Ranges);
        Assert.False(plan.LeavesUncovered);
        Assert.False(plan.Translated);
    }

    [Fact]
    public void AVIommuThatOnlyRemapsInterruptsIsNone()
    {
        using var board = new ModelBoard();
        CoveragePlan plan = Assert.Single(CoveragePlan.Candidates(new IommuAttributes(false, new Iova(0xFFFF)), board.Topology.System.View));
        Assert.Equal([LowRam, Rom, HighRam], plan.Ranges);
    }

    [Fact]
    public void TheWholeApertureComesFirstWithTheRamAboveIt()
    {
        using var board = new ModelBoard();
        var plans = CoveragePlan.Candidates(board.Iommu.Attributes, board.Topology.System.View);
        var aperture = new IovaPages(0, ModelBoard.AperturePages);
        Assert.Equal(2, plans.Length);
        Assert.Equal([aperture, HighRam], plans[0].Ranges);
        Assert.False(plans[0].LeavesUncovered);
        Assert.Equal([aperture], plans[1].Ranges);
        Assert.True(plans[1].LeavesUncovered);
    }

    [Fact]
    public void RamThatSticksOutOfTheApertureIsCoveredFromItsEnd()
    {
        using var board = new ModelBoard();
        ulong end = ModelBoard.HighGpa + 100;
        var plans = CoveragePlan.Candidates(new IommuAttributes(true, new Iova((end << 12) - 1)), board.Topology.System.View);
        Assert.Equal([new IovaPages(0, end), IovaPages.Between(end, HighRam.End)], plans[0].Ranges);
    }

    [Theory]
    [InlineData(39)]
    [InlineData(48)]
    [InlineData(57)]
    public void AnApertureAboveAllRamIsOneRange(int bits)
    {
        using var board = new ModelBoard();
        CoveragePlan plan = Assert.Single(CoveragePlan.Candidates(new IommuAttributes(true, new Iova((1UL << bits) - 1)), board.Topology.System.View));
        Assert.Equal([new IovaPages(0, 1UL << (bits - 12))], plan.Ranges);
        Assert.False(plan.LeavesUncovered);
    }

    /// <summary>Rule 9: the last page of a 64-bit space stays outside, so that no end passes 2^64 - 1.</summary>
    [Fact]
    public void AnApertureOf64BitsIsCutByItsLastPage()
    {
        using var board = new ModelBoard();
        CoveragePlan plan = Assert.Single(CoveragePlan.Candidates(new IommuAttributes(true, new Iova(ulong.MaxValue)), board.Topology.System.View));
        IovaPages range = Assert.Single(plan.Ranges);
        Assert.Equal(ulong.MaxValue - 4095, range.Iova.Value + range.Bytes);
        Assert.True(plan.LeavesUncovered);
    }

    [Fact]
    public void WithoutALimitOfTheApertureThereIsNoPlan()
    {
        using var board = new ModelBoard();
        Assert.Empty(CoveragePlan.Candidates(new IommuAttributes(true, null), board.Topology.System.View));
    }
}
