namespace Godwit.Vfio.Tests;

public sealed class AllocationHistoryTests
{
    private static readonly IovaPages[] Covered = [new(10_000, 1000), new(50_000, 1000)];

    [Fact]
    public void BeforeAnythingIsKnownMostRoomIsBelow()
    {
        Headroom room = new AllocationHistory().Want(0);
        Assert.Equal(AllocationHistory.First, room.Below + room.Above);
        Assert.Equal(3 * room.Above, room.Below);
        Assert.Equal(16 * AllocationHistory.First, new AllocationHistory().Want(2) is var later ? later.Below + later.Above : 0);
    }

    [Theory]
    [InlineData(9_000UL, true)] // under the first range
    [InlineData(45_000UL, true)] // between, nearer to the one above
    [InlineData(11_100UL, false)] // between, nearer to the one below
    [InlineData(51_200UL, false)] // over the last
    public void RoomIsLeftWhereMappingsCame(ulong page, bool below)
    {
        var history = new AllocationHistory();
        for (int i = 0; i < 50; i++)
            history.Missed(new IovaPages(page, 4), Covered);
        Headroom room = history.Want(0);
        Assert.True(below ? room.Below > 20 * room.Above : room.Above > 20 * room.Below, room.ToString());
    }

    [Fact]
    public void RoomIsLeftForTwiceAsFarAsMappingsCame()
    {
        var history = new AllocationHistory();
        history.Missed(new IovaPages(5_000, 1), Covered);
        Headroom room = history.Want(0);
        Assert.Equal(10_000UL, room.Below + room.Above);

        // Another cluster altogether is no growth.
        history.Missed(new IovaPages(1UL << 40, 1), Covered);
        Assert.Equal(10_000UL, history.Want(0) is var same ? same.Below + same.Above : 0);
        history.Missed(new IovaPages(5, 1), []);
    }
}
