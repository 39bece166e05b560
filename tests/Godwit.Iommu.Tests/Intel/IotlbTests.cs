using Godwit.Iommu.Intel;
using Godwit.Memory;

namespace Godwit.Iommu.Tests;

public class IotlbTests
{
    [Theory]
    [InlineData(0x5000, 0x5FFF)]
    [InlineData(0x4000, 0x7FFF)]
    [InlineData(0, ulong.MaxValue)]
    [InlineData(0x9000, 0x9FFF)] // of another page: dropped all the same, which costs a walk at most
    public void AWalkThatBeganBeforeAnInvalidationLeavesNothingBehind(ulong first, ulong last)
    {
        var cache = new Iotlb();
        int generation = cache.Generation;
        cache.Invalidate(new Iova(first), new Iova(last));
        cache.Fill(new Iova(0x5000), new Gpa(0x8000), AccessRights.ReadWrite, generation);
        Assert.False(cache.TryGet(new Iova(0x5000), out _, out _));
        cache.Fill(new Iova(0x5000), new Gpa(0x8000), AccessRights.ReadWrite, cache.Generation);
        Assert.True(cache.TryGet(new Iova(0x5123), out Gpa output, out AccessRights rights));
        Assert.Equal((new Gpa(0x8123), AccessRights.ReadWrite), (output, rights));
    }

    [Fact]
    public void InvalidationsForgetTheirPagesOnly()
    {
        var cache = new Iotlb();
        for (ulong page = 0; page < 64; page++)
            cache.Fill(new Iova(page << 12), new Gpa((page + 100) << 12), AccessRights.Read, cache.Generation);
        cache.Invalidate(new Iova(8 << 12), new Iova((16 << 12) - 1));
        for (ulong page = 0; page < 64; page++)
            Assert.Equal(page is < 8 or >= 16, cache.TryGet(new Iova(page << 12), out _, out _));
        cache.Invalidate(default, new Iova((1UL << 39) - 1));
        for (ulong page = 0; page < 64; page++)
            Assert.False(cache.TryGet(new Iova(page << 12), out _, out _));
    }

    /// <summary>Pages that share a slot are put in turn while another thread looks: it sees one or the other, never halves of both.</summary>
    [Fact]
    public void AHitIsNeverTorn()
    {
        var cache = new Iotlb();
        bool stop = false;
        long hits = 0, torn = 0;
        var reader = new Thread(() =>
        {
            ulong page = 0;
            while (!Volatile.Read(ref stop))
            {
                page = (page + 1) % 0x2000;
                if (!cache.TryGet(new Iova(page << 12), out Gpa output, out AccessRights rights))
                    continue;
                Interlocked.Increment(ref hits);
                if (output.Value != (page * 3) << 12 || rights != (AccessRights)(1 + (page % 3)))
                    Interlocked.Increment(ref torn);
            }
        });
        reader.Start();
        var random = new Random(1);
        for (int round = 0; round < 2_000_000 && (round < 300_000 || Interlocked.Read(ref hits) < 1_000); round++)
        {
            ulong page = (ulong)random.Next(0x2000);
            cache.Fill(new Iova(page << 12), new Gpa((page * 3) << 12), (AccessRights)(1 + (page % 3)), cache.Generation);
            if (round % 64 == 0)
                cache.Invalidate(new Iova(page << 12), new Iova((page << 12) | 0xFFF));
        }

        Volatile.Write(ref stop, true);
        Assert.True(reader.Join(TimeSpan.FromSeconds(60)));
        Assert.NotEqual(0, hits);
        Assert.Equal(0, torn);
    }
}
