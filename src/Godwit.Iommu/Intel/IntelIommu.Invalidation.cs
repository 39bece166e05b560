using Godwit.Iommu.Intel.Spec;
using Godwit.Memory;

namespace Godwit.Iommu.Intel;

// Invalidation, by queue and by registers (VT-d 6.5). Under the command lock.
public sealed partial class IntelIommu
{
    private const int DescriptorShift = 4;

    /// <summary>
    /// Whole walks of the largest table that one register write may cost before the queue stops with an error. A guest needs one or two
    /// per device and run; without a bound, a queue full of domain invalidations over aliased tables would keep a CPU for hours.
    /// </summary>
    private const int WalksPerRun = 8;

    private ulong _queueBase;
    private uint _queueSize;
    private bool _syncHeld;
    private bool _invalidatedSinceWait;

    private void SetQueueEnabled(bool enable)
    {
        lock (_registerLock)
        {
            ulong address = _registers.Get64(RegisterOffsets.QueueAddress);
            _queueBase = enable ? address & QueueAddressBits.BaseMask : 0;
            _queueSize = enable ? 256u << (int)(address & QueueAddressBits.SizeMask) : 0;
            _registers.Set64(RegisterOffsets.QueueHead, 0);
        }

        SetStatus(GlobalCommandBits.QueuedInvalidationEnable, enable);
        RunQueue();
    }

    /// <summary>
    /// Executes descriptors from head to tail, at most one round of the queue for one register write. Events for shadow users are one
    /// batch up to each wait, which completes only after the host has unmapped all of it.
    /// </summary>
    private void RunQueue()
    {
        try
        {
            long limit = Walker.Visited + (Walker.TableLimit * WalksPerRun);
            for (uint left = _queueSize; left > 0 && TryFetch(out InvalidationDescriptor descriptor, out uint next); left--)
            {
                if (Walker.Visited > limit || !Execute(descriptor))
                {
                    FailQueue();
                    return;
                }

                lock (_registerLock)
                    _registers.Set64(RegisterOffsets.QueueHead, (ulong)next << DescriptorShift);
            }
        }
        finally
        {
            EndSegment();
        }
    }

    private bool TryFetch(out InvalidationDescriptor descriptor, out uint next)
    {
        descriptor = default;
        next = 0;
        uint head, tail;
        lock (_registerLock)
        {
            if (_queueSize == 0 || (_registers.Get32(RegisterOffsets.FaultStatus) & FaultStatusBits.QueueError) != 0)
                return false;
            head = (uint)(_registers.Get64(RegisterOffsets.QueueHead) >> DescriptorShift);
            tail = (uint)(_registers.Get64(RegisterOffsets.QueueTail) >> DescriptorShift);
        }

        if (head == tail)
            return false;
        Span<ulong> words = stackalloc ulong[2];
        if (tail >= _queueSize || head >= _queueSize || !Tables.TryRead(_queueBase + ((ulong)head << DescriptorShift), words))
        {
            FailQueue();
            return false;
        }

        descriptor = new InvalidationDescriptor(words[0], words[1]);
        next = head + 1 == _queueSize ? 0 : head + 1;
        return true;
    }

    private bool Execute(in InvalidationDescriptor descriptor)
    {
        if (descriptor.HasReservedBits)
            return false;
        switch ((DescriptorType)descriptor.Type)
        {
            case DescriptorType.ContextCache:
                return InvalidateContexts(descriptor.Granularity, descriptor.SourceId, descriptor.FunctionMask);
            case DescriptorType.Iotlb:
                return InvalidateIotlb(descriptor.Granularity, descriptor.Domain, descriptor.Address, descriptor.AddressMask);
            case DescriptorType.InterruptEntryCache:
                return true; // nothing is cached while interrupts are not remapped
            case DescriptorType.Wait:
                return CompleteWait(descriptor);
            default:
                return false;
        }
    }

    /// <summary>Context-cache invalidation (6.5.2.1). Domain-selective is done as global, which the specification allows.</summary>
    private bool InvalidateContexts(ulong granularity, ushort sourceId, int functionMask)
    {
        EndSegment();
        _invalidatedSinceWait = true;
        switch (granularity)
        {
            case ContextCommandBits.Global or ContextCommandBits.Domain:
                Reevaluate(_ => true);
                return true;
            case ContextCommandBits.Device:
                // FM 1, 2, 3 ignore bit 2, bits 2:1, bits 2:0 of the function number.
                int mask = 0xFFFF & ~(functionMask switch { 0 => 0, 1 => 4, 2 => 6, _ => 7 });
                Reevaluate(device => (device.Region.SourceId & mask) == (sourceId & mask));
                return true;
            default:
                return false;
        }
    }

    /// <summary>IOTLB invalidation (6.5.2.3): forgets cached translations and, in caching mode, finds out what the guest changed.</summary>
    private bool InvalidateIotlb(ulong granularity, ushort domain, ulong address, int addressMask)
    {
        if (granularity is 0 || (granularity == IotlbCommandBits.Page && addressMask > Capabilities.MaxAddressMask))
            return false;
        _invalidatedSinceWait = true;
        bool pages = granularity == IotlbCommandBits.Page;
        ulong bytes = pages ? (ulong)RamPage.Size << addressMask : 0;
        var first = new Iova(pages ? address & ~(bytes - 1) : 0);
        var last = new Iova(pages ? first.Value + (bytes - 1) : ulong.MaxValue);
        EnterSegment();
        foreach (IntelDevice device in Volatile.Read(ref _devices))
        {
            DeviceContext context = device.Region.Context;
            bool concerned = granularity == IotlbCommandBits.Global || !context.IsValid || context.Entry.Domain == domain;
            if (!concerned)
                continue;
            device.Region.Iotlb.Invalidate(first, last);
            if (device.IsTranslated && first <= LastIova)
                device.Region.Sync(first, last <= LastIova ? last : LastIova);
        }

        return true;
    }

    /// <summary>Invalidation wait (6.5.2.8). Everything before it is done, in the host too, and no access still uses what went.</summary>
    private bool CompleteWait(in InvalidationDescriptor descriptor)
    {
        if (!descriptor.WaitInterrupt && !descriptor.WaitStatusWrite && !descriptor.WaitFence)
            return false;
        EndSegment();
        if (_invalidatedSinceWait)
        {
            _topology.WaitForAccesses();
            _invalidatedSinceWait = false;
        }

        if (descriptor.WaitStatusWrite)
            Tables.WriteStatus(descriptor.StatusAddress, descriptor.StatusData);
        if (descriptor.WaitInterrupt)
            SignalCompletion();
        return true;
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

    private void FailQueue()
    {
        EndSegment(); // the event is sent without Sync held
        bool signal;
        lock (_registerLock)
            signal = _faults.RaiseQueueError();
        if (signal)
            SignalEvent(RegisterOffsets.FaultEventControl);
    }

    /// <summary>CCMD (6.5.1): ignored while the queue is on, as the specification forbids the mix.</summary>
    private void ExecuteContextCommand()
    {
        ulong command;
        lock (_registerLock)
            command = _registers.Get64(RegisterOffsets.ContextCommand);
        if ((command & ContextCommandBits.Invalidate) == 0 || _queueSize != 0)
            return;
        ulong granularity = (command >> ContextCommandBits.RequestShift) & 3;
        bool done = InvalidateContexts(granularity, (ushort)(command >> 16), (int)((command >> 32) & 3));
        EndSegment();
        _topology.WaitForAccesses();
        ulong actual = done ? granularity == ContextCommandBits.Domain ? ContextCommandBits.Global : granularity : 0;
        lock (_registerLock)
        {
            command &= ~(ContextCommandBits.Invalidate | (3UL << ContextCommandBits.ActualShift));
            _registers.Set64(RegisterOffsets.ContextCommand, command | (actual << ContextCommandBits.ActualShift));
        }
    }

    /// <summary>IOTLB register (6.5.1).</summary>
    private void ExecuteIotlbCommand()
    {
        ulong command, address;
        lock (_registerLock)
        {
            command = _registers.Get64(RegisterOffsets.IotlbInvalidate);
            address = _registers.Get64(RegisterOffsets.InvalidateAddress);
        }

        if ((command & IotlbCommandBits.Invalidate) == 0 || _queueSize != 0)
            return;
        ulong granularity = (command >> IotlbCommandBits.RequestShift) & 3;
        bool done;
        try
        {
            done = InvalidateIotlb(
                granularity,
                (ushort)(command >> IotlbCommandBits.DomainShift),
                address & ~0xFFFUL,
                (int)(address & IotlbCommandBits.AddressMaskMask));
        }
        finally
        {
            EndSegment();
        }

        _topology.WaitForAccesses();
        lock (_registerLock)
        {
            command &= ~(IotlbCommandBits.Invalidate | (3UL << IotlbCommandBits.ActualShift));
            _registers.Set64(RegisterOffsets.IotlbInvalidate, command | ((done ? granularity : 0) << IotlbCommandBits.ActualShift));
        }
    }

    // Page invalidations up to the next wait or context change share one hold of the lock and one batch.
    private void EnterSegment()
    {
        if (_syncHeld)
            return;
        Sync.Enter();
        _syncHeld = true;
    }

    private void EndSegment()
    {
        if (!_syncHeld)
            return;
        try
        {
            EndBatches();
        }
        finally
        {
            _syncHeld = false;
            Sync.Exit();
        }
    }
}
