using Godwit.Memory;

namespace Godwit.Pci.Tests;

/// <summary>MSI: the capability's registers, what is sent, and what comes back after a migration.</summary>
public sealed class MsiTests
{
    [Theory]
    [InlineData(true, 14)]
    [InlineData(false, 10)]
    public void The_capability_has_the_registers_of_its_width(bool wide, int length)
    {
        var f = new TestFunction("f");
        var msi = new MsiMessages(f, 4, wide, 0x90);
        Assert.Same(msi, f.Msi);
        Assert.Equal(0x05u, f.ReadConfig(0x90, 1));
        Assert.Equal((2u << 1) | (wide ? 0x80u : 0), f.ReadConfig(0x92, 2));
        f.WriteConfig(0x92, 0xFFFF, 2);
        Assert.Equal((2u << 1) | 0x71u | (wide ? 0x80u : 0), f.ReadConfig(0x92, 2));
        for (int at = 0x94; at < 0x90 + 16; at += 4)
            f.WriteConfig(at, uint.MaxValue, 4);
        Assert.Equal(0xFFFF_FFFCu, f.ReadConfig(0x94, 4));
        Assert.Equal(0xFFFFu, f.ReadConfig(0x90 + length - 2, 2));
        Assert.Equal(wide ? uint.MaxValue : 0xFFFFu, f.ReadConfig(0x98, 4));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(3)]
    [InlineData(64)]
    public void Other_numbers_of_vectors_are_refused(int vectors) =>
        Assert.Throws<ArgumentOutOfRangeException>(() => new MsiMessages(new TestFunction("f"), vectors, wide: true));

    [Fact]
    public void A_function_has_MSI_once()
    {
        var f = new TestFunction("f");
        _ = new MsiMessages(f, 1, wide: false);
        Assert.Throws<InvalidOperationException>(() => new MsiMessages(f, 1, wide: false));
    }

    [Theory]
    [InlineData(0, 1, 3, 0x1238)] // one vector: all share it
    [InlineData(1, 2, 3, 0x1239)]
    [InlineData(2, 4, 3, 0x123B)]
    [InlineData(7, 4, 2, 0x123A)] // a reserved encoding counts as all
    public void The_low_bits_of_the_data_are_the_vector(int enable, int enabled, int vector, uint data)
    {
        var board = new Board();
        (TestFunction f, MsiMessages msi, Registers sink) = Plug(board, 4);
        msi.Raise(vector);
        Assert.Empty(sink.Writes.Select(w => (uint)w.Value)); // off
        f.WriteConfig(0x92, 1u | ((uint)enable << 4), 2);
        Assert.Equal(enabled, msi.EnabledVectors);
        msi.Raise(vector);
        Assert.Equal([data], sink.Writes.Select(w => (uint)w.Value));
        f.WriteConfig(0x04, 0, 2); // no bus mastering
        msi.Raise(vector);
        Assert.Single(sink.Writes.Select(w => (uint)w.Value));
        Assert.Throws<ArgumentOutOfRangeException>(() => msi.Raise(4));
    }

    [Fact]
    public void Reset_turns_it_off_and_a_loaded_state_on()
    {
        var board = new Board();
        (TestFunction f, MsiMessages msi, Registers sink) = Plug(board, 4);
        f.WriteConfig(0x92, 1 | (1 << 4), 2);
        var state = new System.Buffers.ArrayBufferWriter<byte>();
        f.SaveState(state);
        f.Reset();
        Assert.Equal(0, msi.EnabledVectors);
        f.LoadState(state.WrittenSpan);
        Assert.Equal(2, msi.EnabledVectors);
        msi.Raise(1);
        Assert.Equal([0x1239u], sink.Writes.Select(w => (uint)w.Value));
    }

    private static (TestFunction Function, MsiMessages Msi, Registers Sink) Plug(Board board, int vectors)
    {
        var sink = new Registers();
        board.Topology.Add(board.Topology.SystemRoot, new BusAddress(0xFEE0_0000), new MmioRegion("messages", 0x1000, sink));
        var f = new TestFunction("f");
        var msi = new MsiMessages(f, vectors, wide: true, 0x90);
        board.Host.RootBus.Attach(f, new DevFn(1, 0));
        f.WriteConfig(0x04, 4, 2);
        f.WriteConfig(0x94, 0xFEE0_0000, 4);
        f.WriteConfig(0x9C, 0x1238, 2);
        return (f, msi, sink);
    }
}
