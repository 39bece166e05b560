using Godwit.Machine.Guests.Drivers;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Tests;

public sealed class IovaAllocatorTests : IDisposable
{
    private const ulong Top = 1UL << 32;
    private readonly RamFixture _ram = new();
    private IovaAllocator _allocator;

    public IovaAllocatorTests() => _allocator = Create(39);

    public void Dispose() => _ram.Dispose();

    [Fact]
    public void The_first_allocations_come_down_from_the_top_of_32_bits()
    {
        Assert.Equal(Top - 4096, _allocator.Allocate(_ram.Bus, 0).Value);
        Assert.Equal(Top - 8192, _allocator.Allocate(_ram.Bus, 0).Value);
        Assert.Equal(Top - 0x10000, _allocator.Allocate(_ram.Bus, 3).Value); // aligned to its own size
        Assert.Equal(Top - 0x11000, _allocator.Allocate(_ram.Bus, 0).Value);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(3)]
    [InlineData(5)]
    public void What_was_freed_last_is_used_again_at_once(int order)
    {
        Iova[] all = [.. Enumerable.Range(0, 20).Select(_ => _allocator.Allocate(_ram.Bus, order))];
        _allocator.Free(_ram.Bus, all[3], order);
        _allocator.Free(_ram.Bus, all[11], order);
        Assert.Equal(all[11], _allocator.Allocate(_ram.Bus, order));
        Assert.Equal(all[3], _allocator.Allocate(_ram.Bus, order));
    }

    [Fact]
    public void Reserved_windows_and_page_0_are_never_handed_out_and_high_addresses_come_last()
    {
        // All but the lowest 4 MiB and a window in them is reserved.
        _allocator.Reserve(_ram.Bus, 1024, IovaAllocator.ArenaPages - 1024);
        _allocator.Reserve(_ram.Bus, 100, 50);
        var low = new HashSet<ulong>();
        for (int i = 0; i < 1024 - 1 - 50; i++)
            Assert.True(low.Add(_allocator.Allocate(_ram.Bus, 0).Value >> 12));
        Assert.All(low, page => Assert.True(page is > 0 and < 1024 and not (>= 100 and < 150)));

        Iova high = _allocator.Allocate(_ram.Bus, 0);
        Assert.Equal((1UL << 39) - 4096, high.Value);

        // Freed low pages of another size go through the caches back into the space before it overflows again.
        foreach (ulong page in low.Where(p => p is >= 512 and < 576))
            _allocator.Free(_ram.Bus, new Iova(page << 12), 0);
        Assert.Equal(512UL << 12, _allocator.Allocate(_ram.Bus, 6).Value);
    }

    [Fact]
    public void Exhaustion_is_a_panic_and_not_a_loop()
    {
        _allocator.Reserve(_ram.Bus, 0, IovaAllocator.ArenaPages);
        for (ulong i = 0; i < IovaAllocator.ArenaPages >> IovaAllocator.MaxOrder; i++)
            Assert.True(_allocator.Allocate(_ram.Bus, IovaAllocator.MaxOrder).Value >= (1UL << 39) - Top);
        Assert.Throws<GuestPanicException>(() => { _allocator.Allocate(_ram.Bus, 0); });
    }

    [Theory]
    [InlineData(39)]
    [InlineData(48)]
    public void Random_use_never_overlaps_is_always_aligned_and_always_inside_the_aperture(int bits)
    {
        int seed = Random.Shared.Next();
        var random = new Random(seed);
        IovaAllocator allocator = Create(bits);
        var live = new List<(ulong Page, int Order)>();
        var taken = new Dictionary<ulong, int>();
        for (int step = 0; step < 20_000; step++)
        {
            if (live.Count > 0 && random.Next(100) < (live.Count > 400 ? 70 : 40))
            {
                int i = random.Next(live.Count);
                (ulong page, int order) = live[i];
                live[i] = live[^1];
                live.RemoveAt(live.Count - 1);
                for (ulong p = page; p < page + (1UL << order); p++)
                    taken.Remove(p);
                allocator.Free(_ram.Bus, new Iova(page << 12), order);
            }
            else
            {
                int order = random.Next(IovaAllocator.MaxOrder + 1);
                Iova iova = allocator.Allocate(_ram.Bus, order);
                ulong page = iova.Value >> 12;
                Assert.True(iova.Value % (4096UL << order) == 0, $"seed {seed}, step {step}: {iova} is not aligned to order {order}");
                Assert.True(page > 0 && page + (1UL << order) <= 1UL << (bits - 12), $"seed {seed}, step {step}: {iova} is outside");
                for (ulong p = page; p < page + (1UL << order); p++)
                    Assert.True(taken.TryAdd(p, step), $"seed {seed}, step {step}: page 0x{p:x} is handed out twice");
                live.Add((page, order));
            }
        }

        Assert.Equal((ulong)taken.Count, allocator.Live);
    }

    [Theory]
    [InlineData(1, 0)]
    [InlineData(2, 1)]
    [InlineData(3, 2)]
    [InlineData(16, 4)]
    [InlineData(17, 5)]
    [InlineData(257, 9)]
    public void Sizes_are_rounded_up_to_powers_of_two(int pages, int order) => Assert.Equal(order, IovaAllocator.OrderOf(pages));

    private IovaAllocator Create(int bits) => IovaAllocator.Create(
        _ram.Bus, new Gpa(0x20_0000), new Gpa(0x30_0000), new Gpa(0x40_0000), bits);
}
