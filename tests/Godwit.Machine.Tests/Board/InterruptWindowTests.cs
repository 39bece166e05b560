using Godwit.Iommu.Intel;
using Godwit.Machine.Guests;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Tests;

public sealed class InterruptWindowTests : IDisposable
{
    private readonly RamFixture _ram = new();
    private readonly ManagedVcpu[] _vcpus;
    private readonly LocalApics _apics;

    public InterruptWindowTests()
    {
        // Stopped vCPUs: what is delivered stays in their request registers.
        _vcpus = [.. Enumerable.Range(0, 3).Select(i => Cpu((uint)i))];
        _apics = Apics(_vcpus);
        _ram.Topology.Add(
            _ram.Topology.SystemRoot, BusAddress.FromGpa(BoardLayout.InterruptBase),
            new MmioRegion("msi", BoardLayout.InterruptSize, new InterruptWindow(_apics, unit: null, _ => false), InterruptWindow.Rules));
    }

    private const ushort Bypassing = 0x8000;

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
    [InlineData(0xFEE0_600Cu, 0x41u, new[] { 1 })] // logical, which needs a redirection hint: one of both
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

        Assert.Equal(expected.Length == 0 ? 1 : 0, _apics.Dropped);
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
        using var far = Cpu(299);
        Apics(far).Deliver(new InterruptMessage(destination, Extended: true, logical, ToOne: false, DeliveryMode: 0, 0x55, LevelTriggered: false));

        Assert.Equal(reached, far.Registers.AnyRequested);
    }

    [Fact]
    public void A_function_s_message_goes_through_the_table_of_the_guest()
    {
        const ulong Table = 0x2_0000;
        var iommu = new IntelIommu(_ram.Topology, new IntelIommuOptions { InterruptRemapping = true, ExtendedInterruptMode = true });
        using ManagedVcpu far = Cpu(299), near = Cpu(7);
        var window = new InterruptWindow(Apics(far, near), iommu, requester => requester == Bypassing);
        _ram.Bus.Store(new Gpa(Table + (5 * 16)), 1UL | (0x66 << 16) | (299UL << 32));
        _ram.Bus.Store(new Gpa(Table + (5 * 16) + 8), 0x18UL | (1 << 18)); // from 00:03.0
        _ram.Bus.WriteMmio(IntelIommu.RegisterBase + 0xB8, Table | (1 << 11) | 7, 8);
        _ram.Bus.WriteMmio(IntelIommu.RegisterBase + 0x18, 1 << 24, 4);
        _ram.Bus.WriteMmio(IntelIommu.RegisterBase + 0x18, 1 << 25, 4);
        const ulong Message = (5 << 5) | (1 << 4);
        const ulong Compatible = 7 << 12;

        window.Write(Message, 0, 4, new TransactionAttributes(DirtySource.Device, 0x20)); // another function
        Assert.False(far.Registers.AnyRequested);
        window.Write(Message, 0, 4, new TransactionAttributes(DirtySource.Device, 0x18));
        Assert.True(far.Registers.TryTakeInterrupt(out byte vector));
        Assert.Equal(0x66, vector);

        // One on a bus that bypasses the unit is neither remapped nor blocked; one below the unit may not send compatibility format now.
        window.Write(Compatible, 0x41, 4, new TransactionAttributes(DirtySource.Device, 0x18));
        Assert.False(near.Registers.AnyRequested);
        window.Write(Compatible, 0x41, 4, new TransactionAttributes(DirtySource.Device, Bypassing));
        Assert.True(near.Registers.TryTakeInterrupt(out vector));
        Assert.Equal(0x41, vector);
    }

    /// <summary>One write of two messages' length is one request, and none of the kind that interrupts.</summary>
    [Theory]
    [InlineData(8)]
    [InlineData(12)]
    [InlineData(2)]
    [InlineData(6)]
    public void Only_a_write_of_a_doubleword_is_a_message(int length)
    {
        byte[] data = new byte[length];
        for (int i = 0; i < length; i += 4)
            data[i] = 0x41;
        var attributes = new TransactionAttributes(DirtySource.Device, 0x18);
        Assert.NotEqual(MemoryResult.Ok, _ram.Topology.System.Write(BusAddress.FromGpa(BoardLayout.InterruptBase), data, attributes));
        Assert.All(_vcpus, v => Assert.False(v.Registers.AnyRequested));
        Assert.Equal(MemoryResult.Ok, _ram.Topology.System.Write(BusAddress.FromGpa(BoardLayout.InterruptBase), [0x41, 0, 0, 0], attributes));
        Assert.True(_vcpus[0].Registers.AnyRequested);
    }

    /// <summary>What a function sends there and is no message is fault 29h, as soon as the unit remaps anything and the function is below it.</summary>
    [Theory]
    [InlineData(8, true)]
    [InlineData(2, true)]
    [InlineData(4, false)]
    [InlineData(8, false)]
    public void What_is_no_message_is_a_fault(int length, bool write)
    {
        using var ram = new RamFixture();
        var iommu = new IntelIommu(ram.Topology, new IntelIommuOptions());
        var window = new InterruptWindow(_apics, iommu, requester => requester == Bypassing);
        ram.Topology.Add(
            ram.Topology.SystemRoot, BusAddress.FromGpa(BoardLayout.InterruptBase),
            new MmioRegion("msi", BoardLayout.InterruptSize, window, InterruptWindow.Rules));
        Access(0x18);
        Assert.Equal(0u, ram.Bus.ReadMmio(IntelIommu.RegisterBase + 0x34, 4)); // FSTS: nothing is remapped yet

        ram.Bus.WriteMmio(IntelIommu.RegisterBase + 0x18, 1u << 31, 4); // GCMD.TE
        Access(Bypassing);
        Assert.Equal(0u, ram.Bus.ReadMmio(IntelIommu.RegisterBase + 0x34, 4));
        Access(0x18);
        Assert.Equal(2u, ram.Bus.ReadMmio(IntelIommu.RegisterBase + 0x34, 4)); // PPF
        Assert.Equal((1UL << 63) | (write ? 0 : 1UL << 62) | (0x29UL << 32) | 0x18, ram.Bus.ReadMmio(IntelIommu.RegisterBase + 0x228, 8));

        void Access(ushort requester)
        {
            var attributes = new TransactionAttributes(DirtySource.Device, requester);
            BusAddress address = BusAddress.FromGpa(BoardLayout.InterruptBase);
            _ = write ? ram.Topology.System.Write(address, new byte[length], attributes) : ram.Topology.System.Read(address, new byte[length], attributes);
        }
    }

    /// <summary>On a whole board: both of the unit's own messages reach a vCPU whose APIC id has more than 8 bits (VT-d 5.1.6.2).</summary>
    [Fact]
    public void The_unit_s_own_messages_reach_a_vCPU_beyond_255()
    {
        var intel = new IntelIommuOptions { InterruptRemapping = true, ExtendedInterruptMode = true };
        using var board = Machine.Board.Build(new MachineConfig { Guest = "idle", MemoryBytes = 64 << 20, Vcpus = 301, Iommu = IommuKind.Intel, Intel = intel });
        using ManagedVcpu far = Cpu(300), near = Cpu(300 & 0xFF);
        board.ConnectInterrupts(Apics(far, near), () => { });
        Register(0xB8, 0x2_0000 | (1 << 11), 8);    // IRTA with EIME
        Register(0x18, 1 << 24, 4);                 // SIRTP
        foreach ((int control, uint vector) in new[] { (0x38, 0x61u), (0xA0, 0x62u) })
        {
            Register(control + 4, vector, 4);
            Register(control + 8, 0xFEE0_0000 | ((300 & 0xFFu) << 12), 4);
            Register(control + 12, 300 & ~0xFFu, 4);
            Register(control, 0, 4);
        }

        Register(0x18, 1 << 25, 4);                 // IRE: what is no interrupt request is a fault now
        board.Iommu!.RejectInterruptRangeRequest(0x18, write: true);
        Assert.True(far.Registers.TryTakeInterrupt(out byte taken));
        Assert.Equal(0x61, taken);
        board.Bus.Store(new Gpa(0x3_0000), 5UL | (1 << 4)); // a wait with IF
        board.Bus.Store(new Gpa(0x3_0008), 0UL);
        Register(0x90, 0x3_0000, 8);
        Register(0x18, (1 << 25) | (1 << 26), 4);   // QIE
        Register(0x88, 1 << 4, 4);
        Assert.True(far.Registers.TryTakeInterrupt(out taken));
        Assert.Equal(0x62, taken);
        Assert.False(near.Registers.AnyRequested);

        void Register(int offset, ulong value, int size) => board.Bus.WriteMmio(IntelIommu.RegisterBase + (ulong)offset, value, size);
    }

    /// <summary>
    /// A write of 8 bytes that reaches into the range, or out of it, by four is no DWORD write to it and interrupts nobody (VT-d 3.15, 5.1.4). What
    /// of it lies in the range is fault 29h; what lies before it goes where the tables say.
    /// </summary>
    [Theory]
    [InlineData(0xFEDF_FFFCul, 8)]
    [InlineData(0xFEDF_FFF8ul, 12)]
    [InlineData(0xFEEF_FFFCul, 8)]
    public void A_write_over_an_end_of_the_range_is_no_message(ulong address, int length)
    {
        const ulong Root = 0x1_0000, Contexts = 0x1_1000, Top = 0x1_2000, Middle = 0x1_3000, Leaves = 0x1_4000, Page = 0x2_0000;
        using var board = Machine.Board.Build(new MachineConfig { MemoryBytes = 64 << 20, Iommu = IommuKind.Intel });
        board.ConnectInterrupts(_apics, () => { });
        var function = new Function();
        board.Pci.RootBus.Attach(function, new Pci.DevFn(3, 0));
        foreach ((ulong at, ulong value) in new[]
        {
            (Root, Contexts | 1), (Contexts + (0x18 * 16), Top | 1), (Contexts + (0x18 * 16) + 8, 1UL | (1 << 8)),
            (Top + (3 * 8), Middle | 3), (Middle + (0x1F6 * 8), Leaves | 3), (Middle + (0x1F7 * 8), Leaves | 3),
            (Leaves + (0x1FF * 8), Page | 3), (Leaves + (0x100 * 8), Page | 3),
        })
        {
            board.Bus.Store(new Gpa(at), value);
        }

        board.Bus.WriteMmio(IntelIommu.RegisterBase + 0x20, Root, 8);
        board.Bus.WriteMmio(IntelIommu.RegisterBase + 0x18, 1u << 30, 4); // SRTP
        board.Bus.WriteMmio(IntelIommu.RegisterBase + 0x18, 1u << 31, 4); // TE
        byte[] data = new byte[length];
        for (int i = 0; i < length; i += 4)
            data[i] = 0x41;
        Assert.NotEqual(MemoryResult.Ok, function.DmaSpace.Write(new BusAddress(address), data, new TransactionAttributes(DirtySource.Device, 0x18)));
        Assert.All(_vcpus, vcpu => Assert.False(vcpu.Registers.AnyRequested));
        Assert.Equal((1UL << 63) | (0x29UL << 32) | 0x18, board.Bus.ReadMmio(IntelIommu.RegisterBase + 0x228, 8));
        Assert.Equal(0UL, board.Bus.ReadMmio(IntelIommu.RegisterBase + 0x238, 8));
        bool before = address < BoardLayout.InterruptBase.Value;
        Assert.Equal(before ? 0x41 : 0, board.Bus.Load<byte>(new Gpa(Page + 0xFFC)));
        // A message to the same place is one.
        Assert.Equal(
            MemoryResult.Ok,
            function.DmaSpace.Write(BusAddress.FromGpa(BoardLayout.InterruptBase), data.AsSpan(0, 4), new TransactionAttributes(DirtySource.Device, 0x18)));
        Assert.True(_vcpus[0].Registers.AnyRequested);
    }

    [Fact]
    public void A_CPU_interrupts_another_by_its_own_local_APIC()
    {
        var apics = new LocalApics();
        using ManagedVcpu far = Cpu(299);
        apics.Add(far);
        using var sender = new ManagedVcpu(0, new IdleProgram(), _ram.Bus, apics, TimeProvider.System, _ => { });
        sender.SendInterrupt(299, 0x77);
        Assert.True(far.Registers.TryTakeInterrupt(out byte vector));
        Assert.Equal(0x77, vector);
        sender.SendInterrupt(298, 0x77);
        Assert.Equal(1, apics.Dropped);
    }

    [Fact]
    public void Reads_give_all_ones() => Assert.Equal(uint.MaxValue, _ram.Bus.ReadMmio(BoardLayout.InterruptBase + 0x20, 4));

    private ManagedVcpu Cpu(uint apicId) => new(apicId, new IdleProgram(), _ram.Bus, new LocalApics(), TimeProvider.System, _ => { });

    private static LocalApics Apics(params ReadOnlySpan<ManagedVcpu> vcpus)
    {
        var result = new LocalApics();
        foreach (ManagedVcpu vcpu in vcpus)
            result.Add(vcpu);
        return result;
    }

    private sealed class Function : Pci.PciFunction
    {
        public Function() : base("function") => SetIdentity(0x1AF4, 0x1000, 0xFF_00_00);
    }
}
