using Godwit.Memory;

namespace Godwit.Machine.Tests;

public class BoardLayoutTests
{
    [Theory]
    [InlineData(64UL << 20, 32UL << 20)]
    [InlineData(66UL << 20, 32UL << 20)]
    [InlineData(1UL << 30, 512UL << 20)]
    [InlineData(4UL << 30, 2UL << 30)]
    [InlineData(1UL << 40, 2UL << 30)]
    public void Half_of_memory_but_at_most_two_GiB_lies_low(ulong memory, ulong low)
    {
        BoardLayout layout = BoardLayout.For(memory);
        Assert.Equal(low, layout.LowRamSize);
        Assert.Equal(memory - low, layout.HighRamSize);
    }

    [Fact]
    public void A_high_address_is_not_its_offset_in_the_block()
    {
        BoardLayout layout = BoardLayout.For(64 << 20);
        Assert.True(layout.TryGetRamOffset(new Gpa(0x1_0000_0000), 4096, out ulong offset));
        Assert.Equal(32UL << 20, offset);
        Assert.True(layout.TryGetRamOffset(new Gpa(0x1_0000_0000 + (32 << 20) - 1), 1, out offset));
        Assert.Equal((64UL << 20) - 1, offset);
    }

    [Theory]
    [InlineData(32UL << 20, 1UL)] // first byte of the hole
    [InlineData((32UL << 20) - 1, 2UL)] // across its border
    [InlineData(0xFFFF_FFFFUL, 1UL)]
    [InlineData(0xFFFF_FFFFUL, 2UL)]
    [InlineData(0x1_0000_0000UL + (32UL << 20), 1UL)]
    [InlineData(0x1_0000_0000UL, (32UL << 20) + 1)]
    [InlineData(ulong.MaxValue, 1UL)]
    [InlineData(ulong.MaxValue, ulong.MaxValue)]
    [InlineData(0UL, ulong.MaxValue)]
    public void What_is_not_all_RAM_of_one_window_is_refused(ulong address, ulong length) =>
        Assert.False(BoardLayout.For(64 << 20).TryGetRamOffset(new Gpa(address), length, out _));

    [Fact]
    public void Windows_do_not_overlap()
    {
        (ulong Start, ulong End)[] windows =
        [
            (0, BoardLayout.MaxLowRam),
            (BoardLayout.EcamBase.Value, BoardLayout.EcamBase.Value + ((ulong)BoardLayout.EcamBuses << 20)),
            (BoardLayout.MmioBase.Value, BoardLayout.MmioBase.Value + BoardLayout.MmioSize),
            (Iommu.Intel.IntelIommu.RegisterBase.Value, Iommu.Intel.IntelIommu.RegisterBase.Value + 0x1000),
            (BoardLayout.InterruptBase.Value, BoardLayout.InterruptBase.Value + BoardLayout.InterruptSize),
            (BoardLayout.HighRamBase.Value, ulong.MaxValue),
        ];
        for (int i = 1; i < windows.Length; i++)
            Assert.True(windows[i - 1].End <= windows[i].Start, $"window {i - 1} reaches into window {i}");
    }
}
