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

    private static UnitBoard Source()
    {
        var source = new UnitBoard();
        source.BuildTables();
        for (ulong page = 0; page < Pages; page++)
            source.Map(page, FirstTarget + ((page * 7 % Pages) << RamPage.Shift)); // no two that continue each other
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
