namespace Godwit.Machine.Tests;

public class BootInfoTests
{
    [Fact]
    public void The_guest_reads_what_the_firmware_wrote()
    {
        BoardLayout layout = BoardLayout.For(256 << 20);
        byte[] page = BootInfo.For(layout, "queue-depth=8 seed=π").ToPage();

        Assert.True(BootInfo.TryParse(page, out BootInfo info));
        Assert.Equal(layout.LowRamSize, info.LowRamSize);
        Assert.Equal(BoardLayout.HighRamBase, info.HighRamBase);
        Assert.Equal(layout.HighRamSize, info.HighRamSize);
        Assert.Equal(BoardLayout.MmioBase, info.MmioBase);
        Assert.Equal(BoardLayout.MmioSize, info.MmioSize);
        Assert.Equal("queue-depth=8 seed=π", info.CommandLine);
    }

    [Fact]
    public void Any_flipped_bit_of_the_used_part_is_noticed()
    {
        byte[] page = BootInfo.For(BoardLayout.For(64 << 20), "a=b").ToPage();
        int used = BitConverter.ToInt32(page, 8);
        for (int bit = 0; bit < used * 8; bit++)
        {
            page[bit / 8] ^= (byte)(1 << (bit % 8));
            Assert.False(BootInfo.TryParse(page, out _), $"bit {bit}");
            page[bit / 8] ^= (byte)(1 << (bit % 8));
        }

        Assert.True(BootInfo.TryParse(page, out _));
    }

    [Fact]
    public void A_command_line_beyond_the_limit_is_refused_with_both_numbers()
    {
        var refusal = Assert.Throws<ArgumentException>(() => BootInfo.For(BoardLayout.For(64 << 20), new string('x', 2049)).ToPage());
        Assert.Contains("2049", refusal.Message, StringComparison.Ordinal);
        Assert.Contains("2048", refusal.Message, StringComparison.Ordinal);
    }
}
