using Godwit.Memory;

namespace Godwit.Pci.Tests;

public class BarTests
{
    private const uint MemorySpace = 2;

    [Fact]
    public void BarsSizeByAllOnes()
    {
        var board = new Board();
        board.Host.RootBus.Attach(new TestFunction("f"), new DevFn(3, 0));
        BusAddress bar0 = Board.Register(0, 3, 0, 0x10);
        BusAddress bar2 = Board.Register(0, 3, 0, 0x18);
        board.Write(bar0, uint.MaxValue);
        Assert.Equal(0xFFFF_F000u, board.Read(bar0));
        board.Write(bar2, uint.MaxValue);
        board.Write(bar2 + 4, uint.MaxValue);
        Assert.Equal(0x0000_000Cu, board.Read(bar2)); // 64-bit, prefetchable, 8 GiB
        Assert.Equal(0xFFFF_FFFEu, board.Read(bar2 + 4));
        Assert.Equal(0u, board.Read(Board.Register(0, 3, 0, 0x14))); // no such BAR
    }

    [Fact]
    public void ARegionAppearsMovesAndGoesWithTheRegisters()
    {
        var board = new Board();
        var function = new TestFunction("f");
        board.Host.RootBus.Attach(function, new DevFn(3, 0));
        BusAddress command = Board.Register(0, 3, 0, 4);
        BusAddress bar0 = Board.Register(0, 3, 0, 0x10);

        board.Write(bar0, 0xE000_0000);
        Assert.Null(board.At(0xE000_0000));
        board.Write(command, MemorySpace, 2);
        Assert.Same(function.Bar32, board.At(0xE000_0000));
        board.Write(new BusAddress(0xE000_0FFC), 7);
        Assert.Equal((0xFFCul, 7ul, null), Assert.Single(function.Registers.Writes));

        board.Write(bar0, 0xE100_0000);
        Assert.Null(board.At(0xE000_0000));
        Assert.Same(function.Bar32, board.At(0xE100_0000));

        board.Write(bar0, uint.MaxValue); // sizing with Memory Space on
        Assert.Null(board.At(0xFFFF_F000));
        board.Write(bar0, 0);
        Assert.Null(board.At(0));

        board.Write(Board.Register(0, 3, 0, 0x1C), 0x10);
        Assert.Same(function.Bar64, board.At(0x10_0000_0000));
        Assert.Same(function.Bar64, board.At(0x11_FFFF_FFFF));
        board.Write(command, 0, 2);
        Assert.Null(board.At(0x10_0000_0000));
    }

    [Fact]
    public void ABarCannotHideRamOrEcam()
    {
        var board = new Board();
        using var ram = new GuestRam();
        var region = new RamRegion("ram", ram.Add("ram", 2 << 20));
        board.Topology.Add(board.Topology.SystemRoot, default, region);
        var function = new TestFunction("f");
        board.Host.RootBus.Attach(function, new DevFn(3, 0));
        board.Write(Board.Register(0, 3, 0, 4), MemorySpace, 2);
        board.Write(Board.Register(0, 3, 0, 0x10), 0x1000);
        Assert.Same(region, board.At(0x1000));
        board.Write(Board.Register(0, 3, 0, 0x10), (uint)Board.Ecam.Value);
        Assert.NotSame(function.Bar32, board.At(Board.Ecam.Value));
    }

    [Fact]
    public void ImpossibleBarsAreRefused()
    {
        var function = new TestFunction("f", withBars: false);
        Assert.Throws<ArgumentException>(() => function.DeclareBar(0, BarKind.Memory32, new MmioRegion("r", 0x1800, new Registers())));
        Assert.Throws<ArgumentException>(() => function.DeclareBar(0, BarKind.Memory32, new MmioRegion("r", 8, new Registers())));
        Assert.Throws<ArgumentException>(() => function.DeclareBar(0, BarKind.Memory32, new MmioRegion("r", 1UL << 32, new Registers())));
        Assert.Throws<ArgumentException>(() => function.DeclareBar(5, BarKind.Memory64, new MmioRegion("r", 4096, new Registers())));
        function.DeclareBar(0, BarKind.Memory64, new MmioRegion("r", 4096, new Registers()));
        Assert.Throws<ArgumentException>(() => function.DeclareBar(1, BarKind.Memory32, new MmioRegion("r", 4096, new Registers())));
    }

    [Fact]
    public void AnyConfigurationWritesNeverThrow()
    {
        for (int seed = 1; seed <= 20; seed++)
        {
            var random = new Random(seed);
            var board = new Board();
            var function = new TestFunction("f", vectors: 3);
            board.Host.RootBus.Attach(function, new DevFn(3, 0));
            var port = new PciBridge("port", conventionalSecondary: false);
            board.Host.RootBus.Attach(port, new DevFn(4, 0));
            var below = new TestFunction("below");
            port.Secondary.Attach(below, default);
            for (int step = 0; step < 1000; step++)
            {
                int size = 1 << random.Next(3);
                int offset = random.Next(random.Next(8) == 0 ? 4096 : 0x80) / size * size;
                try
                {
                    board.Write(Board.Register(random.Next(4) == 0 ? random.Next(256) : random.Next(2), random.Next(3) == 0 ? 0 : 2 + random.Next(4), 0, offset),
                        random.Next(3) == 0 ? uint.MaxValue : (uint)random.NextInt64(), size);
                }
                catch (Exception exception)
                {
                    throw new InvalidOperationException($"seed {seed} step {step}", exception);
                }
            }

            // Whatever happened: where the view shows the BAR is where the registers say.
            bool decoding = (function.ReadConfig(4, 2) & MemorySpace) != 0;
            uint bar = function.ReadConfig(0x10, 4) & ~0xFu;
            FlatRange[] shown = [.. board.Topology.System.View.Ranges.Where(range => range.Region == function.Bar32)];
            if (!decoding || bar == 0 || bar == 0xFFFF_F000)
                Assert.Empty(shown);
            else
                Assert.All(shown, range => Assert.Equal(bar, range.Range.First.Value - range.OffsetInRegion));
        }
    }
}
