using System.Buffers.Binary;
using Godwit.Memory;

namespace Godwit.Pci.Tests;

public class MsixTests
{
    private const int Control = 2;
    private readonly Board _board = new();
    private readonly Registers _sink = new();
    private readonly TestFunction _function = new("f", vectors: 70);
    private readonly MsixTable _msix;
    private readonly int _capability;

    public MsixTests()
    {
        _board.Topology.Add(_board.Topology.SystemRoot, new BusAddress(0xFEE0_0000), new MmioRegion("sink", 1 << 20, _sink));
        _msix = _function.Table!;
        // The table is not in a BAR here; the guest reaches it at an address of the test's.
        _board.Topology.Add(_board.Topology.SystemRoot, new BusAddress(0xE000_0000), _msix.TableRegion);
        _board.Topology.Add(_board.Topology.SystemRoot, new BusAddress(0xE001_0000), _msix.PendingRegion);
        _board.Host.RootBus.Attach(_function, new DevFn(3, 0));
        _capability = _function.Config.FindCapability(0x11)!.Value;
        _function.WriteConfig(4, 4, 2);
    }

    [Fact]
    public void TheCapabilityTellsWhereAndHowMany()
    {
        Assert.Equal(69u, _function.ReadConfig(_capability + Control, 2));
        Assert.Equal(0x800u, _function.ReadConfig(_capability + 4, 4));
        Assert.Equal(0xC00u, _function.ReadConfig(_capability + 8, 4));
        _function.WriteConfig(_capability + Control, 0xFFFF, 2);
        Assert.Equal(0xC000u | 69u, _function.ReadConfig(_capability + Control, 2));
    }

    [Fact]
    public void AnUnmaskedVectorSendsItsMessageWithTheRequesterId()
    {
        Enable();
        Program(5, 0xFEE0_1004, 0x4031);
        _msix.Raise(5);
        Assert.Equal((0x1004ul, 0x4031ul, (ushort?)_function.RequesterId.Value), Assert.Single(_sink.Writes));
    }

    [Theory]
    [InlineData("vector")]
    [InlineData("function")]
    [InlineData("off")]
    public void WhateverBlocksAMessageKeepsItPendingAndSendsItOnceAfterwards(string by)
    {
        Enable();
        Program(66, 0xFEE0_0000, 1);
        Block(by, true);
        _msix.Raise(66);
        _msix.Raise(66);
        Assert.Empty(_sink.Writes);
        Assert.True(_msix.IsPending(66));
        Assert.Equal(1u << 2, _board.Read(new BusAddress(0xE001_0008)));
        _board.Write(new BusAddress(0xE001_0008), uint.MaxValue); // read-only
        Block(by, false);
        Assert.Single(_sink.Writes);
        Assert.Equal(0u, _board.Read(new BusAddress(0xE001_0008)));
        _msix.Raise(66);
        Assert.Equal(2, _sink.Writes.Count);
    }

    [Fact]
    public void WithoutBusMasterMessagesAreLost()
    {
        Enable();
        Program(0, 0xFEE0_0000, 1);
        _function.WriteConfig(4, 0, 2);
        _msix.Raise(0);
        Assert.Empty(_sink.Writes);
    }

    [Fact]
    public void TheTableTakesDoubleAndQuadWordsAndKeepsReservedBitsZero()
    {
        Span<byte> quad = stackalloc byte[8];
        BinaryPrimitives.WriteUInt64LittleEndian(quad, ulong.MaxValue);
        Assert.Equal(MemoryResult.Ok, _board.Topology.System.Write(new BusAddress(0xE000_0010), quad, TransactionAttributes.Vcpu));
        Assert.Equal(0xFFFF_FFFCu, _board.Read(new BusAddress(0xE000_0010)));
        Assert.Equal(uint.MaxValue, _board.Read(new BusAddress(0xE000_0014)));
        _board.Write(new BusAddress(0xE000_001C), uint.MaxValue);
        Assert.Equal(1u, _board.Read(new BusAddress(0xE000_001C)));
        Assert.Equal(MemoryResult.AccessError, _board.Topology.System.Write(new BusAddress(0xE000_0010), quad[..2], TransactionAttributes.Vcpu));
        Assert.Throws<ArgumentOutOfRangeException>(() => _msix.Raise(70));
    }

    [Fact]
    public void TheFunctionIsToldOfMasksAndControl()
    {
        int before = _function.ControlChanges;
        Enable();
        Assert.Equal(before + 1, _function.ControlChanges);
        _function.VectorChanges.Clear();
        Program(7, 0xFEE0_0000, 1);
        Assert.Contains(7, _function.VectorChanges);
        Assert.False(_msix.IsMasked(7));
        Assert.True(_msix.IsMasked(8));
        _function.VectorChanges.Clear();
        Program(7, 0xFEE0_0000, 1); // nothing changes
        Assert.Empty(_function.VectorChanges);
    }

    /// <summary>Each message unmasks the next vector, whose pending message does the same: a guest can aim messages at the table.</summary>
    [Fact]
    public void MessagesThatUnmaskVectorsDoNotGrowTheStack()
    {
        var function = new TestFunction("loop", vectors: 2048);
        MsixTable msix = function.Table!;
        _board.Topology.Add(_board.Topology.SystemRoot, new BusAddress(0xE010_0000), msix.TableRegion);
        _board.Host.RootBus.Attach(function, new DevFn(4, 0));
        function.WriteConfig(4, 4, 2);
        function.WriteConfig(function.Config.FindCapability(0x11)!.Value + Control, 0x8000, 2);
        for (uint vector = 0; vector < 2048; vector++)
        {
            uint next = 0xE010_0000 + ((vector + 1) % 2048 * 16) + 12;
            _board.Write(new BusAddress(0xE010_0000 + (vector * 16)), next);
            msix.Raise((int)vector);
        }

        var thread = new Thread(() => _board.Write(new BusAddress(0xE010_000C), 0), maxStackSize: 256 * 1024);
        thread.Start();
        Assert.True(thread.Join(TimeSpan.FromSeconds(60)));
        Assert.All(Enumerable.Range(0, 2048), vector => Assert.False(msix.IsPending(vector)));
    }

    [Fact]
    public void ConcurrentRaisesAndMasksLoseNothing()
    {
        Enable();
        Program(1, 0xFEE0_0000, 1);
        using var ready = new Barrier(2);
        var raiser = new Thread(() =>
        {
            ready.SignalAndWait();
            for (int count = 0; count < 20_000; count++)
                _msix.Raise(1);
        });
        raiser.Start();
        ready.SignalAndWait();
        for (uint count = 0; count < 5_000; count++)
            _board.Write(new BusAddress(0xE000_001C), count & 1);
        Assert.True(raiser.Join(TimeSpan.FromSeconds(60)));
        _board.Write(new BusAddress(0xE000_001C), 0);
        Assert.False(_msix.IsPending(1));
        int before = _sink.Writes.Count;
        Assert.NotEqual(0, before);
        _msix.Raise(1);
        Assert.Equal(before + 1, _sink.Writes.Count);
    }

    private void Enable() => _function.WriteConfig(_capability + Control, 0x8000, 2);

    private void Program(uint vector, uint address, uint data)
    {
        var entry = new BusAddress(0xE000_0000 + (vector * 16));
        _board.Write(entry, address);
        _board.Write(entry + 4, 0);
        _board.Write(entry + 8, data);
        _board.Write(entry + 12, 0);
    }

    private void Block(string by, bool block)
    {
        switch (by)
        {
            case "vector":
                _board.Write(new BusAddress(0xE000_0000 + (66 * 16) + 12), block ? 1u : 0);
                break;
            case "function":
                _function.WriteConfig(_capability + Control, block ? 0xC000u : 0x8000, 2);
                break;
            default:
                _function.WriteConfig(_capability + Control, block ? 0u : 0x8000, 2);
                break;
        }
    }
}
