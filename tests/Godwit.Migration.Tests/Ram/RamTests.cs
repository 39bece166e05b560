using Godwit.Memory;

namespace Godwit.Migration.Tests;

public sealed unsafe class RamTests
{
    [Fact]
    public void A_single_bit_makes_a_page_no_zero_page()
    {
        using var ram = new GuestRam();
        RamBlock block = ram.Add("main", 2 << 20);
        Assert.True(ZeroPage.IsZero(block.Pointer));
        for (int at = 0; at < RamPage.Size; at++)
        {
            block.Pointer[at] = (byte)(1 << (at % 8));
            Assert.False(ZeroPage.IsZero(block.Pointer), $"byte {at}");
            block.Pointer[at] = 0;
        }

        // What lies around it does not matter.
        block.Pointer[4095] = 1;
        block.Pointer[8192] = 1;
        Assert.True(ZeroPage.IsZero(block.Pointer + 4096));
    }

    [Fact]
    public void The_page_checksum_sees_every_bit_and_every_move()
    {
        using var ram = new GuestRam();
        RamBlock block = ram.Add("main", 2 << 20);
        byte[] contents = new byte[4096];
        Random.Shared.NextBytes(contents);
        block.Write(0, contents, DirtySource.Vmm);
        var seen = new HashSet<(ulong, ulong)> { Sum() };
        for (int bit = 0; bit < 4096 * 8; bit++)
        {
            block.Pointer[bit / 8] ^= (byte)(1 << (bit % 8));
            Assert.True(seen.Add(Sum()), $"bit {bit}");
            block.Pointer[bit / 8] ^= (byte)(1 << (bit % 8));
        }

        // The same words in another order.
        new Span<byte>(block.Pointer, 32).Reverse();
        Assert.True(seen.Add(Sum()));
        var words = new Span<ulong>(block.Pointer, 512);
        (words[0], words[4]) = (words[4], words[0]); // same lane
        Assert.True(seen.Add(Sum()));
        (words[0], words[1]) = (words[1], words[0]);
        Assert.True(seen.Add(Sum()));

        (ulong, ulong) Sum()
        {
            ulong* sum = stackalloc ulong[2];
            PageChecksum.Compute(block.Pointer, sum);
            return (sum[0], sum[1]);
        }
    }

    [Fact]
    public void A_hole_has_the_checksum_of_zeros()
    {
        using var ram = new GuestRam();
        RamBlock block = ram.Add("main", 8 << 20);
        byte[] untouched = new byte[2048 * PageChecksum.Size];
        PageChecksum.ComputeRun(block, new PageRun(0, 0, 2048), untouched);
        Assert.Equal(block.Size, RamHoles.NextData(block, 0));
        block.Write(0, new byte[8 << 20], DirtySource.Vmm);
        Assert.Equal(0UL, RamHoles.NextData(block, 0));
        byte[] zeros = new byte[2048 * PageChecksum.Size];
        PageChecksum.ComputeRun(block, new PageRun(0, 0, 2048), zeros);
        Assert.Equal(zeros, untouched);
        block.Write((3 << 20) + 17, [1], DirtySource.Vmm);
        byte[] other = new byte[(2048 - 700) * PageChecksum.Size];
        PageChecksum.ComputeRun(block, new PageRun(0, 700, 2048 - 700), other);
        Assert.Equal((768 - 700) * PageChecksum.Size, other.AsSpan().CommonPrefixLength(zeros));
    }

    [Fact]
    public void A_set_of_pages_is_a_set()
    {
        int seed = Random.Shared.Next();
        var random = new Random(seed);
        const int Pages = 300;
        var set = new PageSet(Pages);
        var model = new bool[Pages];
        for (int i = 0; i < 3000; i++)
        {
            int first = random.Next(Pages);
            int count = random.Next(Pages - first + 1);
            bool add = random.Next(2) == 0;
            if (add)
                set.Add((ulong)first, (ulong)count);
            else
                set.Remove((ulong)first, (ulong)count);
            model.AsSpan(first, count).Fill(add);
            Assert.Equal(model.Count(bit => bit), (int)set.Count);
            int from = random.Next(Pages);
            int end = random.Next(from, Pages + 1);
            bool wanted = random.Next(2) == 0;
            int next = Array.IndexOf(model, wanted, from, end - from);
            Assert.True((ulong)(next < 0 ? end : next) == set.Next((ulong)from, (ulong)end, wanted), $"seed {seed}, step {i}");
        }
    }

    [Fact]
    public void Holes_are_seen_without_being_filled()
    {
        using var ram = new GuestRam();
        RamBlock block = ram.Add("main", 16 << 20);
        Assert.Equal(block.Size, RamHoles.NextData(block, 0));
        block.Write((6 << 20) + 5, [1], DirtySource.Vmm);
        ulong data = RamHoles.NextData(block, 0);
        Assert.InRange(data, 4UL << 20, 6UL << 20); // at the page, or at its huge page
        ulong hole = RamHoles.NextHole(block, data);
        Assert.InRange(hole, (6UL << 20) + 4096, 8UL << 20);
        Assert.Equal(block.Size, RamHoles.NextData(block, hole));
    }
}
