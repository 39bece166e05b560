using Godwit.Machine.Guests.Drivers.Spec;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Drivers;

// Interrupt remapping (VT-d 5.1).
internal partial struct VtdUnit
{
    /// <summary>
    /// Sets an empty interrupt-remapping table of one page, invalidates what may be cached of another, and switches remapping on with
    /// compatibility format blocked (VT-d 11.4.4.1: SIRTP, IRE, CFI). With x2APIC destinations when the unit has them.
    /// </summary>
    public void EnableInterruptRemapping(GuestCpu cpu)
    {
        cpu.WriteMmio64(
            Registers + VtdRegisters.InterruptTableAddress,
            InterruptTable.Value | VtdRegisters.InterruptTableSize | (OffersExtendedInterrupts ? VtdRegisters.ExtendedMode : 0));
        Command(cpu, VtdRegisters.SetInterruptTable);
        var batch = new InvalidationBatch(cpu);
        batch.Add(ref this, VtdRegisters.InterruptInvalidate, 0);
        batch.Submit(ref this);
        Command(cpu, VtdRegisters.InterruptRemappingEnable);
        RemapsInterrupts = true;
    }

    /// <summary>
    /// An entry of the table for an interrupt of the device <paramref name="source"/>, and the message that the device must send for it
    /// (VT-d 5.1.2.2, 9.9). Fixed delivery, physical destination.
    /// </summary>
    public MsiMessage AddInterrupt(GuestCpu cpu, ushort source, uint destination, byte vector, bool level = false)
    {
        uint index = InterruptsUsed;
        if (index >= VtdRegisters.InterruptEntries)
            throw new GuestPanicException($"all {VtdRegisters.InterruptEntries} entries of the interrupt-remapping table are used");
        InterruptsUsed++;
        Gpa entry = InterruptTable + (index * 16UL);
        cpu.Bus.StoreRelease64(entry + 8, VtdRegisters.VerifySource | source);
        cpu.Bus.StoreRelease64(entry, EntryFor(destination, vector) | (level ? VtdRegisters.EntryLevel : 0));
        InvalidateInterrupts(cpu, index, order: 0);
        return new MsiMessage(VtdRegisters.RemappableFormat | (index << VtdRegisters.HandleShift), 0);
    }

    /// <summary>
    /// Sends 2^<paramref name="order"/> interrupts from entry <paramref name="first"/> on elsewhere. On return none arrives at the old
    /// place any more.
    /// </summary>
    public void MoveInterrupts(GuestCpu cpu, uint first, int order, uint destination)
    {
        for (uint index = first; index < first + (1u << order); index++)
        {
            Gpa entry = InterruptTable + (index % VtdRegisters.InterruptEntries * 16UL);
            var vector = (byte)(cpu.Bus.Load<ulong>(entry) >> VtdRegisters.EntryVectorShift);
            cpu.Bus.StoreRelease64(entry, EntryFor(destination, vector));
        }

        InvalidateInterrupts(cpu, first, order);
    }

    private void InvalidateInterrupts(GuestCpu cpu, uint first, int order)
    {
        var batch = new InvalidationBatch(cpu);
        batch.Add(
            ref this,
            VtdRegisters.InterruptInvalidate | VtdRegisters.InterruptSelective | ((ulong)order << VtdRegisters.InterruptMaskShift)
            | ((ulong)first << VtdRegisters.InterruptIndexShift),
            0);
        batch.Submit(ref this);
    }

    private readonly ulong EntryFor(uint destination, byte vector)
    {
        if (!OffersExtendedInterrupts && destination >= byte.MaxValue)
            throw new GuestPanicException($"the IOMMU has no 32-bit destinations (EIM), which APIC id {destination} needs");
        int shift = OffersExtendedInterrupts ? VtdRegisters.EntryDestinationShift : VtdRegisters.EntryShortDestinationShift;
        return VtdRegisters.Present | ((ulong)vector << VtdRegisters.EntryVectorShift) | ((ulong)destination << shift);
    }
}
