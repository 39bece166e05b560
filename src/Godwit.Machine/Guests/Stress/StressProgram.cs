using System.Runtime.InteropServices;
using Godwit.Machine.Guests.Drivers;
using Godwit.Machine.Managed;

namespace Godwit.Machine.Guests.Stress;

/// <summary>
/// <c>nvme-stress</c>: a small operating system with one job. Real driver code: it knows the board from the firmware's page, reaches
/// devices through ECAM, MMIO, DMA and interrupts only, and remembers what every block and page must hold.
/// </summary>
internal sealed class StressProgram : GuestProgram
{
    public override string Name => "nvme-stress";

    public override void Step(GuestCpu cpu)
    {
        if (cpu.ApicId != 0)
        {
            RemoteInterrupts.Sleep(cpu);
            return;
        }

        // The first step finds RAM as the firmware left it.
        if (cpu.Registers.ProgramCounter == 0)
        {
            StressControl fresh = default;
            BootStage.Boot(cpu, ref fresh);
            StressState.StoreControl(cpu.Bus, fresh);
            cpu.Registers.ProgramCounter = 1;
            return;
        }

        StressControl control = StressState.LoadControl(cpu.Bus);
        switch (control.Phase)
        {
            case StressPhase.ScanPci:
                PciStage.ScanOne(cpu, ref control);
                break;
            case StressPhase.StartIommu:
                ControllerStage.StartIommu(cpu, ref control);
                break;
            case StressPhase.StartControllers:
                ControllerStage.StartControllers(cpu, ref control);
                break;
            case StressPhase.Populate:
                BootStage.Populate(cpu, ref control);
                break;
            case StressPhase.Running:
                RunStage.Run(cpu, ref control);
                if (control.PoweringDown)
                    PowerStage.SwitchOffWhenIdle(cpu, ref control);
                break;
            case StressPhase.Off:
                cpu.Halt();
                break;
            default:
                throw new GuestPanicException($"control block damaged: phase {(uint)control.Phase}");
        }

        StressState.StoreControl(cpu.Bus, control);
    }

    public override void Interrupt(GuestCpu cpu, byte vector)
    {
        if (cpu.ApicId != 0)
        {
            RemoteInterrupts.Forward(cpu, vector);
            return;
        }

        StressControl control = StressState.LoadControl(cpu.Bus);
        control.Interrupts++;
        if (vector == PowerButton.Vector)
            PowerStage.Interrupt(cpu, ref control);
        int index = PciStage.ControllerOf(vector, control.ControllerCount);
        if (index >= 0)
        {
            ControllerState device = StressState.LoadController(cpu.Bus, control, index);
            device.InterruptCount++;
            ControllerStage.ReapAdmin(cpu, ref device);
            CompleteStage.Reap(cpu, ref control, ref device, index);
            StressState.StoreController(cpu.Bus, index, device);
        }

        StressState.StoreControl(cpu.Bus, control);
    }

    public override void Panic(GuestCpu cpu, string text) => PanicText.Store(cpu.Bus, text);

    public override GuestReport ReadReport(GuestBus memory)
    {
        Span<StressControl> copy = stackalloc StressControl[1];
        if (!memory.TryRead(StressLayout.Control, MemoryMarshal.AsBytes(copy)) || copy[0].Magic != StressControl.MagicValue)
            return new GuestReport { Name = Name, Phase = "boot", Panic = PanicText.Read(memory) };

        ref readonly StressControl control = ref copy[0];
        string? panic = PanicText.Read(memory);
        return new GuestReport
        {
            Name = Name,
            Phase = panic is not null ? "panicked" : Describe(control.Phase),
            Reads = (long)control.Reads,
            Writes = (long)control.Writes,
            OtherCommands = (long)control.OtherCommands,
            BlocksVerified = (long)control.BlocksVerified,
            PagesVerified = (long)control.PagesVerified,
            Mismatches = (long)control.Mismatches,
            MismatchDetails = MismatchLog.Describe(memory),
            Maps = (long)control.Maps,
            Unmaps = (long)control.Unmaps,
            Interrupts = (long)control.Interrupts,
            RemoteInterrupts = Stress.RemoteInterrupts.Count(memory),
            CpuPagesDirtied = (long)control.CpuPagesDirtied,
            IommuFaults = (long)control.IommuFaults,
            DomainSwitches = (long)control.DomainSwitches,
            Panic = panic,
        };
    }

    private static string Describe(StressPhase phase) => phase switch
    {
        StressPhase.Boot => "boot",
        StressPhase.ScanPci => "scanning PCI",
        StressPhase.StartIommu => "starting the IOMMU",
        StressPhase.StartControllers => "starting controllers",
        StressPhase.Populate => "filling memory",
        StressPhase.Running => "running",
        StressPhase.Off => "off",
        _ => "damaged",
    };
}
