using System.Buffers;
using Godwit.Memory;

namespace Godwit.Pci.Tests;

public class StateTests
{
    [Fact]
    public void AFunctionComesBackWithItsBarsMastershipAndVectors()
    {
        (Board board, PciBridge port, TestFunction function) = Build();
        board.Number(port, 0, 4, 4);
        function.WriteConfig(0x10, 0xE000_0000, 4);
        function.WriteConfig(0x1C, 0x10, 4);
        function.WriteConfig(4, 6, 2);
        int capability = function.Config.FindCapability(0x11)!.Value;
        function.WriteConfig(capability + 2, 0xC000, 2);
        Write(board, function.Table!.TableRegion, 16, [0x00, 0x20, 0xE0, 0xFE, 0, 0, 0, 0, 0x33, 0, 0, 0, 0, 0, 0, 0]);
        function.Table.Raise(1);

        (Board board2, PciBridge port2, TestFunction function2) = Build();
        port2.LoadState(Save(port));
        function2.LoadState(Save(function));

        Assert.Equal(new RequesterId(4, default), function2.RequesterId);
        Assert.Same(function2.Bar32, board2.At(0xE000_0000));
        Assert.Same(function2.Bar64, board2.At(0x10_0000_0000));
        Assert.True(function2.BusMasterSpace.IsSystemMemory);
        Assert.True(function2.Table!.Enabled);
        Assert.True(function2.Table.IsPending(1));
        var sink = new Registers();
        board2.Topology.Add(board2.Topology.SystemRoot, new BusAddress(0xFEE0_0000), new MmioRegion("sink", 1 << 20, sink));
        function2.WriteConfig(capability + 2, 0x8000, 2);
        Assert.Equal((0x2000ul, 0x33ul, (ushort?)0x400), Assert.Single(sink.Writes));
        Assert.Equal(Save(function).Length, Save(function2).Length);
    }

    [Fact]
    public void AReadOnlyByteThatDiffersIsNamedAndNothingChanges()
    {
        (_, _, TestFunction function) = Build();
        (Board board2, _, TestFunction function2) = Build(device: 0x1299);
        function.WriteConfig(0x10, 0xE000_0000, 4);
        function.WriteConfig(4, 6, 2);
        PciStateException refusal = Assert.Throws<PciStateException>(() => function2.LoadState(Save(function)));
        Assert.Equal((0x02, (byte)0x34, (byte)0x99), (refusal.Offset!.Value, refusal.Incoming, refusal.Own));
        Assert.Contains("0x002", refusal.Message, StringComparison.Ordinal);
        Assert.Null(board2.At(0xE000_0000));
    }

    [Fact]
    public void EveryTruncationAndForeignShapeIsRefused()
    {
        (_, _, TestFunction function) = Build();
        byte[] state = Save(function);
        for (int length = 0; length < state.Length; length += length is > 16 and < 4000 ? 97 : 1)
            Assert.Throws<PciStateException>(() => function.LoadState(state.AsSpan(0, length)));
        Assert.Throws<PciStateException>(() => function.LoadState([.. state, 0]));
        Assert.Throws<PciStateException>(() => function.LoadState([2, .. state[1..]]));
        Assert.Throws<PciStateException>(() => function.LoadState([state[0], state[1], 1, .. state[3..]]));
        Assert.Throws<PciStateException>(() => new TestFunction("no msix").LoadState(state));
    }

    [Fact]
    public void RandomStateThatIsAcceptedNeverBreaksTheFunction()
    {
        for (int seed = 1; seed <= 30; seed++)
        {
            var random = new Random(seed);
            (Board board, _, TestFunction function) = Build();
            byte[] state = Save(function);
            for (int flip = 0; flip < 20; flip++)
                state[random.Next(8, state.Length)] ^= (byte)(1 << random.Next(8));
            try
            {
                function.LoadState(state);
            }
            catch (PciStateException)
            {
                continue;
            }

            Assert.True(board.Topology.System.View.Ranges.Length > 0, $"seed {seed}");
        }
    }

    private static (Board Board, PciBridge Port, TestFunction Function) Build(ushort device = 0x1234)
    {
        var board = new Board();
        var port = new PciBridge("port", conventionalSecondary: false);
        board.Host.RootBus.Attach(port, new DevFn(2, 0));
        var function = new TestFunction("f", vectors: 3, device);
        port.Secondary.Attach(function, default);
        return (board, port, function);
    }

    private static byte[] Save(PciFunction function)
    {
        var writer = new ArrayBufferWriter<byte>();
        function.SaveState(writer);
        return writer.WrittenSpan.ToArray();
    }

    private static void Write(Board board, MmioRegion region, uint offset, byte[] data)
    {
        AddressSpace space = board.Topology.CreateAddressSpace("table", region);
        for (int word = 0; word < data.Length; word += 4)
            Assert.Equal(MemoryResult.Ok, space.Write(new BusAddress(offset + (uint)word), data.AsSpan(word, 4), TransactionAttributes.Vcpu));
    }
}
