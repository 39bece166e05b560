using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Tests;

/// <summary>A board that is only RAM (and what a test adds): enough for programs that touch nothing else.</summary>
internal sealed class RamFixture : IDisposable
{
    public RamFixture(ulong bytes = 64 << 20)
    {
        Layout = BoardLayout.For(bytes);
        Block = Ram.Add("main", bytes);
        var region = new RamRegion("main", Block);
        using (Topology.Begin())
        {
            Topology.Add(Topology.SystemRoot, default, new AliasRegion("low", region, 0, Layout.LowRamSize), 100);
            Topology.Add(
                Topology.SystemRoot, BusAddress.FromGpa(BoardLayout.HighRamBase),
                new AliasRegion("high", region, Layout.LowRamSize, Layout.HighRamSize), 100);
        }

        Bus = new GuestBus(Topology.System, Ram, Block, Layout);
    }

    public BoardLayout Layout { get; }

    public GuestRam Ram { get; } = new();

    public RamBlock Block { get; }

    public MemoryTopology Topology { get; } = new();

    public GuestBus Bus { get; }

    public void Dispose() => Ram.Dispose();
}
