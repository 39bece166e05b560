using System.Collections.Immutable;
using Godwit.Memory;

namespace Godwit.Vfio.Tests;

/// <summary>What the host's IOMMU does not translate is found before a guest is.</summary>
public sealed class HostReachTests
{
    private static readonly ImmutableArray<UsableIovas> Usual = [Range(0, 0xFEDF_FFFF), Range(0xFEF0_0000, (1UL << 39) - 1)];

    [Theory]
    [InlineData((1UL << 39) - 1, null)]
    [InlineData((1UL << 48) - 1, "0x8000000000-0xffffffffffff")]
    [InlineData(0xFEEF_FFFFUL, null)]
    public void A_vIOMMU_wider_than_the_host_is_refused(ulong last, string? missing)
    {
        var guest = new GuestReach(new Iova(last), []);
        if (missing is null)
        {
            HostReach.Check("dev", Usual, guest);
            return;
        }

        var error = Assert.Throws<HostAddressRangeException>(() => HostReach.Check("dev", Usual, guest));
        Assert.Equal(missing, error.Missing);
        Assert.Contains("0x0-0xfedfffff", error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_hole_other_than_the_interrupt_window_is_refused()
    {
        ImmutableArray<UsableIovas> holes = [Range(0, 0xFDFF_FFFF), Range(0xFF00_0000, (1UL << 39) - 1)];
        Assert.Equal("0xfe000000-0xfedfffff", Assert.Throws<HostAddressRangeException>(() => HostReach.Check("dev", holes, new GuestReach(new Iova((1UL << 39) - 1), []))).Missing);
        ImmutableArray<UsableIovas> above = [Range(0, 0xFEDF_FFFF), Range(0xFF00_0000, (1UL << 39) - 1)];
        Assert.Equal("0xfef00000-0xfeffffff", Assert.Throws<HostAddressRangeException>(() => HostReach.Check("dev", above, new GuestReach(new Iova((1UL << 39) - 1), []))).Missing);
        ImmutableArray<UsableIovas> low = [Range(0x1000, (1UL << 39) - 1)];
        Assert.Equal("0x0-0xfff", Assert.Throws<HostAddressRangeException>(() => HostReach.Check("dev", low, new GuestReach(new Iova(0xFFFF), []))).Missing);
    }

    [Fact]
    public void Memory_that_the_host_does_not_reach_is_refused()
    {
        BusRange high = BusRange.Of(new BusAddress(1UL << 40), 0x20_0000);
        Assert.Equal("0x10000000000-0x100001fffff", Assert.Throws<HostAddressRangeException>(() => HostReach.Check("dev", Usual, new GuestReach(null, [high]))).Missing);
        HostReach.Check("dev", Usual, new GuestReach(null, [BusRange.Of(default, 0x8000_0000)]));
    }

    [Fact]
    public void A_range_to_the_top_of_64_bits_does_not_wrap()
    {
        HostReach.Check("dev", [Range(0, ulong.MaxValue)], new GuestReach(new Iova(ulong.MaxValue), []));
        Assert.Throws<HostAddressRangeException>(() => HostReach.Check("dev", [Range(0, ulong.MaxValue - 0x1000)], new GuestReach(new Iova(ulong.MaxValue), [])));
    }

    [Fact]
    public void A_kernel_that_does_not_tell_is_believed() => HostReach.Check("dev", [], new GuestReach(new Iova(ulong.MaxValue), []));

    private static UsableIovas Range(ulong first, ulong last) => new(new Iova(first), new Iova(last));
}
