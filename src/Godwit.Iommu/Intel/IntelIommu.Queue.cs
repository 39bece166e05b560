using Godwit.Iommu.Intel.Spec;

namespace Godwit.Iommu.Intel;

// The invalidation queue (VT-d 6.5.2). Under the command lock.
public sealed partial class IntelIommu
{
    private LatchedQueue _queue;
    private ulong? _untoldHead; // where the head stands when the segment ends

    private void SetQueueEnabled(bool enable)
    {
        if (!enable)
            Drain(); // what was taken from the queue is done when QIES says that it is off
        lock (_registerLock)
        {
            _queue = enable ? LatchedQueue.At(_registers.Get64(RegisterOffsets.QueueAddress)) : default;
            _registers.Set64(RegisterOffsets.QueueHead, 0);
        }

        SetStatus(GlobalCommandBits.QueuedInvalidationEnable, enable);
        RenewQueueLimit();
    }

    private bool QueueHasWork
    {
        get
        {
            lock (_registerLock)
            {
                return _queue.IsOn && (_registers.Get32(RegisterOffsets.FaultStatus) & FaultStatusBits.QueueStopped) == 0
                    && Head != _registers.Get64(RegisterOffsets.QueueTail);
            }
        }
    }

    /// <summary>
    /// Begins the descriptor at the head; false when there is none that can be. The head moves on when it is done. Events for shadow users are one
    /// batch up to each wait, which completes only after the host has unmapped all of it; so does what IQH shows.
    /// </summary>
    private bool TryBeginDescriptor()
    {
        if (!TryFetch(out InvalidationDescriptor descriptor, out _nextHead))
            return false;
        Charge(1);
        QueueErrorInfo? error = _spent > _queueLimit ? QueueErrorInfo.None : Execute(descriptor);
        if (error is { } info)
        {
            FailQueue(info);
            return false;
        }

        _work = Work.Descriptor;
        return true;
    }

    /// <summary>Offset of the next descriptor. Under the register lock.</summary>
    private ulong Head => _untoldHead ?? _registers.Get64(RegisterOffsets.QueueHead);

    /// <summary>IQH shows how far the queue is done.</summary>
    private void TellHead()
    {
        if (_untoldHead is not { } head)
            return;
        _untoldHead = null;
        lock (_registerLock)
            _registers.Set64(RegisterOffsets.QueueHead, head);
    }

    private bool TryFetch(out InvalidationDescriptor descriptor, out ulong next)
    {
        descriptor = default;
        next = 0;
        ulong head, tail;
        lock (_registerLock)
        {
            if (!_queue.IsOn || (_registers.Get32(RegisterOffsets.FaultStatus) & FaultStatusBits.QueueStopped) != 0)
                return false;
            head = Head;
            tail = _registers.Get64(RegisterOffsets.QueueTail);
        }

        if (head == tail)
            return false;
        Span<ulong> words = stackalloc ulong[4];
        words = _queue.IsWide ? words : words[..2];
        if (CheckQueue(tail) is { } error)
        {
            FailQueue(error);
            return false;
        }

        if (!Tables.TryRead(_queue.Base + head, words))
        {
            FailQueue(QueueErrorInfo.DescriptorAccess);
            return false;
        }

        descriptor = new InvalidationDescriptor(words[0], words[1], _queue.IsWide ? words[2] | words[3] : 0);
        next = head + (1UL << _queue.Shift);
        if (next >> _queue.Shift == _queue.Entries)
            next = 0;
        return true;
    }

    private QueueErrorInfo? CheckQueue(ulong tail)
    {
        if (tail >> _queue.Shift >= _queue.Entries)
            return QueueErrorInfo.TailBeyondQueue;
        if ((tail & ((1UL << _queue.Shift) - 1)) != 0)
            return QueueErrorInfo.TailMisaligned;
        return new RootPointer(_rootPointer).Mode switch
        {
            TableMode.Scalable or TableMode.AbortDma when !_queue.IsWide => QueueErrorInfo.DescriptorWidth,
            TableMode.Reserved => QueueErrorInfo.TableModeInvalid,
            _ => null,
        };
    }

    private QueueErrorInfo? Execute(in InvalidationDescriptor descriptor)
    {
        var type = (DescriptorType)descriptor.Type;
        if (!IsOffered(type))
            return QueueErrorInfo.DescriptorType;
        if (descriptor.HasReservedBits)
            return QueueErrorInfo.DescriptorReserved;
        bool done = type switch
        {
            DescriptorType.ContextCache => InvalidateContexts(descriptor.Granularity, descriptor.Domain, descriptor.SourceId, descriptor.FunctionMask),
            DescriptorType.Iotlb => InvalidateIotlb(descriptor.Granularity, descriptor.Domain, descriptor.Address, descriptor.AddressMask),
            DescriptorType.PasidCache => InvalidatePasids(descriptor.Granularity, descriptor.Domain, descriptor.Pasid),
            DescriptorType.PasidIotlb => InvalidatePasidIotlb(descriptor),
            DescriptorType.DeviceTlb => InvalidateDeviceTlb(descriptor.SourceId),
            DescriptorType.PasidDeviceTlb => InvalidateDeviceTlb(descriptor.PasidDeviceSourceId),
            DescriptorType.InterruptEntryCache => InvalidateInterruptEntries(descriptor),
            _ => CompleteWait(descriptor),
        };
        return done ? null : QueueErrorInfo.DescriptorReserved;
    }

    /// <summary>Whether the capabilities allow the type, the table mode knows it, and the queue can carry it (6.5.2.11, table 26).</summary>
    private bool IsOffered(DescriptorType type) => type switch
    {
        DescriptorType.ContextCache or DescriptorType.Iotlb or DescriptorType.Wait => true,
        DescriptorType.DeviceTlb => Options.DeviceIotlb,
        DescriptorType.InterruptEntryCache => Options.InterruptRemapping,
        DescriptorType.PasidCache or DescriptorType.PasidIotlb => HasPasids,
        DescriptorType.PasidDeviceTlb => HasPasids && Options.DeviceIotlb,
        _ => false,
    };

    private bool HasPasids => Options.ScalableMode && _queue.IsWide && !IsLegacy;

    /// <summary>Invalidation wait (6.5.2.9). Everything before it is done, in the host too, and no access still uses what went.</summary>
    private bool CompleteWait(in InvalidationDescriptor descriptor)
    {
        EndSegment();
        if (_invalidatedSinceWait)
        {
            Drain();
            _invalidatedSinceWait = false;
        }

        if (descriptor.WaitStatusWrite)
            Tables.WriteStatus(descriptor.StatusAddress, descriptor.StatusData);
        if (descriptor.WaitInterrupt)
            SignalCompletion();
        return true;
    }

    private void FailQueue(QueueErrorInfo info)
    {
        EndSegment(); // the event is sent without Sync held
        bool signal;
        lock (_registerLock)
            signal = _faults.RaiseQueueError(info);
        if (signal)
            SignalEvent(RegisterOffsets.FaultEventControl);
    }
}
