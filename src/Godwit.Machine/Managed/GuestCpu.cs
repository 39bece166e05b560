using Godwit.Memory;

namespace Godwit.Machine.Managed;

/// <summary>A managed vCPU as its program sees it. Only on the vCPU's thread.</summary>
internal abstract class GuestCpu(GuestBus bus)
{
    /// <summary>RAM and MMIO.</summary>
    public GuestBus Bus { get; } = bus;

    /// <summary>Id of its local APIC, as CPUID tells (leaf 0Bh, EDX). The boot CPU has 0.</summary>
    public abstract uint ApicId { get; }

    /// <summary>The register file.</summary>
    public abstract ref RegisterFile Registers { get; }

    /// <summary>Nanoseconds that the guest has been let run; does not jump over a pause or a migration.</summary>
    public abstract ulong Clock { get; }

    /// <summary>
    /// Executes nothing more, after this step, until an interrupt comes (when enabled) or the clock reaches <paramref name="until"/>.
    /// An interrupt that came before is not slept over.
    /// </summary>
    public void Halt(ulong until = RegisterFile.NoTimer)
    {
        ref RegisterFile registers = ref Registers;
        registers.Halted = true;
        registers.TimerDeadline = until;
    }

    /// <summary>
    /// Sends <paramref name="vector"/> to the CPU with APIC id <paramref name="destination"/>: a write of the interrupt command register
    /// in x2APIC mode, fixed delivery, physical destination (Intel SDM vol. 3, 11.12.9).
    /// </summary>
    public abstract void SendInterrupt(uint destination, byte vector);

    public uint ReadMmio32(Gpa address) => (uint)Bus.ReadMmio(address, 4);

    public ulong ReadMmio64(Gpa address) => Bus.ReadMmio(address, 8);

    public void WriteMmio32(Gpa address, uint value) => Bus.WriteMmio(address, value, 4);

    public void WriteMmio64(Gpa address, ulong value) => Bus.WriteMmio(address, value, 8);
}
