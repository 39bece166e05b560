using Godwit.Iommu.Intel.Spec;
using Godwit.Memory;

namespace Godwit.Iommu.Intel;

// Faults and the two event interrupts (VT-d 7.2, 7.3, 6.5.2.10).
public sealed partial class IntelIommu
{
    private IInterruptSink? _apics;

    /// <summary>Where the unit's own two interrupts go, faults and completed waits; before, nowhere. Once, while the machine is built.</summary>
    public void ConnectEvents(IInterruptSink apics) => _apics = apics;

    /// <summary>Records a fault of a DMA request and signals the fault event if it is due. Any thread, no lock held but the command lock.</summary>
    internal void RecordFault(ushort sourceId, Iova iova, FaultReason reason, bool write) =>
        Record(sourceId, iova.Value & LastIova.Value & ~0xFFFUL, reason, write);

    /// <summary>
    /// Records a fault of an interrupt request: the index stands in bits 63:48 of the fault information (VT-d 11.4.7.6). Qualified
    /// ones of an entry with FPD are not to be told here.
    /// </summary>
    internal void RecordInterruptFault(ushort sourceId, ushort index, FaultReason reason) =>
        Record(sourceId, (ulong)index << 48, reason, write: true);

    /// <summary>
    /// A request of a function to 0xFEEx_xxxx that is no interrupt, which the caller blocks: a read, or a write of another size than four bytes.
    /// It is a fault while anything is remapped (VT-d 3.15, 5.1.4.1: 29h, whose fault information is undefined). Any thread.
    /// </summary>
    /// <param name="requester">The function.</param>
    /// <param name="write">Else a read.</param>
    public void RejectInterruptRangeRequest(ushort requester, bool write)
    {
        const uint Remapping = GlobalCommandBits.TranslationEnable | GlobalCommandBits.InterruptRemappingEnable;
        if ((ReadRegister32(RegisterOffsets.GlobalStatus) & Remapping) != 0)
            Record(requester, 0, FaultReason.InterruptRangeMisused, write);
    }

    private void Record(ushort sourceId, ulong information, FaultReason reason, bool write)
    {
        bool signal;
        lock (_registerLock)
            signal = _faults.Record(sourceId, information, reason, write);
        if (signal)
            SignalEvent(RegisterOffsets.FaultEventControl);
    }

    private void SignalCompletion()
    {
        lock (_registerLock)
        {
            uint status = _registers.Get32(RegisterOffsets.CompletionStatus);
            if ((status & CompletionStatusBits.WaitCompleted) != 0)
                return;
            _registers.Set32(RegisterOffsets.CompletionStatus, status | CompletionStatusBits.WaitCompleted);
        }

        SignalEvent(RegisterOffsets.CompletionEventControl);
    }

    /// <summary>Sets IP; sends the message and clears IP unless masked. The four event registers are adjacent.</summary>
    private void SignalEvent(int control)
    {
        lock (_registerLock)
            _registers.Set32(control, _registers.Get32(control) | EventControlBits.Pending);
        SendPendingEvent(control);
    }

    private void SendPendingEvent(int control)
    {
        uint data, address, upper;
        bool extended;
        lock (_registerLock)
        {
            uint value = _registers.Get32(control);
            if ((value & (EventControlBits.Pending | EventControlBits.Mask)) != EventControlBits.Pending)
                return;
            _registers.Set32(control, value & ~EventControlBits.Pending);
            data = _registers.Get32(control + 4);
            address = _registers.Get32(control + 8);
            upper = _registers.Get32(control + 12);
            extended = (_interruptTable & InterruptTableBits.Extended) != 0;
        }

        // 5.1.6: the address is that of an interrupt message, and the message is not remapped. Anything else is dropped: what the unit
        // sends must not run the register handlers of other devices.
        if (InterruptRange.Contains(address))
            _apics?.Deliver(InterruptMessage.FromEvent(upper, address, data, extended));
    }

    private void ClearCompletionPending()
    {
        lock (_registerLock)
        {
            if ((_registers.Get32(RegisterOffsets.CompletionStatus) & CompletionStatusBits.WaitCompleted) != 0)
                return;
            uint control = _registers.Get32(RegisterOffsets.CompletionEventControl);
            _registers.Set32(RegisterOffsets.CompletionEventControl, control & ~EventControlBits.Pending);
        }
    }
}
