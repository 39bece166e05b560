using Godwit.Iommu.Intel.Spec;

namespace Godwit.Iommu.Intel;

/// <summary>
/// Primary fault logging (VT-d 7.2.1, 11.4.7) in the shared register file: a ring of records, one summary, one event. A repeated
/// fault of the same source, page, reason and direction collapses into its record; a full ring sets overflow and drops.
/// Called under the register lock.
/// </summary>
internal sealed class FaultRecorder(RegisterFile registers)
{
    /// <summary>Where the next fault goes; part of the migrated state.</summary>
    internal int Next { get; set; }

    /// <summary>Records a fault. True when the fault event is to be signalled.</summary>
    /// <param name="sourceId">The requester.</param>
    /// <param name="information">FI, bits 63:12: the page, or for interrupts the index in bits 63:48.</param>
    /// <param name="reason">Why.</param>
    /// <param name="write">Else a read.</param>
    internal bool Record(ushort sourceId, ulong information, FaultReason reason, bool write)
    {
        uint status = registers.Get32(RegisterOffsets.FaultStatus);
        if ((status & FaultStatusBits.Overflow) != 0)
            return false;
        ulong low = information;
        ulong high = FaultRecordBits.Fault | (write ? 0 : FaultRecordBits.Read) | ((ulong)reason << 32) | sourceId;
        for (int i = 0; i < RegisterOffsets.FaultRecordCount; i++)
        {
            if (registers.Get64(Low(i)) == low && registers.Get64(High(i)) == high)
                return false;
        }

        if ((registers.Get64(High(Next)) & FaultRecordBits.Fault) != 0)
            return Raise(status, FaultStatusBits.Overflow);
        registers.Set64(Low(Next), low);
        registers.Set64(High(Next), high);
        uint first = (status & FaultStatusBits.Pending) == 0 ? (uint)Next << FaultStatusBits.FirstRecordShift : status & FaultStatusBits.FirstRecordMask;
        Next = (Next + 1) % RegisterOffsets.FaultRecordCount;
        return Raise((status & ~FaultStatusBits.FirstRecordMask) | first, FaultStatusBits.Pending);
    }

    /// <summary>The invalidation queue stops (VT-d 6.5.2.11). True when the event is to be signalled.</summary>
    internal bool RaiseQueueError(QueueErrorInfo info)
    {
        ulong record = registers.Get64(RegisterOffsets.QueueErrorRecord) & ~QueueErrorBits.InfoMask;
        registers.Set64(RegisterOffsets.QueueErrorRecord, record | (uint)info);
        return Raise(registers.Get32(RegisterOffsets.FaultStatus), FaultStatusBits.QueueError);
    }

    /// <summary>A device TLB did not answer, so the queue stops. True when the event is to be signalled.</summary>
    internal bool RaiseTimeout(ushort sourceId)
    {
        ulong record = registers.Get64(RegisterOffsets.QueueErrorRecord) & ~QueueErrorBits.TimeoutSourceMask;
        registers.Set64(RegisterOffsets.QueueErrorRecord, record | ((ulong)sourceId << QueueErrorBits.TimeoutSourceShift));
        return Raise(registers.Get32(RegisterOffsets.FaultStatus), FaultStatusBits.TimeoutError);
    }

    /// <summary>After a guest write to the records or the status: PPF is the OR of all F bits; nothing left clears a pending event.</summary>
    internal void Recompute()
    {
        uint status = registers.Get32(RegisterOffsets.FaultStatus) & ~FaultStatusBits.Pending;
        for (int i = 0; i < RegisterOffsets.FaultRecordCount; i++)
        {
            if ((registers.Get64(High(i)) & FaultRecordBits.Fault) != 0)
                status |= FaultStatusBits.Pending;
        }

        registers.Set32(RegisterOffsets.FaultStatus, status);
        if ((status & FaultStatusBits.Reasons) == 0)
        {
            uint control = registers.Get32(RegisterOffsets.FaultEventControl);
            registers.Set32(RegisterOffsets.FaultEventControl, control & ~EventControlBits.Pending);
        }
    }

    private static int Low(int index) => RegisterOffsets.FaultRecords + (index * 16);

    private static int High(int index) => Low(index) + 8;

    // An event is signalled only when no status bit was set before (VT-d 7.3).
    private bool Raise(uint status, uint bit)
    {
        bool quiet = (registers.Get32(RegisterOffsets.FaultStatus) & FaultStatusBits.Reasons) == 0;
        registers.Set32(RegisterOffsets.FaultStatus, status | bit);
        return quiet;
    }
}
