using Godwit.Memory;
using Godwit.Migration;
using Godwit.Pci;
using Godwit.VfioUser;

namespace Godwit.Vfio.Tests;

/// <summary>The function over a device whose limits the test chooses.</summary>
public sealed class SeamFunctionTests
{
    [Fact]
    public void FewerMappingsThanRamNeedsIsABlockerWhileItIsSo()
    {
        using var board = new ModelBoard();
        using VfioPciFunction function = Plug(board, new SeamBackend(new ModelDeviceTraits { MaxMappings = 3 }));
        Assert.Empty(function.QueryBlockers(1));
        var extra = new RamRegion("extra", board.Low);
        board.Topology.Add(board.Topology.SystemRoot, new BusAddress(0x4000_0000), extra);
        var blocker = Assert.IsType<MappingLimitBlocker>(Assert.Single(function.QueryBlockers(1)));
        Assert.Equal((3, 4), (blocker.Limit, blocker.Needed));
        Assert.Contains("takes 3 DMA mappings, and guest RAM alone needs 4", blocker.ToString(), StringComparison.Ordinal);
        board.Topology.Remove(extra);
        Assert.Empty(function.QueryBlockers(1));
    }

    [Fact]
    public void ADeviceThatRefusesToLogAllOfRamIsABlockerFromTheStart()
    {
        using var board = new ModelBoard();
        using VfioPciFunction function = Plug(board, new SeamBackend(new ModelDeviceTraits { LongestRange = 100 }));
        MigrationBlocker blocker = Assert.Single(function.QueryBlockers(1));
        Assert.IsType<DirtyLoggingRefusedBlocker>(blocker);
        Assert.Contains("refused to log its DMA over guest RAM: ENOTSUP", blocker.ToString(), StringComparison.Ordinal);
    }

    [Fact]
    public void ADeviceThatCannotBeRecoveredIsABlockerUntilItIsReset()
    {
        using var board = new ModelBoard();
        var migration = new ScriptedMigration(MigrationSupport.StopCopy)
        {
            FailingSets = [0],
            FailureLeaves = DeviceMigrationState.Error,
            ResetFails = true,
        };
        using VfioPciFunction function = Plug(board, new SeamBackend(migration: migration));
        List<string> notices = [];
        function.Notice += notices.Add;
        function.BeginSave();
        Assert.Throws<MigrationPhaseException>(function.StopAndCopy);
        Assert.IsType<DeviceInErrorBlocker>(Assert.Single(function.QueryBlockers(1)));
        Assert.Contains("cannot be used any more", Assert.Single(notices), StringComparison.Ordinal);
        migration.ResetFails = false;
        function.Recover();
        Assert.Empty(function.QueryBlockers(1));
        Assert.Equal("running", function.StateName);
    }

    [Theory]
    [InlineData(false, "posted")]
    [InlineData(true, "waited for")]
    public void WritesArePostedUnlessARegionCouldBeMapped(bool mappable, string how)
    {
        using var board = new ModelBoard();
        var device = new SeamBackend { Mappable = mappable };
        using VfioPciFunction function = Plug(board, device);
        function.WriteConfig(0x10, 0x8000_0000, 4);
        function.WriteConfig(0x04, 2, 2);
        foreach (int size in (int[])[1, 2, 4, 8])
            Assert.Equal(MemoryResult.Ok, board.Topology.System.Write(new BusAddress(0x8000_0000), new byte[size], TransactionAttributes.Vcpu));
        Assert.Equal(
            ["1 bytes at 0 waited for", "2 bytes at 0 waited for", $"4 bytes at 0 {how}", $"8 bytes at 0 {how}"],
            device.Accesses);
    }

    [Fact]
    public void ADeviceThatIsCutOffIsLost()
    {
        using var board = new ModelBoard();
        var device = new SeamBackend();
        using VfioPciFunction function = Plug(board, device);
        device.Model.RefuseUnmap = _ => Interop.Linux.Errno.EBUSY;
        board.Topology.Add(board.Topology.SystemRoot, new BusAddress(ModelBoard.LowGpa << 12), new MmioRegion("hole", 0x1000, new Nothing()), 5);
        Assert.True(((IAsyncResult)function.Lost).AsyncWaitHandle.WaitOne(DeviceServer.Patience));
        Assert.Contains("did not let go", Assert.IsType<DeviceLostBlocker>(Assert.Single(function.QueryBlockers(1))).Cause, StringComparison.Ordinal);
        Assert.Equal(0, function.Statistics.MappingsLive);
    }

    [Fact]
    public void ADeviceThatFailsToAttachIsReleased()
    {
        using var board = new ModelBoard();
        var device = new SeamBackend();
        device.Model.Gone = true;
        using VfioPciFunction function = Plug(board, device); // dies between connecting and plugging: the machine is built all the same
        Assert.Equal(0, function.Statistics.MappingsLive);
        function.Dispose();
        Assert.True(device.Disposed);
    }

    /// <summary>Plugged without a vIOMMU: IOVA is GPA.</summary>
    private static VfioPciFunction Plug(ModelBoard board, SeamBackend device)
    {
        var bridge = new PciHostBridge(board.Topology, new Gpa(0xB000_0000), 16);
        VfioPciFunction function = VfioPciFunction.Create(new VfioDeviceOptions { Id = "dev0", Socket = "seam" }, device, null, board.Topology, board.Ram);
        bridge.RootBus.Attach(function, new DevFn(3, 0));
        return function;
    }

    private sealed class Nothing : IMmioHandler
    {
        public ulong Read(ulong offset, int size, in TransactionAttributes attributes) => 0;

        public void Write(ulong offset, ulong value, int size, in TransactionAttributes attributes)
        {
        }
    }
}
