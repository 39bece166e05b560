using System.Buffers;
using Godwit.Iommu.Intel;
using Godwit.Machine.Guests.Drivers;
using Godwit.Machine.Managed;
using Godwit.Memory;
using Godwit.Migration;
using Godwit.Pci;
using Godwit.Vfio;

namespace Godwit.Machine.Tests;

public class VirtualMachineTests
{
    private static readonly MachineConfig Small = new() { MemoryBytes = 64 << 20 };

    [Fact]
    public void It_boots_pauses_and_goes_on_with_events_in_order()
    {
        using VirtualMachine machine = VirtualMachine.Build(Small, TimeProvider.System);
        var seen = new List<(RunState, RunState)>();
        machine.RunStateChanged += (from, to) => seen.Add((from, to));
        Assert.Equal(RunState.Prelaunch, machine.RunState);
        Assert.Throws<InvalidOperationException>(machine.Stop);

        machine.Start();
        machine.Stop();
        machine.Stop(); // again is nothing
        machine.Continue();
        machine.Continue();
        Assert.Throws<InvalidOperationException>(machine.Start);
        Assert.Equal(
            [(RunState.Prelaunch, RunState.Running), (RunState.Running, RunState.Paused), (RunState.Paused, RunState.Running)], seen);
        Assert.Equal("idle", machine.QueryGuest().Name);
        machine.Dispose();
        Assert.Equal(RunState.Shutdown, machine.RunState);
    }

    [Fact]
    public void The_boot_page_is_where_the_guest_looks_for_it_and_RAM_is_split()
    {
        using VirtualMachine machine = VirtualMachine.Build(Small with { Iommu = IommuKind.None }, TimeProvider.System);
        byte[] page = new byte[4096];
        machine.Board.Bus.Load(BoardLayout.BootInfo, page);
        Assert.True(BootInfo.TryParse(page, out BootInfo info));
        Assert.Equal(32UL << 20, info.LowRamSize);
        Assert.Null(AcpiTables.Read(machine.Board.Bus).RemappingUnit);

        // The same byte by GPA and by offset in the block.
        machine.Board.Bus.Store(BoardLayout.HighRamBase + 8, 0x1122_3344_5566_7788UL);
        byte[] bytes = new byte[8];
        machine.Ram.Blocks[0].Read((32 << 20) + 8, bytes);
        Assert.Equal(0x1122_3344_5566_7788UL, BitConverter.ToUInt64(bytes));
        Assert.Equal(MemoryResult.DecodeError, machine.Board.Topology.System.Read(new BusAddress(0x8000_0000), bytes, TransactionAttributes.Vmm));
    }

    [Fact]
    public void A_guest_sees_the_host_bridge_through_ECAM_and_nothing_where_nothing_is()
    {
        using VirtualMachine machine = VirtualMachine.Build(Small, TimeProvider.System);
        Assert.Equal(0x29C0_8086UL, machine.Board.Bus.ReadMmio(BoardLayout.EcamBase, 4));
        Assert.Equal(uint.MaxValue, machine.Board.Bus.ReadMmio(BoardLayout.EcamBase + (3 << 15), 4));
        Assert.Equal(uint.MaxValue, machine.Board.Bus.ReadMmio(BoardLayout.MmioBase, 4));
        Assert.NotEqual(ulong.MaxValue, machine.Board.Bus.ReadMmio(Iommu.Intel.IntelIommu.RegisterBase + 8, 8));
    }

    [Fact]
    public void A_guest_panic_ends_in_internal_error_with_a_notice_and_the_machine_can_still_be_asked()
    {
        using VirtualMachine machine = VirtualMachine.Build(Small with { Guest = "nvme-stress" }, TimeProvider.System);
        using var noticed = new SemaphoreSlim(0);
        string? notice = null;
        machine.Notice += text =>
        {
            notice = text;
            noticed.Release();
        };
        using var failed = new SemaphoreSlim(0);
        machine.RunStateChanged += (_, to) =>
        {
            if (to == RunState.InternalError)
                failed.Release();
        };
        machine.Start();
        noticed.Wait("the notice");
        failed.Wait("internal-error");
        Assert.Contains("no NVMe controller", notice, StringComparison.Ordinal);
        Assert.Contains("no NVMe controller", machine.QueryGuest().Panic, StringComparison.Ordinal);
        Assert.Throws<InvalidOperationException>(machine.Continue);
        Assert.Throws<InvalidOperationException>(machine.Stop);
    }

    /// <summary>Nobody touches a register of the vIOMMU again, and the machine says at once that it does not work any more.</summary>
    [Fact]
    public void A_failure_of_the_vIOMMU_by_itself_ends_in_internal_error_with_a_notice()
    {
        using VirtualMachine machine = VirtualMachine.Build(Small, TimeProvider.System);
        using var noticed = new SemaphoreSlim(0);
        using var failed = new SemaphoreSlim(0);
        string? notice = null;
        machine.Notice += text =>
        {
            notice = text;
            noticed.Release();
        };
        machine.RunStateChanged += (_, to) =>
        {
            if (to == RunState.InternalError)
                failed.Release();
        };
        _ = new BusyUnit(machine.Board.Bus, machine.Board.Pci)
        {
            OnMapped = thread =>
            {
                if (thread == "vt-d")
                    throw new InvalidOperationException("a listener's fault");
            },
        };
        machine.Start();
        BusyUnit.SwitchOn(machine.Board.Bus);
        noticed.Wait("the notice");
        failed.Wait("internal-error");
        Assert.Contains("The vIOMMU failed: InvalidOperationException: a listener's fault", notice, StringComparison.Ordinal);
        Assert.Contains("a listener's fault", machine.QueryGuest().Panic, StringComparison.Ordinal);
        Assert.Throws<InvalidOperationException>(machine.Continue);
        Assert.Contains("a listener's fault [iommu-failed]", Assert.Single(machine.QueryBlockers()).ToString(), StringComparison.Ordinal);
        Assert.Throws<InvalidOperationException>(machine.Host.StopForSwitchover);
        Assert.Equal(RunState.InternalError, machine.RunState);
    }

    [Fact]
    public void A_missing_socket_fails_the_build_and_names_it()
    {
        string path = Path.Combine(Path.GetTempPath(), $"godwit-{Guid.NewGuid():N}.sock");
        var failure = Assert.ThrowsAny<IOException>(() => VirtualMachine.Build(
            Small with { Devices = [new VfioDeviceOptions { Id = "nvme0", Socket = path }] }, TimeProvider.System));
        Assert.Contains(path, failure.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Machines_of_equal_configuration_describe_themselves_equally_and_every_difference_shows()
    {
        MachineConfig config = Small with { Guest = "nvme-stress" };
        using VirtualMachine a = VirtualMachine.Build(config, TimeProvider.System);
        using VirtualMachine b = VirtualMachine.Build(config with { Name = "another" }, TimeProvider.System);
        Assert.Empty(MachineDescription.Compare(a.Host.Describe(), b.Host.Describe()));

        (MachineConfig Config, string Name)[] different =
        [
            (config with { MemoryBytes = 66 << 20 }, "ram.main.size"),
            (config with { Iommu = IommuKind.None }, "iommu"),
            (config with { Intel = new() { AddressWidth = 48 } }, "iommu.aw-bits"),
            (config with { Intel = new() { PassThrough = false } }, "iommu.pt"),
            (config with { Guest = "idle" }, "guest.name"),
            (config with { GuestOptions = new Dictionary<string, string> { ["seed"] = "2" } }, "guest.seed"),
        ];
        foreach ((MachineConfig other, string name) in different)
        {
            using VirtualMachine c = VirtualMachine.Build(other, TimeProvider.System);
            Assert.Contains(MachineDescription.Compare(a.Host.Describe(), c.Host.Describe()), d => d.Name == name);
        }
    }

    [Fact]
    public void The_source_side_of_a_switchover_goes_forth_and_back()
    {
        using VirtualMachine machine = VirtualMachine.Build(Small, TimeProvider.System);
        IMigrationHost host = machine.Host;
        host.ResumeAfterFailure(); // not stopped for it: nothing
        Assert.Equal(RunState.Prelaunch, machine.RunState);

        machine.Start();
        Assert.True(host.IsRunning);
        host.StopForSwitchover();
        Assert.Equal(RunState.FinishMigrate, machine.RunState);
        Assert.True(host.IsRunning); // it was: the destination must know
        Assert.Throws<InvalidOperationException>(machine.Stop);
        Assert.Throws<InvalidOperationException>(machine.Continue);
        host.ResumeAfterFailure();
        Assert.Equal(RunState.Running, machine.RunState);

        machine.Stop();
        host.StopForSwitchover();
        Assert.False(host.IsRunning);
        host.ResumeAfterFailure();
        Assert.Equal(RunState.Paused, machine.RunState);

        host.StopForSwitchover();
        host.EnterPostMigrate();
        Assert.Equal(RunState.PostMigrate, machine.RunState);
        Assert.Throws<InvalidOperationException>(host.StopForSwitchover);
        machine.Continue(); // an operator's decision
        Assert.Equal(RunState.Running, machine.RunState);
    }

    [Fact]
    public void States_come_in_load_order()
    {
        using VirtualMachine machine = VirtualMachine.Build(Small, TimeProvider.System);
        Assert.Equal(["iommu", "pci/00/00.0", "power", "cpu/0", "ioapic"], machine.Host.States.Select(s => s.Id));
        Assert.Equal(["iommu"], machine.Host.States.Where(s => s.LoadsAhead).Select(s => s.Id));
    }

    [Fact]
    public void A_pin_that_is_high_while_the_states_are_loaded_reaches_its_vCPU()
    {
        const byte Vector = 0x41;
        MachineConfig plain = Small with { Iommu = IommuKind.None };
        using VirtualMachine source = VirtualMachine.Build(plain, TimeProvider.System);
        using VirtualMachine destination = VirtualMachine.Build(plain, TimeProvider.System);
        var function = new PinFunction();
        destination.Board.Pci.RootBus.Attach(function, new DevFn(3, 0));
        function.Want();
        source.Board.IoApic.Write(0, 0x10 + (2 * (BoardLayout.FirstPciPin + 3)), 4, TransactionAttributes.Vcpu);
        source.Board.IoApic.Write(0x10, Vector | (1 << 15), 4, TransactionAttributes.Vcpu); // level, not masked, CPU 0
        var state = new ArrayBufferWriter<byte>();
        for (int i = 0; i < source.Host.States.Count; i++)
        {
            state.ResetWrittenCount();
            source.Host.States[i].Save(state);
            destination.Host.States[i].Load(source.Host.States[i].Version, state.WrittenSpan);
        }

        state.ResetWrittenCount();
        destination.Vcpus.All[0].Save(state);
        RegisterFile registers = RegisterFile.Load(destination.Vcpus.All[0].StateVersion, state.WrittenSpan);
        Assert.True(registers.TryTakeInterrupt(out byte vector));
        Assert.Equal(Vector, vector);
    }

    [Theory]
    [InlineData(false, true, true)]
    [InlineData(true, false, true)]
    [InlineData(true, true, false)]
    public void A_unit_that_marks_tables_does_not_load_ahead(bool scalable, bool firstStage, bool ahead)
    {
        // Among pages of different times it would mark what is no table any more.
        using VirtualMachine machine = VirtualMachine.Build(Small with { Intel = new IntelIommuOptions { AddressWidth = 48, ScalableMode = scalable, FirstStage = !scalable || firstStage } }, TimeProvider.System);
        Assert.Equal(ahead, machine.Host.States.Single(s => s.Id == "iommu").LoadsAhead);
    }

    [Fact]
    public void An_idle_machine_migrates()
    {
        string socket = Path.Combine(Path.GetTempPath(), $"godwit-{Guid.NewGuid():N}.sock");
        using VirtualMachine source = VirtualMachine.Build(Small, TimeProvider.System);
        using VirtualMachine destination = VirtualMachine.Build(Small, TimeProvider.System);
        using var arrived = new SemaphoreSlim(0);
        destination.RunStateChanged += (_, to) =>
        {
            if (to == RunState.Running)
                arrived.Release();
        };
        using var left = new SemaphoreSlim(0);
        source.RunStateChanged += (_, to) =>
        {
            if (to == RunState.PostMigrate)
                left.Release();
        };
        destination.StartIncoming($"unix:{socket}");
        Assert.Equal(RunState.InMigrate, destination.RunState);
        source.Start();
        source.Board.Bus.Store(BoardLayout.HighRamBase + 0x5000, 0xFEED_F00DUL);
        source.Migration.Start($"unix:{socket}");
        arrived.Wait("the destination to run");
        left.Wait("the source to be migrated away");
        Assert.Equal(0xFEED_F00DUL, destination.Board.Bus.Load<ulong>(BoardLayout.HighRamBase + 0x5000));
    }

    private sealed class PinFunction : PciFunction
    {
        internal PinFunction() : base("pin")
        {
            SetIdentity(0x1234, 0x11E8, 0xFF_00_00);
            SetInterruptPin(1);
        }

        internal void Want() => SetInterrupt(true);
    }
}
