using System.Buffers;
using Godwit.Interop.Linux;
using Godwit.Memory;
using Godwit.Pci;
using Godwit.VfioUser;

namespace Godwit.Vfio.Tests;

/// <summary>
/// The real unit, the real shadow of a function and a device: when a machine is loaded, the device has every mapping of the guest's, acknowledged by
/// the back end, before it leaves RESUMING, or the load fails.
/// </summary>
public sealed class UnitLoadTests
{
    private const int Pages = 300;
    private const ulong FirstTarget = UnitBoard.RamBase + 0x10_0000;

    [Fact]
    public void TheLastMapIsInTheDeviceBeforeItLeavesResuming()
    {
        using UnitBoard source = Source();
        using var board = new UnitBoard();
        source.CopyRamTo(board);
        var device = new DmaTestDevice();
        ulong written = ulong.MaxValue;
        device.OnTransition = (from, to) =>
        {
            // In the device's own process, while it is asked to leave: it reaches the first and the last page that the guest has mapped.
            if (from == DeviceMigrationState.Resuming)
                written = Dma(device, 0) + Dma(device, Pages - 1) + (Dma(device, Pages) << 8);
            return Errno.None;
        };
        using var server = new DeviceServer(device);
        using VfioPciFunction function = VfioPciFunction.Connect(
            new VfioDeviceOptions { Id = "dev0", Socket = server.Path, ReplyTimeout = DeviceServer.Patience }, board.Topology, board.Ram);
        board.Bus.RootBus.Attach(function, new DevFn(3, 0));
        function.BeginLoad();
        function.WriteState(new byte[0x28]);
        board.Unit.LoadState(Save(source));
        Assert.Equal((ulong)Pages, (ulong)function.Statistics.MappingsLive);
        Assert.Equal(ulong.MaxValue, written);
        function.EndLoad();
        Assert.Equal(2ul, written); // and not the one behind
        Assert.Equal("stop", function.StateName);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void AMapThatIsRefusedAtTheLoadFailsIt(bool limit)
    {
        using UnitBoard source = Source();
        using var board = new UnitBoard();
        source.CopyRamTo(board);
        var device = new SeamBackend(limit ? new ModelDeviceTraits { MaxMappings = Pages - 1 } : null);
        if (!limit)
            device.Model.RefuseMap = iova => iova.First == Pages - 1 ? Errno.ENOMEM : Errno.None;
        using VfioPciFunction function = VfioPciFunction.Create(
            new VfioDeviceOptions { Id = "dev0", Socket = "seam" }, device, null, board.Topology, board.Ram);
        board.Bus.RootBus.Attach(function, new DevFn(3, 0));
        function.BeginLoad();
        function.WriteState(new byte[3]);
        board.Unit.LoadState(Save(source));
        IOException refusal = Assert.ThrowsAny<IOException>(function.EndLoad);
        Assert.Contains(limit ? $"takes at most {Pages - 1} DMA mappings" : "refused to map the guest's", refusal.Message, StringComparison.Ordinal);
        Assert.Equal("resuming", function.StateName); // it never left

        // What is no refusal does not fail a load: the same without the page.
        source.Write(UnitBoard.Leaves + ((Pages - 1) * 8), 0x8000_0000 | 3); // no RAM there
        source.CopyRamTo(board);
        board.Unit.LoadState(Save(source));
        function.EndLoad();
        Assert.Equal("stop", function.StateName);
    }

    /// <summary>
    /// Loaded ahead, and then the guest has exchanged all its mappings for others, at lower addresses: together they are twice what the device takes, and
    /// it has all of the second when that is loaded.
    /// </summary>
    [Fact]
    public void ALoadThatExchangesAllMappingsMayPassTheLimitOnTheWay()
    {
        const int Half = 250;
        using UnitBoard before = Source(256, Half);
        using UnitBoard after = Source(0, Half);
        using var board = new UnitBoard();
        var device = new SeamBackend(new ModelDeviceTraits { MaxMappings = Half });
        using VfioPciFunction function = VfioPciFunction.Create(
            new VfioDeviceOptions { Id = "dev0", Socket = "seam" }, device, null, board.Topology, board.Ram);
        board.Bus.RootBus.Attach(function, new DevFn(3, 0));
        function.BeginLoad();
        function.WriteState(new byte[3]);
        foreach (UnitBoard source in new[] { before, after })
        {
            source.CopyRamTo(board);
            board.Unit.LoadState(Save(source));
            Assert.Equal((Half, 0L), (function.Statistics.MappingsLive, function.Statistics.NotInstalled));
            Assert.All(device.Model.Mappings, mapping => Assert.Equal(source == before, mapping.Iova.First >= 256));
        }

        function.EndLoad();
        Assert.Equal("stop", function.StateName);
    }

    /// <summary>A guest with a mapping more than its device takes is told to be in the way before a migration starts, and no longer than it is.</summary>
    [Fact]
    public void AMappingThatTheSourcesDeviceDoesNotHaveIsABlocker()
    {
        using var board = new UnitBoard();
        var device = new SeamBackend(new ModelDeviceTraits { MaxMappings = 9 });
        using VfioPciFunction function = VfioPciFunction.Create(
            new VfioDeviceOptions { Id = "dev0", Socket = "seam" }, device, null, board.Topology, board.Ram);
        board.Bus.RootBus.Attach(function, new DevFn(3, 0));
        board.BuildTables();
        for (ulong page = 0; page < 10; page++)
            board.Map(page, FirstTarget + ((page * 7 % 10) << RamPage.Shift));
        board.SwitchOn();
        var blocker = Assert.IsType<MappingsRefusedBlocker>(Assert.Single(function.QueryBlockers(1)));
        Assert.Equal((9, 1L), (blocker.Limit, blocker.Refused));
        Assert.Contains("takes 9 DMA mappings, has not taken 1 of those", blocker.ToString(), StringComparison.Ordinal);

        board.Write(UnitBoard.Leaves, 0);
        board.Register(0xF8, (1UL << 63) | (1UL << 60)); // everything
        Assert.Empty(function.QueryBlockers(1));
        Assert.Equal((9L, 0L), (function.Statistics.MappingsLive, function.Statistics.NotInstalled));
    }

    private static UnitBoard Source(ulong first = 0, ulong pages = Pages)
    {
        var source = new UnitBoard();
        source.BuildTables();
        for (ulong page = 0; page < pages; page++)
            source.Map(first + page, FirstTarget + ((page * 7 % pages) << RamPage.Shift)); // no two that continue each other
        source.SwitchOn();
        return source;
    }

    private static ulong Dma(DmaTestDevice device, ulong page)
    {
        device.WriteRegion(PciRegion.Bar0, DmaTestDevice.AddressRegister, BitConverter.GetBytes(page << RamPage.Shift));
        device.WriteRegion(PciRegion.Bar0, DmaTestDevice.DoorbellRegister, [1]);
        Span<byte> done = stackalloc byte[8];
        device.ReadRegion(PciRegion.Bar0, DmaTestDevice.DoorbellRegister, done);
        return done[0];
    }

    private static byte[] Save(UnitBoard board)
    {
        var state = new ArrayBufferWriter<byte>();
        board.Unit.SaveState(state);
        return state.WrittenSpan.ToArray();
    }
}
