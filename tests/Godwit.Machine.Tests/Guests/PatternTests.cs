using Godwit.Machine.Guests.Drivers;
using Godwit.Machine.Guests.Patterns;
using Godwit.Memory;

namespace Godwit.Machine.Tests;

public sealed class PatternTests : IDisposable
{
    private readonly RamFixture _ram = new();

    public void Dispose() => _ram.Dispose();

    [Fact]
    public void A_sector_matches_only_itself()
    {
        ulong[] sector = new ulong[SectorPattern.Words];
        ulong key = SectorPattern.Key(seed: 7, block: 100, generation: 3);
        SectorPattern.Fill(sector, key, 100, 5, 3);
        Assert.True(SectorPattern.Matches(sector, key, 100, 5, 3));

        Assert.False(SectorPattern.Matches(sector, key, 100, 4, 3), "another sector of the block");
        Assert.False(SectorPattern.Matches(sector, SectorPattern.Key(7, 101, 3), 101, 5, 3), "another block");
        Assert.False(SectorPattern.Matches(sector, SectorPattern.Key(7, 100, 2), 100, 5, 2), "an older generation");
        Assert.False(SectorPattern.Matches(sector, SectorPattern.Key(8, 100, 3), 100, 5, 3), "another run");
        for (int bit = 0; bit < SectorPattern.Words * 64; bit++)
        {
            sector[bit / 64] ^= 1UL << (bit % 64);
            Assert.False(SectorPattern.Matches(sector, key, 100, 5, 3), $"bit {bit} flipped");
            sector[bit / 64] ^= 1UL << (bit % 64);
        }
    }

    [Fact]
    public void A_torn_sector_is_noticed_wherever_the_tear_is()
    {
        ulong[] old = new ulong[SectorPattern.Words];
        ulong[] fresh = new ulong[SectorPattern.Words];
        ulong key = SectorPattern.Key(1, 9, 11);
        SectorPattern.Fill(old, SectorPattern.Key(1, 9, 10), 9, 0, 10);
        SectorPattern.Fill(fresh, key, 9, 0, 11);
        for (int tear = 1; tear < SectorPattern.Words; tear++)
        {
            ulong[] torn = [.. fresh[..tear], .. old[tear..]];
            Assert.False(SectorPattern.Matches(torn, key, 9, 0, 11), $"tear at word {tear}");
        }
    }

    [Fact]
    public void A_page_of_an_older_sweep_is_noticed_whole_and_in_part()
    {
        ulong[] page = new ulong[CounterPage.Words];
        CounterPage.Fill(page, seed: 3, number: 42, sweep: 8);
        Assert.True(CounterPage.Matches(page, 3, 42, 8, out _));
        Assert.False(CounterPage.Matches(page, 3, 42, 9, out ulong actual));
        Assert.Equal(8UL, actual);
        Assert.False(CounterPage.Matches(page, 3, 41, 8, out _));

        ulong[] newer = new ulong[CounterPage.Words];
        CounterPage.Fill(newer, 3, 42, 9);
        for (int part = 0; part < 8; part++)
        {
            ulong[] mixed = [.. newer];
            page.AsSpan(part * 64, 64).CopyTo(mixed.AsSpan(part * 64));
            Assert.False(CounterPage.Matches(mixed, 3, 42, 9, out actual));
            Assert.Equal(8UL, actual);
        }
    }

    [Theory]
    [InlineData(1UL, 0UL)]
    [InlineData(7UL, 3UL)]
    [InlineData(1000UL, 1024UL)]
    [InlineData(8192UL, 8192UL)]
    public void The_frame_order_reaches_each_frame_once(ulong low, ulong high)
    {
        var frames = FramePermutation.Create(new Gpa(0x100_0000), low, new Gpa(1UL << 32), high);
        var seen = new HashSet<ulong>();
        for (ulong i = 0; i < frames.Frames; i++)
        {
            Gpa page = frames[i];
            Assert.True(seen.Add(page.Value));
            Assert.True(page.Value < 1UL << 32
                ? page.Value >= 0x100_0000 && page.Value < 0x100_0000 + (low << 12)
                : page.Value < (1UL << 32) + (high << 12));
        }
    }

    [Fact]
    public void The_pool_hands_out_scattered_pages_and_notices_a_write_into_a_free_one()
    {
        var frames = FramePermutation.Create(new Gpa(0x40_0000), 1000, new Gpa(1UL << 32), 1000);
        var pool = new PagePool { Stack = new Gpa(0x20_0000), Capacity = 100 };
        for (ulong i = 0; i < 100; i++)
            pool.Put(_ram.Bus, frames[i]);
        var random = new Random(5);
        var taken = new List<Gpa>();
        for (int i = 0; i < 100; i++)
        {
            taken.Add(pool.Take(_ram.Bus, (ulong)random.NextInt64(), out bool intact));
            Assert.True(intact);
        }

        Assert.Equal(100, taken.Distinct().Count());
        Assert.Contains(taken, p => p.Value < 1UL << 32);
        Assert.Contains(taken, p => p.Value >= 1UL << 32);
        Assert.DoesNotContain(taken.Zip(taken.Skip(1)), p => p.First + 4096 == p.Second);

        pool.Put(_ram.Bus, taken[0]);
        _ram.Bus.Store(taken[0] + 512, 0UL);
        pool.Take(_ram.Bus, 0, out bool stillIntact);
        Assert.False(stillIntact);
    }
}
