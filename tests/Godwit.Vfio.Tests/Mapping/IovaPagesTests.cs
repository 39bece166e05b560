using Godwit.Memory;

namespace Godwit.Vfio.Tests;

public sealed class IovaPagesTests
{
    [Theory]
    [InlineData(0x1000UL, 0x2fffUL, 1UL, 3UL)]
    [InlineData(0x1001UL, 0x2fffUL, 2UL, 3UL)]
    [InlineData(0x1000UL, 0x2ffeUL, 1UL, 2UL)]
    [InlineData(0UL, ulong.MaxValue, 0UL, IovaPages.SpacePages)]
    [InlineData(ulong.MaxValue - 0x1fff, ulong.MaxValue, IovaPages.SpacePages - 2, IovaPages.SpacePages)]
    public void TakesTheWholePagesInsideARange(ulong first, ulong last, ulong firstPage, ulong end)
    {
        Assert.True(IovaPages.TryInside(new BusRange(new BusAddress(first), new BusAddress(last)), out IovaPages pages));
        Assert.Equal(IovaPages.Between(firstPage, end), pages);
    }

    [Theory]
    [InlineData(0x1001UL, 0x1fffUL)]
    [InlineData(0x1000UL, 0x1ffeUL)]
    [InlineData(ulong.MaxValue, ulong.MaxValue)]
    [InlineData(0x1800UL, 0x27ffUL)]
    public void ThereIsNoneInARangeWithoutAWholePage(ulong first, ulong last) =>
        Assert.False(IovaPages.TryInside(new BusRange(new BusAddress(first), new BusAddress(last)), out _));

    [Fact]
    public void TheWholeSpaceHasNoLengthInBytes() =>
        Assert.Throws<OverflowException>(() => new IovaPages(0, IovaPages.SpacePages).Bytes);
}
