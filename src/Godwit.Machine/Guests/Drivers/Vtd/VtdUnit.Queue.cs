using Godwit.Machine.Guests.Drivers.Spec;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Drivers;

// The invalidation queue (VT-d 6.5.2).
internal partial struct VtdUnit
{
    /// <summary>log2 of the bytes of a descriptor.</summary>
    private readonly int DescriptorShift => Scalable ? 5 : 4;

    /// <summary>Descriptors in the queue, which has one page (IQA.QS = 0).</summary>
    private readonly uint QueueEntries => (uint)RamPage.Size >> DescriptorShift;

    /// <summary>
    /// Descriptors for the invalidation queue, submitted with one tail write and waited for. The queue is empty between batches.
    /// </summary>
    public struct InvalidationBatch(GuestCpu cpu)
    {
        private const ulong SecondStage = VtdRegisters.IotlbInvalidate | VtdRegisters.IotlbDrainReads | VtdRegisters.IotlbDrainWrites;

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

            ulong of = (ulong)domain << VtdRegisters.IotlbDomainShift;
            Add(ref unit, of | (unit.FirstStage ? VtdRegisters.PasidIotlbInvalidate | VtdRegisters.PasidIotlbPages : SecondStage | VtdRegisters.IotlbPages), iova.Value | (uint)order);
        }

        /// <summary>A whole domain: of the first stage its PASID 0, which is all that it has here (VT-d 6.5.2.4).</summary>
        public void AddDomain(ref VtdUnit unit, ushort domain)
        {
            ulong of = (ulong)domain << VtdRegisters.IotlbDomainShift;
            Add(ref unit, of | (unit.FirstStage ? VtdRegisters.PasidIotlbInvalidate | VtdRegisters.PasidIotlbAll : SecondStage | VtdRegisters.IotlbDomain), 0);
        }

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
            if (_count >= unit.QueueEntries - 2)
                Submit(ref unit);
            Put(ref unit, low, high);
            _count++;
        }

        /// <summary>Submits what has been added behind a wait and returns when the unit has done it.</summary>
        public void Submit(ref VtdUnit unit)
        {
            if (_count == 0)
                return;
            _count = 0;
            unit.WaitSequence++;
            Put(ref unit,
                VtdRegisters.Wait | VtdRegisters.WaitStatusWrite | ((ulong)unit.WaitSequence << VtdRegisters.WaitStatusShift), unit.WaitStatus.Value);
            _cpu.WriteMmio64(unit.Registers + VtdRegisters.QueueTail, (ulong)unit.QueueTail << unit.DescriptorShift);

            for (int poll = 0; poll < 1000; poll++)
            {
                if (_cpu.Bus.LoadAcquire32(unit.WaitStatus) == unit.WaitSequence)
                    return;
            }

            WaitLonger(ref unit);
        }

        private readonly void Put(ref VtdUnit unit, ulong low, ulong high)
        {
            uint entries = unit.QueueEntries;
            Gpa entry = unit.Queue + ((ulong)(unit.QueueTail % entries) << unit.DescriptorShift);
            _cpu.Bus.Store(entry, low);
            _cpu.Bus.Store(entry + 8, high); // the upper half of a wide one stays zero (6.5.2)
            unit.QueueTail = (unit.QueueTail + 1) % entries;
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
