using Godwit.Machine.Guests.Drivers.Spec;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Drivers;

// The invalidation queue (VT-d 6.5.2).
internal partial struct VtdUnit
{
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
