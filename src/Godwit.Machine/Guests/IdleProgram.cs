using Godwit.Machine.Managed;

namespace Godwit.Machine.Guests;

/// <summary>Halts with interrupts enabled, and again after each interrupt. Counts them in a register.</summary>
internal sealed class IdleProgram : GuestProgram
{
    private const int InterruptCount = 0;

    public override string Name => "idle";

    public override void Step(GuestCpu cpu)
    {
        cpu.Registers.InterruptsEnabled = true;
        cpu.Halt();
    }

    public override void Interrupt(GuestCpu cpu, byte vector) => cpu.Registers.General[InterruptCount]++;

    public override void Panic(GuestCpu cpu, string text)
    {
        // It has no memory to note it in; the vCPU keeps the text.
    }

    public override GuestReport ReadReport(GuestBus memory) => new() { Name = Name, Phase = "halted" };
}
