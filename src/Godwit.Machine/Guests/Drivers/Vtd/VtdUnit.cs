using Godwit.Machine.Guests.Drivers.Spec;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Drivers;

/// <summary>What the guest knows of its remapping unit. Lies in guest RAM; the methods work on a copy.</summary>
internal struct VtdUnit
{
    /// <summary>How long the unit may take for a command or an invalidation, in guest nanoseconds.</summary>
    private const ulong CommandTimeout = 1_000_000_000;

    public Gpa Registers;
    public ulong Capabilities;
    public ulong ExtendedCapabilities;
    public Gpa RootTable;
    public Gpa ContextTable;
    public Gpa Queue;
    public Gpa WaitStatus;
    public uint QueueTail;
    public uint WaitSequence;

    public readonly bool CachingMode => (Capabilities & VtdRegisters.CachingMode) != 0;

    /// <summary>Largest address width that the unit offers and that is not above its limit: 39 or 48 bits.</summary>
    public readonly int AddressBits =>
        (Capabilities & VtdRegisters.Sagaw48) != 0 && MaxGuestWidth >= 48 ? 48
        : (Capabilities & VtdRegisters.Sagaw39) != 0 ? 39
        : throw new GuestPanicException($"the IOMMU offers no table depth known here (CAP 0x{Capabilities:x})");

    private readonly int MaxGuestWidth =>
        (int)((Capabilities >> VtdRegisters.MgawShift) & VtdRegisters.MgawMask) + 1;

    /// <summary>
    /// Brings the unit up with empty tables: queued invalidation, root table, everything invalidated, translation on
    /// (the order of VT-d 6.6 and 11.4.4.1). All memory is handed over zeroed.
    /// </summary>
    public void Enable(GuestCpu cpu)
    {
        Capabilities = cpu.ReadMmio64(Registers + VtdRegisters.Capability);
        ExtendedCapabilities = cpu.ReadMmio64(Registers + VtdRegisters.ExtendedCapability);
        if ((ExtendedCapabilities & VtdRegisters.QueuedInvalidation) == 0)
            throw new GuestPanicException("the IOMMU has no queued invalidation");
        if ((Capabilities & VtdRegisters.PageSelective) == 0)
            throw new GuestPanicException("the IOMMU has no page-selective invalidation");

        // Root entry of bus 0 (9.1): all devices of this board are there.
        cpu.Bus.StoreRelease64(RootTable, ContextTable.Value | VtdRegisters.Present);

        cpu.WriteMmio64(Registers + VtdRegisters.QueueTail, 0);
        cpu.WriteMmio64(Registers + VtdRegisters.QueueAddress, Queue.Value);
        Command(cpu, VtdRegisters.QueueEnable);

        cpu.WriteMmio64(Registers + VtdRegisters.RootTableAddress, RootTable.Value);
        Command(cpu, VtdRegisters.SetRootTable);

        var batch = new InvalidationBatch(cpu);
        batch.Add(ref this, VtdRegisters.ContextInvalidate | VtdRegisters.ContextGlobal, 0);
        batch.Add(ref this, VtdRegisters.IotlbInvalidate | VtdRegisters.IotlbGlobal | VtdRegisters.IotlbDrainReads | VtdRegisters.IotlbDrainWrites, 0);
        batch.Submit(ref this);
        Command(cpu, VtdRegisters.TranslationEnable);
    }

    /// <summary>Puts a device of bus 0 into a domain, or into pass-through when there is no table (VT-d 9.3, 6.5.3.3).</summary>
    public void Attach(GuestCpu cpu, ushort bdf, ushort domain, Gpa? table)
    {
        if (bdf > 0xFF)
            throw new GuestPanicException($"device 0x{bdf:x4} is not on bus 0");
        int width = AddressBits == 48 ? 2 : 1; // AW: 1 is 39 bits, 2 is 48 bits
        Gpa entry = ContextTable + (bdf * 16UL);
        ulong low = table is { } root
            ? root.Value | VtdRegisters.Present
            : VtdRegisters.ContextPassThrough | VtdRegisters.Present;

        // The half with the present bit last, so that the unit never sees half an entry.
        cpu.Bus.StoreRelease64(entry + 8, ((ulong)domain << VtdRegisters.ContextDomainShift) | (uint)width);
        cpu.Bus.StoreRelease64(entry, low);

        // With caching mode not-present entries are cached under domain 0 (6.1).
        var batch = new InvalidationBatch(cpu);
        ulong source = (ulong)bdf << VtdRegisters.ContextSourceShift;
        batch.Add(ref this, VtdRegisters.ContextInvalidate | VtdRegisters.ContextDevice | source, 0);
        batch.Add(ref this, VtdRegisters.IotlbInvalidate | VtdRegisters.IotlbDomain | ((ulong)domain << VtdRegisters.IotlbDomainShift), 0);
        batch.Submit(ref this);
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

    /// <summary>
    /// Descriptors for the invalidation queue, submitted with one tail write and waited for. The queue is empty between batches.
    /// </summary>
    public struct InvalidationBatch(GuestCpu cpu)
    {
        private readonly GuestCpu _cpu = cpu;
        private int _count;

        /// <summary>2^<paramref name="order"/> pages of a domain, aligned to themselves (VT-d 6.5.2.3).</summary>
        public void AddPages(ref VtdUnit unit, ushort domain, Iova iova, int order)
        {
            if ((ulong)order > ((unit.Capabilities >> VtdRegisters.MaxAddressMaskShift) & VtdRegisters.MaxAddressMaskMask))
            {
                AddDomain(ref unit, domain);
                return;
            }

            Add(ref unit,
                VtdRegisters.IotlbInvalidate | VtdRegisters.IotlbPages | VtdRegisters.IotlbDrainReads | VtdRegisters.IotlbDrainWrites
                | ((ulong)domain << VtdRegisters.IotlbDomainShift),
                iova.Value | (uint)order);
        }

        /// <summary>A whole domain.</summary>
        public void AddDomain(ref VtdUnit unit, ushort domain) => Add(ref unit,
            VtdRegisters.IotlbInvalidate | VtdRegisters.IotlbDomain | VtdRegisters.IotlbDrainReads | VtdRegisters.IotlbDrainWrites
            | ((ulong)domain << VtdRegisters.IotlbDomainShift), 0);

        /// <summary>A wait of its own for what was added last: each unmap of a strict guest has one.</summary>
        public void AddWait(ref VtdUnit unit)
        {
            unit.WaitSequence++;
            Add(ref unit,
                VtdRegisters.Wait | VtdRegisters.WaitStatusWrite | ((ulong)unit.WaitSequence << VtdRegisters.WaitStatusShift),
                unit.WaitStatus.Value);
        }

        public void Add(ref VtdUnit unit, ulong low, ulong high)
        {
            // One descriptor stays free: head = tail means empty (6.5.2).
            if (_count >= VtdRegisters.QueueEntries - 2)
                Submit(ref unit);
            Gpa entry = unit.Queue + ((ulong)(unit.QueueTail % VtdRegisters.QueueEntries) << VtdRegisters.QueueEntryShift);
            _cpu.Bus.Store(entry, low);
            _cpu.Bus.Store(entry + 8, high);
            unit.QueueTail = (unit.QueueTail + 1) % VtdRegisters.QueueEntries;
            _count++;
        }

        /// <summary>Submits what has been added behind a wait and returns when the unit has done it.</summary>
        public void Submit(ref VtdUnit unit)
        {
            if (_count == 0)
                return;
            _count = 0;
            unit.WaitSequence++;
            Gpa entry = unit.Queue + ((ulong)(unit.QueueTail % VtdRegisters.QueueEntries) << VtdRegisters.QueueEntryShift);
            _cpu.Bus.Store(entry,
                VtdRegisters.Wait | VtdRegisters.WaitStatusWrite | ((ulong)unit.WaitSequence << VtdRegisters.WaitStatusShift));
            _cpu.Bus.Store(entry + 8, unit.WaitStatus.Value);
            unit.QueueTail = (unit.QueueTail + 1) % VtdRegisters.QueueEntries;
            _cpu.WriteMmio64(unit.Registers + VtdRegisters.QueueTail, (ulong)unit.QueueTail << VtdRegisters.QueueEntryShift);

            for (int poll = 0; poll < 1000; poll++)
            {
                if (_cpu.Bus.LoadAcquire32(unit.WaitStatus) == unit.WaitSequence)
                    return;
            }

            WaitLonger(ref unit);
        }

        private readonly void WaitLonger(ref VtdUnit unit)
        {
            ulong deadline = _cpu.Clock + CommandTimeout;
            while (_cpu.Bus.LoadAcquire32(unit.WaitStatus) != unit.WaitSequence)
            {
                if (_cpu.Clock <= deadline)
                    continue;
                uint status = _cpu.ReadMmio32(unit.Registers + VtdRegisters.FaultStatus);
                throw new GuestPanicException(
                    $"the IOMMU did not complete an invalidation within {CommandTimeout / 1_000_000} ms (FSTS 0x{status:x})");
            }
        }
    }
}
