using Godwit.Memory;

namespace Godwit.Pci.Tests;

public class BridgeTests
{
    [Fact]
    public void RequestsAreRoutedByTheNumbersOfTheMoment()
    {
        var board = new Board();
        var port = new PciBridge("port", conventionalSecondary: false);
        board.Host.RootBus.Attach(port, new DevFn(2, 0));
        var function = new TestFunction("f");
        port.Secondary.Attach(function, default);

        Assert.Equal(uint.MaxValue, board.Read(Board.Register(1, 0, 0, 0)));
        Assert.Equal(new RequesterId(0, default), function.RequesterId);
        board.Number(port, 0, 1, 1);
        Assert.Equal(0x1234_1AF4u, board.Read(Board.Register(1, 0, 0, 0)));
        Assert.Equal(new RequesterId(1, default), function.RequesterId);
        board.Number(port, 0, 0x20, 0x2F);
        Assert.Equal(uint.MaxValue, board.Read(Board.Register(1, 0, 0, 0)));
        Assert.Equal(0x1234_1AF4u, board.Read(Board.Register(0x20, 0, 0, 0)));
        Assert.Equal(new RequesterId(0x20, default), function.RequesterId);
        Assert.Equal(0x20, port.Secondary.Number);
    }

    [Fact]
    public void ConventionalBridgesLendTheirId()
    {
        var board = new Board();
        var iommu = new TestIommu(board.Topology);
        board.Host.RootBus.SetIommu(iommu);
        var toPci = new PciBridge("to-pci", conventionalSecondary: true);
        board.Host.RootBus.Attach(toPci, new DevFn(5, 0));
        var first = new TestFunction("first");
        var second = new TestFunction("second");
        toPci.Secondary.Attach(first, new DevFn(1, 0));
        toPci.Secondary.Attach(second, new DevFn(2, 3));
        var inner = new PciBridge("inner", PciBridgeKind.Conventional);
        toPci.Secondary.Attach(inner, new DevFn(4, 0));
        var deep = new TestFunction("deep");
        inner.Secondary.Attach(deep, new DevFn(9, 0));
        board.Number(toPci, 0, 7, 8);
        board.Number(inner, 7, 8, 8);

        // An Express-to-PCI bridge: secondary bus, devfn 0, also for what is further below.
        Assert.All(new[] { first, second, deep }, function => Assert.Equal(new RequesterId(7, default), function.RequesterId));
        Assert.Same(first.DmaSpace, second.DmaSpace);
        Assert.Same(first.DmaSpace, deep.DmaSpace);
        Assert.Equal((toPci.Secondary, default(DevFn)), Assert.Single(iommu.Spaces.Keys));
        // The bridge itself lives on the root bus and is itself.
        Assert.Equal(new RequesterId(0, new DevFn(5, 0)), toPci.RequesterId);
        Assert.NotSame(toPci.DmaSpace, first.DmaSpace);
        board.Number(toPci, 0, 0x31, 0x40);
        Assert.Equal(new RequesterId(0x31, default), deep.RequesterId);
    }

    [Fact]
    public void APlainConventionalBridgeAliasesToItself()
    {
        var board = new Board();
        var toPci = new PciBridge("to-pci", conventionalSecondary: true);
        board.Host.RootBus.Attach(toPci, new DevFn(5, 0));
        var inner = new PciBridge("inner", PciBridgeKind.Conventional);
        toPci.Secondary.Attach(inner, new DevFn(4, 0));
        var deep = new TestFunction("deep");
        inner.Secondary.Attach(deep, new DevFn(9, 0));
        // With the IOMMU on the bus between, the outer bridge has no say.
        var iommu = new TestIommu(board.Topology);
        toPci.Secondary.SetIommu(iommu);
        _ = deep.DmaSpace;
        Assert.Equal((toPci.Secondary, new DevFn(4, 0)), Assert.Single(iommu.Spaces.Keys));
    }

    [Fact]
    public void AnIommuIsFoundByWalkingUpAndABypassRootHasNone()
    {
        var board = new Board();
        var iommu = new TestIommu(board.Topology);
        PciBus bypass = board.Host.AddRootBus(0x80, bypassIommu: true);
        board.Host.RootBus.SetIommu(iommu);
        bypass.SetIommu(iommu);
        var port = new PciBridge("port", conventionalSecondary: false);
        board.Host.RootBus.Attach(port, new DevFn(2, 0));
        var translated = new TestFunction("translated");
        port.Secondary.Attach(translated, default);
        var skipping = new TestFunction("skipping");
        bypass.Attach(skipping, new DevFn(1, 0));

        Assert.Equal(new IommuAttributes(true, new Iova((1UL << 39) - 1)), translated.IommuAttributes);
        Assert.Same(iommu.Spaces.Values.SingleOrDefault(), null);
        Assert.Same(translated.DmaSpace, iommu.Spaces[(port.Secondary, default)]);
        Assert.Null(skipping.IommuAttributes);
        Assert.Same(board.Topology.System, skipping.DmaSpace);
        Assert.Equal(new RequesterId(0x80, new DevFn(1, 0)), skipping.RequesterId);
        Assert.Equal(0x1234_1AF4u, board.Read(Board.Register(0x80, 1, 0, 0)));
        Assert.Throws<InvalidOperationException>(() => port.Secondary.SetIommu(iommu));
    }

    [Fact]
    public void DmaNeedsBusMaster()
    {
        var board = new Board();
        using var ram = new GuestRam();
        board.Topology.Add(board.Topology.SystemRoot, default, new RamRegion("ram", ram.Add("ram", 2 << 20)));
        var function = new TestFunction("f");
        board.Host.RootBus.Attach(function, new DevFn(3, 0));
        AddressSpace space = function.BusMasterSpace;
        var attributes = new TransactionAttributes(DirtySource.Device, function.RequesterId.Value);
        Assert.Equal(MemoryResult.DecodeError, space.Write(default, new byte[4], attributes));
        function.WriteConfig(4, 4, 2);
        Assert.Equal(MemoryResult.Ok, space.Write(default, new byte[4], attributes));
        Assert.True(space.IsSystemMemory);
        Assert.Same(space, function.BusMasterSpace);
        function.WriteConfig(4, 0, 2);
        Assert.Equal(MemoryResult.DecodeError, space.Write(default, new byte[4], attributes));
    }

    [Fact]
    public void DmaDoesNotReachConfigurationSpace()
    {
        var board = new Board();
        var function = new TestFunction("f");
        board.Host.RootBus.Attach(function, new DevFn(3, 0));
        function.WriteConfig(4, 4, 2);
        var attributes = new TransactionAttributes(DirtySource.Device, function.RequesterId.Value);
        byte[] data = new byte[4];
        Assert.Equal(MemoryResult.Ok, function.BusMasterSpace.Read(Board.Register(0, 3, 0, 0), data, attributes));
        Assert.Equal(new byte[] { 255, 255, 255, 255 }, data);
        function.BusMasterSpace.Write(Board.Register(0, 3, 0, 0x10), data, attributes);
        Assert.Equal(0u, function.ReadConfig(0x10, 4));
    }

    [Fact]
    public void ASecondaryResetResetsWhatIsBelow()
    {
        var board = new Board();
        var port = new PciBridge("port", conventionalSecondary: false);
        board.Host.RootBus.Attach(port, new DevFn(2, 0));
        var function = new TestFunction("f");
        port.Secondary.Attach(function, default);
        board.Number(port, 0, 1, 1);
        function.WriteConfig(0x10, 0xE000_0000, 4);
        function.WriteConfig(4, 6, 2);
        Assert.Same(function.Bar32, board.At(0xE000_0000));
        port.WriteConfig(0x3E, 1 << 6, 2);
        Assert.Null(board.At(0xE000_0000));
        Assert.Equal(0u, function.ReadConfig(4, 2));
        Assert.Equal(1, port.SecondaryNumber);
    }

    [Fact]
    public void BridgeRegistersReadAndWrite()
    {
        var board = new Board();
        var port = new PciBridge("port", conventionalSecondary: false);
        board.Host.RootBus.Attach(port, new DevFn(2, 0));
        port.WriteConfig(0x20, 0xE0F0_E005, 4);
        Assert.Equal(0xE0F0_E000u, port.ReadConfig(0x20, 4));
        port.WriteConfig(0x24, 0x0000_FFFF, 4);
        Assert.Equal(0x0001_FFF1u, port.ReadConfig(0x24, 4));
        port.WriteConfig(0x28, 3, 4);
        port.WriteConfig(0x2C, 4, 4);
        PciBridgeInfo info = board.Host.Describe()[0].Functions.Single(function => function.Name == "port").Bridge!;
        Assert.Equal(new BusRange(new BusAddress(0xE000_0000), new BusAddress(0xE0FF_FFFF)), info.Memory);
        Assert.Equal(new BusRange(new BusAddress(0x3_FFF0_0000), new BusAddress(0x4_000F_FFFF)), info.Prefetchable);
        port.WriteConfig(0x20, 0x0000_FFF0, 4);
        Assert.Null(board.Host.Describe()[0].Functions.Single(function => function.Name == "port").Bridge!.Memory);
    }

    [Fact]
    public void WrongPlacesAreRefused()
    {
        var board = new Board();
        var port = new PciBridge("port", conventionalSecondary: false);
        Assert.Throws<InvalidOperationException>(() => port.Secondary.Attach(new TestFunction("early"), default));
        board.Host.RootBus.Attach(port, new DevFn(2, 0));
        Assert.Throws<ArgumentException>(() => board.Host.RootBus.Attach(new TestFunction("same"), new DevFn(2, 0)));
        Assert.Throws<ArgumentException>(() => port.Secondary.Attach(new TestFunction("second"), new DevFn(1, 0)));
        Assert.Throws<ArgumentException>(() => board.Host.RootBus.Attach(new PciBridge("pci", PciBridgeKind.Conventional), new DevFn(6, 0)));
        var function = new TestFunction("f");
        port.Secondary.Attach(function, default);
        Assert.Throws<InvalidOperationException>(() => board.Host.RootBus.Attach(function, new DevFn(7, 0)));
        Assert.Throws<InvalidOperationException>(() => new TestFunction("loose").RequesterId);
        Assert.Throws<ArgumentOutOfRangeException>(() => new DevFn(32, 0));
    }

    [Theory]
    [InlineData(0, 3)]
    [InlineData(3, 0)]
    public void ADeviceWithSeveralFunctionsSaysSo(int first, int second)
    {
        var board = new Board();
        board.Host.RootBus.Attach(new TestFunction("a"), new DevFn(6, first));
        Assert.Equal(first == 0 ? 0u : uint.MaxValue, board.Read(Board.Register(0, 6, 0, 0x0C)) >> (first == 0 ? 16 : 0));
        board.Host.RootBus.Attach(new TestFunction("b"), new DevFn(6, second));
        Assert.Equal(0x80u, board.Read(Board.Register(0, 6, 0, 0x0E), 1));
        board.Host.Find(new RequesterId(0, new DevFn(6, 0)))!.Reset();
        Assert.Equal(0x80u, board.Read(Board.Register(0, 6, 0, 0x0E), 1));
    }

    [Fact]
    public void TheDescriptionFollowsThePlaces()
    {
        var board = new Board();
        var port = new PciBridge("port", conventionalSecondary: false);
        board.Host.RootBus.Attach(port, new DevFn(2, 0));
        port.Secondary.Attach(new TestFunction("f", vectors: 5), default);
        board.Number(port, 0, 9, 9);
        PciBusInfo root = Assert.Single(board.Host.Describe());
        Assert.Equal("host-bridge port", string.Join(" ", root.Functions.Select(function => function.Name)));
        PciFunctionInfo below = Assert.Single(root.Functions[1].Bridge!.Below.Functions);
        Assert.Equal(("00/02.0/00.0", (byte)9, 0x010802u, 5), (below.Path, below.Bus, below.ClassCode, below.MsixVectors));
        Assert.Equal([(0, 0x1000ul), (2, 1ul << 33)], below.Bars.Select(bar => (bar.Index, bar.Size)));
        Assert.Equal("host-bridge port f", string.Join(" ", board.Host.AllFunctions().Select(function => function.Name)));
    }
}
