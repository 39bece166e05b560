using Godwit.Iommu.Intel;
using Godwit.Machine.Guests;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Tests;

public sealed class InterruptWindowTests : IDisposable
{
    private readonly RamFixture _ram = new();
    private readonly ManagedVcpu[] _vcpus;
    private readonly InterruptWindow _window;

    public InterruptWindowTests()
    {
        // Stopped vCPUs: what is delivered stays in their request registers.
        _vcpus = [.. Enumerable.Range(0, 3).Select(i => new ManagedVcpu((byte)i, new IdleProgram(), _ram.Bus, TimeProvider.System, _ => { }))];
        _window = new InterruptWindow(_vcpus, remapper: null);
        _ram.Topology.Add(
            _ram.Topology.SystemRoot, BusAddress.FromGpa(BoardLayout.InterruptBase),
            new MmioRegion("msi", BoardLayout.InterruptSize, _window, new MmioAccessRules(4, 4, false)));
    }

    public void Dispose()
    {
        foreach (ManagedVcpu vcpu in _vcpus)
            vcpu.Dispose();
        _ram.Dispose();
    }

    [Theory]
    [InlineData(0xFEE0_0000u, 0x41u, new[] { 0 })]
    [InlineData(0xFEE0_1000u, 0xFFu, new[] { 1 })]
    [InlineData(0xFEE0_2000u, 0x10u, new[] { 2 })]
    [InlineData(0xFEE0_3000u, 0x41u, new int[0])] // nobody there
    [InlineData(0xFEEF_F000u, 0x41u, new[] { 0, 1, 2 })] // broadcast
    [InlineData(0xFEE0_0000u, 0x0Fu, new int[0])] // reserved vector
    [InlineData(0xFEE0_0000u, 0x441u, new int[0])] // delivery mode NMI
    [InlineData(0xFEE0_600Cu, 0x41u, new[] { 1, 2 })] // logical, fixed: both bits
    [InlineData(0xFEE0_600Cu, 0x141u, new[] { 1 })] // logical, lowest priority: one
    public void A_message_reaches_the_CPUs_it_names(uint address, uint data, int[] expected)
    {
        MemoryResult result = _ram.Topology.System.Write(
            new BusAddress(address), BitConverter.GetBytes(data), new TransactionAttributes(DirtySource.Device, 0x18));

        Assert.Equal(MemoryResult.Ok, result);
        int[] reached = [.. _vcpus.Where(v => v.Registers.AnyRequested).Select(v => (int)v.ApicId)];
        Assert.Equal(expected, reached);
        foreach (int i in expected)
        {
            Assert.True(_vcpus[i].Registers.TryTakeInterrupt(out byte vector));
            Assert.Equal((byte)data, vector);
            Assert.False(_vcpus[i].Registers.AnyRequested);
        }

        Assert.Equal(expected.Length == 0 ? 1 : 0, _window.Dropped);
    }

    [Fact]
    public void A_store_of_a_CPU_itself_is_no_message()
    {
        _ram.Bus.WriteMmio(BoardLayout.InterruptBase, 0x41, 4);
        Assert.All(_vcpus, v => Assert.False(v.Registers.AnyRequested));
    }

    [Theory]
    [InlineData(299u, false, true)]
    [InlineData(298u, false, false)]
    [InlineData(0x12_0800u, true, true)]  // logical: cluster 18, bit 11
    [InlineData(0x12_0400u, true, false)]
    [InlineData(uint.MaxValue, false, true)] // broadcast
    public void A_vCPU_beyond_255_is_reached_by_x2APIC_destinations(uint destination, bool logical, bool reached)
    {
        using var far = new ManagedVcpu(299, new IdleProgram(), _ram.Bus, TimeProvider.System, _ => { });
        IInterruptSink window = new InterruptWindow([far], remapper: null);

        window.Deliver(new InterruptMessage(destination, Extended: true, logical, DeliveryMode: 0, 0x55, LevelTriggered: false));

        Assert.Equal(reached, far.Registers.AnyRequested);
    }

    [Fact]
    public void A_function_s_message_goes_through_the_table_of_the_guest()
    {
        const ulong Table = 0x2_0000;
        var iommu = new IntelIommu(_ram.Topology, new IntelIommuOptions { InterruptRemapping = true, ExtendedInterruptMode = true });
        using var far = new ManagedVcpu(299, new IdleProgram(), _ram.Bus, TimeProvider.System, _ => { });
        var window = new InterruptWindow([far], iommu.Interrupts);
        _ram.Bus.Store(new Gpa(Table + (5 * 16)), 1UL | (0x66 << 16) | (299UL << 32));
        _ram.Bus.Store(new Gpa(Table + (5 * 16) + 8), 0x18UL | (1 << 18)); // from 00:03.0
        _ram.Bus.WriteMmio(IntelIommu.RegisterBase + 0xB8, Table | (1 << 11) | 7, 8);
        _ram.Bus.WriteMmio(IntelIommu.RegisterBase + 0x18, 1 << 24, 4);
        _ram.Bus.WriteMmio(IntelIommu.RegisterBase + 0x18, 1 << 25, 4);
        const ulong Message = (5 << 5) | (1 << 4);

        window.Write(Message, 0, 4, new TransactionAttributes(DirtySource.Device, 0x20)); // another function
        Assert.False(far.Registers.AnyRequested);
        window.Write(Message, 0, 4, new TransactionAttributes(DirtySource.Device, 0x18));
        Assert.True(far.Registers.TryTakeInterrupt(out byte vector));
        Assert.Equal(0x66, vector);
    }

    [Fact]
    public void Reads_give_all_ones() => Assert.Equal(uint.MaxValue, _ram.Bus.ReadMmio(BoardLayout.InterruptBase + 0x20, 4));
}
