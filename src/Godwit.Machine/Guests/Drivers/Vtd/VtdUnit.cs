using Godwit.Machine.Guests.Drivers.Spec;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Drivers;

/// <summary>What the guest knows of its remapping unit. Lies in guest RAM; the methods work on a copy.</summary>
internal partial struct VtdUnit
{
    /// <summary>
    /// How long the unit may take for a command or an invalidation, in guest nanoseconds. The specification sets no limit; what has a device of its
    /// own process let go of many mappings may take a while on a busy host.
    /// </summary>
    private const ulong CommandTimeout = 10_000_000_000;

    public Gpa Registers;
    public ulong Capabilities;
    public ulong ExtendedCapabilities;
    public Gpa RootTable;
    public Gpa ContextTable;
    public Gpa Queue;
    public Gpa WaitStatus;
    public Gpa InterruptTable;
    public uint QueueTail;
    public uint WaitSequence;

    /// <summary>Entries of <see cref="InterruptTable"/> given to interrupts.</summary>
    public uint InterruptsUsed;

    /// <summary>Scalable mode, with descriptors of 256 bits (VT-d 3.4.3, 6.5.2).</summary>
    public bool Scalable;

    /// <summary>Page tables are first-stage ones.</summary>
    public bool FirstStage;

    /// <summary>Translation has been switched on.</summary>
    public bool Translates;

    /// <summary>Interrupt remapping has been switched on.</summary>
    public bool RemapsInterrupts;

    public readonly bool CachingMode => (Capabilities & VtdRegisters.CachingMode) != 0;

    /// <summary>Whether it translates DMA at all: a unit that only remaps interrupts offers no table depth (VT-d 11.4.2).</summary>
    public readonly bool OffersTranslation => (Capabilities & VtdRegisters.SagawMask) != 0;

    public readonly bool OffersInterruptRemapping => (ExtendedCapabilities & VtdRegisters.InterruptRemapping) != 0;

    /// <summary>Whether interrupts can have destinations of 32 bits.</summary>
    public readonly bool OffersExtendedInterrupts => (ExtendedCapabilities & VtdRegisters.ExtendedInterrupts) != 0;

    /// <summary>Largest address width that the unit offers and that is not above its limit: 39, 48 or 57 bits.</summary>
    public readonly int AddressBits =>
        (Capabilities & VtdRegisters.Sagaw57) != 0 && MaxGuestWidth >= 57 ? 57
        : (Capabilities & VtdRegisters.Sagaw48) != 0 && MaxGuestWidth >= 48 ? 48
        : (Capabilities & VtdRegisters.Sagaw39) != 0 ? 39
        : throw new GuestPanicException($"the IOMMU offers no table depth known here (CAP 0x{Capabilities:x})");

    private readonly int MaxGuestWidth =>
        (int)((Capabilities >> VtdRegisters.MgawShift) & VtdRegisters.MgawMask) + 1;

    /// <summary>
    /// Learns what the unit offers, decides between legacy and scalable mode, and switches queued invalidation on, which everything else
    /// needs (VT-d 6.6). All memory is handed over zeroed; the context table has two pages.
    /// </summary>
    public void Start(GuestCpu cpu, TableKind tables)
    {
        Capabilities = cpu.ReadMmio64(Registers + VtdRegisters.Capability);
        ExtendedCapabilities = cpu.ReadMmio64(Registers + VtdRegisters.ExtendedCapability);
        if ((ExtendedCapabilities & VtdRegisters.QueuedInvalidation) == 0)
            throw new GuestPanicException("the IOMMU has no queued invalidation");
        Scalable = tables != TableKind.Legacy && (ExtendedCapabilities & VtdRegisters.ScalableMode) != 0;
        FirstStage = tables == TableKind.FirstStage;
        if (FirstStage && (!Scalable || (ExtendedCapabilities & VtdRegisters.FirstStage) == 0))
            throw new GuestPanicException("the IOMMU has no first-stage tables");
        cpu.WriteMmio64(Registers + VtdRegisters.QueueTail, 0);
        cpu.WriteMmio64(Registers + VtdRegisters.QueueAddress, Queue.Value | (Scalable ? VtdRegisters.WideDescriptors : 0));
        Command(cpu, VtdRegisters.QueueEnable);
    }

    /// <summary>Sets an empty root table, invalidates everything and switches translation on (the order of VT-d 6.6 and 11.4.4.1).</summary>
    public void EnableTranslation(GuestCpu cpu)
    {
        if ((Capabilities & VtdRegisters.PageSelective) == 0)
            throw new GuestPanicException("the IOMMU has no page-selective invalidation");

        // Root entry of bus 0 (9.1, 9.2): all devices of this board are there. In scalable mode its halves serve devices 0-15 and 16-31.
        if (Scalable)
            cpu.Bus.StoreRelease64(RootTable + 8, (ContextTable + RamPage.Size).Value | VtdRegisters.Present);
        cpu.Bus.StoreRelease64(RootTable, ContextTable.Value | VtdRegisters.Present);
        cpu.WriteMmio64(Registers + VtdRegisters.RootTableAddress, RootTable.Value | (Scalable ? VtdRegisters.ScalableTables : 0));
        Command(cpu, VtdRegisters.SetRootTable);

        var batch = new InvalidationBatch(cpu);
        batch.Add(ref this, VtdRegisters.ContextInvalidate | VtdRegisters.ContextGlobal, 0);
        if (Scalable)
            batch.Add(ref this, VtdRegisters.PasidInvalidate | VtdRegisters.PasidGlobal, 0);
        batch.Add(ref this, VtdRegisters.IotlbInvalidate | VtdRegisters.IotlbGlobal | VtdRegisters.IotlbDrainReads | VtdRegisters.IotlbDrainWrites, 0);
        batch.Submit(ref this);
        Command(cpu, VtdRegisters.TranslationEnable);
        Translates = true;
    }

    /// <summary>Takes one recorded fault, if there is one, and clears it (VT-d 7.2).</summary>
    public readonly bool TryTakeFault(GuestCpu cpu, out ulong address, out ulong details)
    {
        address = details = 0;
        uint status = cpu.ReadMmio32(Registers + VtdRegisters.FaultStatus);
        if (status == uint.MaxValue || (status & (VtdRegisters.FaultPending | VtdRegisters.FaultOverflow | VtdRegisters.QueueError)) == 0)
            return false;

        uint count = (uint)((Capabilities >> VtdRegisters.FaultCountShift) & VtdRegisters.FaultCountMask) + 1;
        uint index = ((status >> VtdRegisters.FaultIndexShift) & 0xFF) % count;
        Gpa record = Registers + (((Capabilities >> VtdRegisters.FaultOffsetShift) & VtdRegisters.FaultOffsetMask) * 16)
            + (index * VtdRegisters.FaultRecordSize);
        if ((status & VtdRegisters.FaultPending) != 0)
        {
            address = cpu.ReadMmio64(record);
            details = cpu.ReadMmio64(record + 8);
            cpu.WriteMmio64(record + 8, VtdRegisters.FaultRecordValid); // write 1 to clear
        }
        else
        {
            details = status;
        }

        cpu.WriteMmio32(Registers + VtdRegisters.FaultStatus, VtdRegisters.FaultOverflow | VtdRegisters.QueueError);
        return true;
    }

    private readonly void Command(GuestCpu cpu, uint bit)
    {
        uint status = cpu.ReadMmio32(Registers + VtdRegisters.GlobalStatus);
        cpu.WriteMmio32(Registers + VtdRegisters.GlobalCommand, (status & ~VtdRegisters.OneShotCommands) | bit);
        ulong deadline = cpu.Clock + CommandTimeout;
        while ((cpu.ReadMmio32(Registers + VtdRegisters.GlobalStatus) & bit) == 0)
        {
            if (cpu.Clock > deadline)
                throw new GuestPanicException($"the IOMMU did not take command 0x{bit:x} within {CommandTimeout / 1_000_000} ms");
        }
    }
}
