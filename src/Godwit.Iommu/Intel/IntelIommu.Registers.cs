using Godwit.Iommu.Intel.Spec;
using Godwit.Memory;

namespace Godwit.Iommu.Intel;

// The register window (VT-d 11.4): values under the register lock, commands one at a time under the command lock.
public sealed partial class IntelIommu : IMmioHandler
{
    private readonly RegisterFile _registers;
    private readonly FaultRecorder _faults;
    private readonly Lock _registerLock = new();

    /// <inheritdoc/>
    ulong IMmioHandler.Read(ulong offset, int size, in TransactionAttributes attributes)
    {
        Volatile.Read(ref _failure)?.Throw();
        lock (_registerLock)
        {
            ulong value = _registers.GuestRead((int)offset, size);
            return (offset, size) switch
            {
                (RegisterOffsets.GlobalStatus, 4) => value & ~(ulong)_pendingPointers,
                (RegisterOffsets.GlobalCommand, 8) => value & ~((ulong)_pendingPointers << 32), // both
                _ => value,
            };
        }
    }

    /// <summary>
    /// A register write: what it commands is done when this returns, if it is not too much, else some time later. Only vCPUs program the unit: a
    /// device's DMA into the window, or the unit's own status write, would otherwise wait for itself.
    /// </summary>
    void IMmioHandler.Write(ulong offset, ulong value, int size, in TransactionAttributes attributes)
    {
        if (attributes.Source != DirtySource.Vcpu || attributes.RequesterId is not null)
            return;
        Command(((int)offset, value, size), static (unit, write) => unit.TakeWrite(write.Item1, write.value, write.size));
    }

    /// <summary>Power-on state: translation off, all records of announcements withdrawn. Devices must have stopped their DMA.</summary>
    public void Reset() => Command(0, static (unit, _) => unit.PowerOn());

    private void TakeWrite(int offset, ulong value, int size)
    {
        lock (_registerLock)
            _registers.GuestWrite(offset, value, size);
        // A 64-bit write may reach two 32-bit registers.
        React(offset, (uint)value);
        if (size == 8)
            React(offset + 4, (uint)(value >> 32));
        _awaitsGuest = false;
        WorkForWriter();
    }

    private void PowerOn()
    {
        ForgetWork();
        lock (_registerLock)
        {
            _registers.Reset();
            _faults.Next = 0;
            _interruptTable = 0;
        }

        ShowPointers();
        _translationEnabled = false;
        Volatile.Write(ref _rootPointer, 0);
        _queue = default;
        Reevaluate(_ => true, alsoUnchanged: true);
        FinishPlan();
        ConfigureInterrupts();
        _interrupts?.InvalidateEntries(0, ushort.MaxValue);
    }

    private void DefineRegisters()
    {
        _registers.Define32(RegisterOffsets.Version, 0x10, 0);
        _registers.Define64(RegisterOffsets.Capability, Capabilities.Capability(Options), 0);
        _registers.Define64(RegisterOffsets.ExtendedCapability, Capabilities.ExtendedCapability(Options), 0);
        _registers.Define32(RegisterOffsets.GlobalCommand, 0, 0); // write-only: acted on, never kept
        _registers.Define32(
            RegisterOffsets.GlobalStatus,
            0,
            0,
            status: GlobalCommandBits.Kept
                | (Options.DmaTranslation ? GlobalCommandBits.TranslationEnable : 0)
                | (Options.InterruptRemapping ? GlobalCommandBits.KeptOfInterrupts : 0));
        _registers.Define64(RegisterOffsets.RootTable, 0, RootPointer.Mask);
        _registers.Define64(RegisterOffsets.ContextCommand, 0, 0xE000_0003_FFFF_FFFF, status: 3UL << ContextCommandBits.ActualShift);
        _registers.Define32(
            RegisterOffsets.FaultStatus,
            0,
            0,
            FaultStatusBits.Overflow | FaultStatusBits.QueueError | (Options.DeviceIotlb ? FaultStatusBits.TimeoutError : 0),
            FaultStatusBits.Pending | FaultStatusBits.FirstRecordMask);
        _registers.Define32(RegisterOffsets.FaultEventControl, EventControlBits.Mask, EventControlBits.Mask, status: EventControlBits.Pending);
        _registers.Define32(RegisterOffsets.FaultEventData, 0, 0xFFFF);
        _registers.Define32(RegisterOffsets.FaultEventAddress, 0, 0xFFFF_FFFC);
        _registers.Define32(RegisterOffsets.FaultEventUpperAddress, 0, Options.ExtendedInterruptMode ? uint.MaxValue : 0);
        _registers.Define64(RegisterOffsets.QueueHead, 0, 0, status: QueueAddressBits.OffsetMask);
        _registers.Define64(RegisterOffsets.QueueTail, 0, QueueAddressBits.OffsetMask);
        _registers.Define64(
            RegisterOffsets.QueueAddress,
            0,
            QueueAddressBits.BaseMask | QueueAddressBits.SizeMask | (Options.DmaTranslation ? QueueAddressBits.Wide : 0));
        _registers.Define32(RegisterOffsets.CompletionStatus, 0, 0, CompletionStatusBits.WaitCompleted);
        _registers.Define32(RegisterOffsets.CompletionEventControl, EventControlBits.Mask, EventControlBits.Mask, status: EventControlBits.Pending);
        _registers.Define32(RegisterOffsets.CompletionEventData, 0, 0xFFFF);
        _registers.Define32(RegisterOffsets.CompletionEventAddress, 0, 0xFFFF_FFFC);
        _registers.Define32(RegisterOffsets.CompletionEventUpperAddress, 0, Options.ExtendedInterruptMode ? uint.MaxValue : 0);
        _registers.Define64(
            RegisterOffsets.QueueErrorRecord,
            0,
            0,
            status: QueueErrorBits.InfoMask | (Options.DeviceIotlb ? QueueErrorBits.TimeoutSourceMask : 0));
        if (Options.InterruptRemapping)
        {
            _registers.Define64(
                RegisterOffsets.InterruptTable,
                0,
                InterruptTableBits.BaseMask | InterruptTableBits.SizeMask | (Options.ExtendedInterruptMode ? InterruptTableBits.Extended : 0));
        }

        _registers.Define64(RegisterOffsets.InvalidateAddress, 0, ~0xF80UL);
        _registers.Define64(RegisterOffsets.IotlbInvalidate, 0, 0xB003_FFFF_0000_0000, status: 3UL << IotlbCommandBits.ActualShift);
        for (int i = 0; i < RegisterOffsets.FaultRecordCount; i++)
        {
            _registers.Define64(RegisterOffsets.FaultRecords + (i * 16), 0, 0, status: ~0xFFFUL);
            _registers.Define64(RegisterOffsets.FaultRecords + (i * 16) + 8, 0, 0, FaultRecordBits.Fault, FaultRecordBits.Read | 0xFF_0000_FFFF);
        }
    }

    private void React(int offset, uint value)
    {
        switch (offset)
        {
            case RegisterOffsets.GlobalCommand:
                RequestGlobalCommand(value);
                break;
            case RegisterOffsets.ContextCommand + 4:
                RequestContextCommand();
                break;
            case RegisterOffsets.IotlbInvalidate + 4:
                RequestIotlbCommand();
                break;
            case RegisterOffsets.QueueTail:
                RenewQueueLimit();
                break;
            case RegisterOffsets.FaultStatus:
                lock (_registerLock)
                    _faults.Recompute();
                RenewQueueLimit(); // clearing IQE or ITE lets the queue go on (VT-d 6.5.2.11)
                break;
            case RegisterOffsets.FaultEventControl or RegisterOffsets.CompletionEventControl:
                SendPendingEvent(offset);
                break;
            case RegisterOffsets.CompletionStatus:
                ClearCompletionPending();
                break;
            case >= RegisterOffsets.FaultRecords when (offset & 0xF) == 12:
                lock (_registerLock)
                    _faults.Recompute();
                break;
        }
    }

    private uint ReadRegister32(int offset)
    {
        lock (_registerLock)
            return _registers.Get32(offset);
    }
}
