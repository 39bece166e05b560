namespace Godwit.VfioUser.Tests;

/// <summary>Messages of the hot paths allocate on neither side, which are both in this process here.</summary>
[Collection(nameof(Alone))]
public sealed class MessageAllocationTests
{
    private const int Messages = 2000;

    /// <summary>What the rest of the process may allocate meanwhile: far less than the smallest object for each message.</summary>
    private const long Noise = Messages * 4;

    private static readonly byte[] Word = new byte[4];
    private static readonly byte[] Large = new byte[0x3000];

    [Theory]
    [InlineData("read")]
    [InlineData("large read")]
    [InlineData("write")]
    [InlineData("posted write")]
    [InlineData("doorbell")]
    public void Region_accesses(string kind)
    {
        using var server = new TestServer(new TestDevice
        {
            Description = new DeviceDescription
            {
                Regions = new Dictionary<int, DeviceRegion> { [0] = new(0x4000, Doorbells: [new DoorbellRange(0x3800, 4)]) },
                Irqs = new Dictionary<int, int>(),
            },
        });
        using VfioUserClient client = server.Connect();
        if (kind == "doorbell")
            Assert.Equal(4, client.UseDoorbells(0, 0x4000));
        Action operation = kind switch
        {
            "read" => () => client.ReadRegion(0, 8, Word),
            "large read" => () => client.ReadRegion(0, 0, Large),
            "write" => () => client.WriteRegion(0, 8, Word, posted: false),
            "posted write" => () => client.WriteRegion(0, 8, Word, posted: true),
            _ => () => client.WriteRegion(0, 0x3800, Word, posted: true),
        };
        AllocatesNothing(operation, () => client.ReadRegion(0, 8, Word)); // the server has come so far
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Memory_by_message(bool write)
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect(out IDeviceHost host, new ArrayDma(0, 0x10000));
        client.DmaMap(new DmaRange(new DmaAddress(0), 0x10000), DmaAccess.Read | DmaAccess.Write, null, 0);
        Action operation = write
            ? () => Assert.True(host.Write(new DmaAddress(0x100), Word))
            : () => Assert.True(host.Read(new DmaAddress(0x100), Word));
        AllocatesNothing(operation, static () => { });
    }

    private static void AllocatesNothing(Action operation, Action settle)
    {
        long allocated = Allocations.OfProcess(Noise, () =>
        {
            for (int i = 0; i < Messages; i++)
                operation();
            settle();
        });
        Assert.True(allocated <= Noise, $"{Messages} operations have allocated {allocated} bytes");
    }
}
