using Godwit.Iommu.Intel;
using Godwit.Machine.Guests.Drivers.Spec;
using Godwit.Machine.Managed;
using Godwit.Memory;
using Godwit.Pci;

namespace Godwit.Machine.Tests;

public sealed class VcpuSetTests : IDisposable
{
    private readonly RamFixture _ram = new();
    private readonly IntelIommu _iommu;
    private readonly BusyUnit _busy;

    public VcpuSetTests()
    {
        _iommu = new IntelIommu(_ram.Topology, new IntelIommuOptions());
        var host = new PciHostBridge(_ram.Topology, BoardLayout.EcamBase, BoardLayout.EcamBuses);
        host.RootBus.SetIommu(_iommu);
        _busy = new BusyUnit(_ram.Bus, host);
    }

    public void Dispose() => _ram.Dispose();

    /// <summary>
    /// A guest that changes all of a large table and invalidates it, again and again and without waiting, cannot keep the machine from stopping;
    /// when it has stopped, the vIOMMU announces nothing more, in the middle of the work as it may be, and goes on with the vCPUs.
    /// </summary>
    [Fact]
    public void The_barrier_holds_while_the_vIOMMU_has_more_to_do_than_it_can()
    {
        using var vcpu = new ManagedVcpu(0, new Hostile(), _ram.Bus, new LocalApics(), TimeProvider.System, _ => { });
        using var set = new VcpuSet([vcpu], TimeProvider.System, _iommu);
        for (int round = 0; round < 30; round++)
        {
            long before = _busy.Events;
            set.Run();
            Assert.True(SpinWait.SpinUntil(() => _busy.Events > before + 1000, Deadline.Generous), "nothing goes on");
            set.Stop(Deadline.Generous);
            Assert.Null(vcpu.PanicText);
            long stopped = _busy.Events;
            Assert.Equal(_iommu.Churn.Live, _busy.Live); // what is told is what is recorded, half way too
            Thread.Yield();
            Assert.Equal(stopped, _busy.Events);
        }
    }

    /// <summary>
    /// A device does not answer while the vIOMMU has it map something, in a vCPU's register write or in the unit's own turn: the barrier's time is over
    /// when it is over, all run on, and when the device has answered the machine stops.
    /// </summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task The_barrier_times_out_while_a_device_does_not_answer_the_vIOMMU(bool ownTurn)
    {
        using var held = new SemaphoreSlim(0);
        using var letGo = new ManualResetEventSlim();
        _busy.OnMapped = thread =>
        {
            if (thread.StartsWith("vcpu", StringComparison.Ordinal) == ownTurn || letGo.IsSet)
                return;
            held.Release();
            letGo.Wait();
        };
        using var vcpu = new ManagedVcpu(0, new Hostile { SwitchesOnOnly = ownTurn }, _ram.Bus, new LocalApics(), TimeProvider.System, _ => { });
        using var set = new VcpuSet([vcpu], TimeProvider.System, _iommu);
        set.Run();
        long before;
        try
        {
            held.Wait("a mapping");
            // One that rests is stopped without a wait, so that all of the time is the vIOMMU's.
            Assert.True(!ownTurn || SpinWait.SpinUntil(() => vcpu.IsResting, Deadline.Generous));
            for (int round = 0; round < 2; round++)
            {
                Task stopping = Task.Run(() => set.Stop(TimeSpan.FromMilliseconds(20)), TestContext.Current.CancellationToken);
                var timeout = await Assert.ThrowsAsync<TimeoutException>(() => stopping.WaitAsync(Deadline.Generous, TestContext.Current.CancellationToken));
                Assert.Contains(ownTurn ? "The vIOMMU did not come to rest within 20 ms" : "vCPU 0 did not stop within 20 ms", timeout.Message, StringComparison.Ordinal);
            }
        }
        finally
        {
            before = _busy.Events;
            letGo.Set();
        }

        Assert.True(SpinWait.SpinUntil(() => _busy.Events > before + 1000, Deadline.Generous), "nothing goes on");
        set.Stop(Deadline.Generous);
        Assert.Null(set.PanicText);
        Assert.Equal(_iommu.Churn.Live, _busy.Live);
    }

    /// <summary>vCPUs that were told to stop for good do not run on because a barrier after that was not kept.</summary>
    [Fact]
    public void A_barrier_that_times_out_does_not_let_vCPUs_run_that_were_not_to()
    {
        using var held = new SemaphoreSlim(0);
        using var letGo = new ManualResetEventSlim();
        _busy.OnMapped = _ =>
        {
            if (letGo.IsSet)
                return;
            held.Release();
            letGo.Wait();
        };
        using var vcpu = new ManagedVcpu(0, new Hostile(), _ram.Bus, new LocalApics(), TimeProvider.System, _ => { });
        using var set = new VcpuSet([vcpu], TimeProvider.System, _iommu);
        set.Run();
        try
        {
            held.Wait("a mapping");
            set.RequestStop();
            Assert.Contains("was to stop before", Assert.Throws<TimeoutException>(() => set.Stop(TimeSpan.FromMilliseconds(20))).Message, StringComparison.Ordinal);
        }
        finally
        {
            letGo.Set();
        }

        Assert.True(vcpu.WaitStopped(Deadline.Generous));
        set.Stop(Deadline.Generous);
    }

    /// <summary>Switches the unit on, then spoils the tables and moves the tail, a step each.</summary>
    private sealed class Hostile : GuestProgram
    {
        public override string Name => "hostile";

        /// <summary>It leaves the rest to the unit: more mappings than its one register write announces.</summary>
        internal bool SwitchesOnOnly { get; init; }

        public override void Step(GuestCpu cpu)
        {
            Gpa registers = IntelIommu.RegisterBase;
            ulong step = cpu.Registers.General[0]++;
            BusyUnit.SpoilTables(cpu.Bus, step);
            if (step == 0)
                BusyUnit.SwitchOn(cpu.Bus);

            if (SwitchesOnOnly)
            {
                cpu.Registers.Halted = true;
                return;
            }

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
}
