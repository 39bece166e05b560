using System.Runtime.InteropServices;
using Godwit.Machine.Managed;

namespace Godwit.Machine.Guests.Edu;

/// <summary>
/// <c>edu-stress</c>: a driver of the educational device that never stops. It knows the board from the firmware, reaches the device through
/// ECAM, MMIO, DMA and MSI only, and knows what every page must hold.
/// </summary>
internal sealed class EduProgram : GuestProgram
{
    public const string ProgramName = "edu-stress";

    public override string Name => ProgramName;

    public override void Step(GuestCpu cpu)
    {
        if (cpu.ApicId != 0)
        {
            cpu.Halt(); // the boot CPU does it all
            return;
        }

        // The first step finds RAM as the firmware left it.
        if (cpu.Registers.ProgramCounter == 0)
        {
            EduControl fresh = default;
            EduStart.Boot(cpu, ref fresh);
            EduControl.Store(cpu.Bus, fresh);
            cpu.Registers.ProgramCounter = 1;
            return;
        }

        EduControl control = EduControl.Load(cpu.Bus);
        switch (control.Phase)
        {
            case EduPhase.FindDevice:
                EduStart.FindDevice(cpu, ref control);
                break;
            case EduPhase.StartDevice:
                EduStart.StartDevice(cpu, ref control);
                break;
            case EduPhase.Populate:
                EduStart.Populate(cpu, ref control);
                break;
            case EduPhase.Running:
                EduRun.Run(cpu, ref control);
                break;
            case EduPhase.Off:
                cpu.Halt();
                break;
            default:
                throw new GuestPanicException($"control block damaged: phase {(uint)control.Phase}");
        }

        EduControl.Store(cpu.Bus, control);
    }

    public override void Interrupt(GuestCpu cpu, byte vector)
    {
        if (cpu.ApicId != 0)
            return;
        EduControl control = EduControl.Load(cpu.Bus);
        if (vector == Drivers.PowerButton.Vector)
            control.PoweringDown |= control.Power.Take(cpu);
        else if (vector == EduStart.Vector)
            EduRun.Interrupt(cpu, ref control);
        EduControl.Store(cpu.Bus, control);
    }

    public override void Panic(GuestCpu cpu, string text) => PanicText.Store(cpu.Bus, text);

    public override GuestReport ReadReport(GuestBus memory)
    {
        string? panic = PanicText.Read(memory);
        Span<EduControl> copy = stackalloc EduControl[1];
        if (!memory.TryRead(GuestLayout.Control, MemoryMarshal.AsBytes(copy)) || copy[0].Magic != EduControl.MagicValue)
            return new GuestReport { Name = Name, Phase = "boot", Panic = panic };
        ref readonly EduControl control = ref copy[0];
        return new GuestReport
        {
            Name = Name,
            Phase = panic is not null ? "panicked" : Describe(control.Phase),
            Reads = (long)control.Reads,
            Writes = (long)control.Writes,
            OtherCommands = (long)control.Factorials,
            PagesVerified = (long)control.PagesVerified,
            Mismatches = (long)control.Mismatches,
            MismatchDetails = MismatchLog.Describe(memory),
            Maps = (long)control.Maps,
            Unmaps = (long)control.Unmaps,
            Interrupts = (long)control.Interrupts,
            CpuPagesDirtied = (long)control.CpuPagesDirtied,
            IommuFaults = (long)control.IommuFaults,
            Panic = panic,
        };
    }

    private static string Describe(EduPhase phase) => phase switch
    {
        EduPhase.Boot => "boot",
        EduPhase.FindDevice => "scanning PCI",
        EduPhase.StartDevice => "starting the device",
        EduPhase.Populate => "filling memory",
        EduPhase.Running => "running",
        EduPhase.Off => "off",
        _ => "damaged",
    };
}
