using Godwit.Iommu.Intel;
using Godwit.Machine.Guests.Drivers.Spec;
using Godwit.Machine.Managed;
using Godwit.Memory;
using Godwit.Pci;

namespace Godwit.Machine.Tests;

public sealed class VcpuSetTests : IDisposable
{
    private const ulong Root = 0x10_0000, Contexts = 0x10_1000, Queue = 0x10_2000, Table = 0x10_3000, Middle = 0x10_4000, Leaves = 0x10_5000;
    private const ulong GlobalInvalidation = VtdRegisters.IotlbInvalidate | VtdRegisters.IotlbGlobal;

    private readonly RamFixture _ram = new();
    private readonly Listener _listener = new();

    public void Dispose() => _ram.Dispose();

    /// <summary>
    /// A guest that changes all of a large table and invalidates it, again and again and without waiting, cannot keep the machine from stopping;
    /// when it has stopped, the vIOMMU announces nothing more, in the middle of the work as it may be, and goes on with the vCPUs.
    /// </summary>
    [Fact]
    public void The_barrier_holds_while_the_vIOMMU_has_more_to_do_than_it_can()
    {
        var iommu = new IntelIommu(_ram.Topology, new IntelIommuOptions());
        var function = new Function();
        var host = new PciHostBridge(_ram.Topology, BoardLayout.EcamBase, BoardLayout.EcamBuses);
        host.RootBus.SetIommu(iommu);
        host.RootBus.Attach(function, new DevFn(3, 0));
        function.DmaSpace.AddListener(_listener);
        BuildTables(function.RequesterId.Value);
        using var vcpu = new ManagedVcpu(0, new Hostile(), _ram.Bus, new LocalApics(), TimeProvider.System, _ => { });
        using var set = new VcpuSet([vcpu], TimeProvider.System, iommu);
        for (int round = 0; round < 30; round++)
        {
            long before = _listener.Events;
            set.Run();
            Assert.True(SpinWait.SpinUntil(() => _listener.Events > before + 1000, Deadline.Generous), "nothing goes on");
            set.Stop(Deadline.Generous);
            Assert.Null(vcpu.PanicText);
            long stopped = _listener.Events;
            Assert.Equal(iommu.Churn.Live, _listener.Live); // what is told is what is recorded, half way too
            Thread.Yield();
            Assert.Equal(stopped, _listener.Events);
        }
    }

    private void BuildTables(ushort id)
    {
        GuestBus bus = _ram.Bus;
        bus.Store(new Gpa(Root), Contexts | VtdRegisters.Present);
        bus.Store(new Gpa(Contexts + (id * 16ul) + 8), 1UL | (1 << VtdRegisters.ContextDomainShift)); // AW 1: three levels (9.3)
        bus.Store(new Gpa(Contexts + (id * 16ul)), Table | VtdRegisters.Present);
        bus.Store(new Gpa(Table), Middle | 3);
        for (ulong index = 0; index < 200; index++)
            bus.Store(new Gpa(Middle + (index * 8)), Leaves | 3); // the same pages 200 times
        for (ulong index = 0; index < 256; index++)
            bus.Store(new Gpa(Queue + (index * 16)), GlobalInvalidation);
    }

    /// <summary>Switches the unit on, then spoils the tables and moves the tail, a step each.</summary>
    private sealed class Hostile : GuestProgram
    {
        public override string Name => "hostile";

        public override void Step(GuestCpu cpu)
        {
            Gpa registers = IntelIommu.RegisterBase;
            ulong step = cpu.Registers.General[0]++;
            if (step == 0)
            {
                cpu.WriteMmio64(registers + VtdRegisters.RootTableAddress, Root);
                cpu.WriteMmio64(registers + VtdRegisters.QueueAddress, Queue);
                cpu.WriteMmio32(registers + VtdRegisters.GlobalCommand, VtdRegisters.SetRootTable | VtdRegisters.QueueEnable | VtdRegisters.TranslationEnable);
            }

            for (ulong index = 0; index < 512; index++)
                cpu.Bus.Store(new Gpa(Leaves + (index * 8)), (0x100_0000 + (((index + step) % 1024) << 12)) | 3);
            cpu.WriteMmio64(registers + VtdRegisters.QueueTail, step % 256 << 4);
            cpu.WriteMmio32(registers + VtdRegisters.FaultStatus, uint.MaxValue);
        }

        public override void Interrupt(GuestCpu cpu, byte vector)
        {
        }

        public override void Panic(GuestCpu cpu, string text)
        {
        }

        public override GuestReport ReadReport(GuestBus memory) => new() { Name = Name, Phase = "" };
    }

    private sealed class Function : PciFunction
    {
        internal Function() : base("test") => SetIdentity(0x1234, 0x5678, 0xFF_00_00);
    }

    /// <summary>Counts small pages.</summary>
    private sealed class Listener : IMemoryListener, IIommuListener
    {
        private long _events;

        internal long Events => Volatile.Read(ref _events);

        internal long Live { get; private set; }

        public void RegionAdded(in FlatRange range) => (range.Region as IommuRegion)?.AddListener(this, range.Range);

        public void RegionRemoved(in FlatRange range) => (range.Region as IommuRegion)?.RemoveListener(this);

        public void Mapped(Iova iova, ulong length, Gpa target, AccessRights rights)
        {
            Live++;
            Volatile.Write(ref _events, _events + 1);
        }

        public void Unmapped(Iova iova, ulong length)
        {
            Live -= (long)(length >> 12);
            Volatile.Write(ref _events, _events + 1);
        }
    }
}
