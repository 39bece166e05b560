using Godwit.Iommu.Intel.Spec;
using Godwit.Memory;

namespace Godwit.Iommu.Intel;

// Invalidation, by queue and by registers (VT-d 6.5). Under the command lock.
public sealed partial class IntelIommu
{
    private bool _syncHeld;
    private bool _invalidatedSinceWait;

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
        (Iova first, Iova last) = granularity == IotlbCommandBits.Page ? Pages(address, addressMask) : Everything;
        foreach (IntelDevice device in Volatile.Read(ref _devices))
        {
            DeviceContext context = device.Region.Context;
            if (granularity == IotlbCommandBits.Global || !context.IsValid || context.Domain == domain)
                Invalidate(device, first, last);
        }

        return true;
    }

    private static (Iova First, Iova Last) Everything => (default, new Iova(ulong.MaxValue));

    private static (Iova First, Iova Last) Pages(ulong address, int addressMask)
    {
        ulong bytes = (ulong)RamPage.Size << addressMask;
        ulong first = address & ~(bytes - 1);
        return (new Iova(first), new Iova(first + (bytes - 1)));
    }

    private void Invalidate(IntelDevice device, Iova first, Iova last)
    {
        _invalidatedSinceWait = true;
        EnterSegment();
        device.Region.Iotlb.Invalidate(first, last);
        if (device.IsTranslated && first <= LastIova)
            device.Region.Sync(first, last <= LastIova ? last : LastIova);
    }

    /// <summary>PASID-cache invalidation (6.5.2.2). Domain-selective is done as global.</summary>
    private bool InvalidatePasids(ulong granularity, uint pasid)
    {
        EndSegment();
        _invalidatedSinceWait = true;
        switch (granularity)
        {
            case 0 or 3:
                Reevaluate(_ => true);
                return true;
            case 1:
                Reevaluate(device => !device.Region.Context.IsValid || device.Region.Context.Pasid == pasid);
                return true;
            default:
                return false;
        }
    }

    /// <summary>PASID-based IOTLB invalidation (6.5.2.4), of first-stage translations: all of a PASID, or pages of it.</summary>
    private bool InvalidatePasidIotlb(in InvalidationDescriptor descriptor)
    {
        bool pages = descriptor.Granularity == 3;
        if (descriptor.Granularity < 2 || (pages && descriptor.AddressMask > Capabilities.MaxAddressMask))
            return false;
        ushort domain = descriptor.Domain;
        uint pasid = descriptor.Pasid;
        (Iova first, Iova last) = pages ? Pages(descriptor.Address, descriptor.AddressMask) : Everything;
        foreach (IntelDevice device in Volatile.Read(ref _devices))
        {
            DeviceContext context = device.Region.Context;
            if (!context.IsValid || (context.Domain == domain && context.Pasid == pasid))
                Invalidate(device, first, last);
        }

        return true;
    }

    /// <summary>
    /// Device-TLB invalidation (6.5.2.5, 6.5.2.6). Functions here hold no translations of their own, so one that exists has nothing to
    /// drop and answers at once. One that does not exist never answers, which is a time-out (6.5.2.11).
    /// </summary>
    private bool InvalidateDeviceTlb(ushort sourceId)
    {
        foreach (IntelDevice device in Volatile.Read(ref _devices))
        {
            if (device.Region.SourceId == sourceId)
                return true;
        }

        EndSegment();
        bool signal;
        lock (_registerLock)
            signal = _faults.RaiseTimeout(sourceId);
        if (signal)
            SignalEvent(RegisterOffsets.FaultEventControl);
        return true; // the descriptor itself was good: the queue stops behind it
    }

    /// <summary>Interrupt-entry cache invalidation (6.5.2.7).</summary>
    private bool InvalidateInterruptEntries(in InvalidationDescriptor descriptor)
    {
        int count = descriptor.InterruptSelective ? 1 << Math.Min(descriptor.InterruptIndexMask, 16) : 1 << 16;
        int first = descriptor.InterruptSelective ? descriptor.InterruptIndex & ~(count - 1) : 0;
        _interrupts?.InvalidateEntries(first, first + count - 1);
        return true;
    }

    /// <summary>CCMD (6.5.1): ignored while the queue is on, as the specification forbids the mix.</summary>
    private void ExecuteContextCommand()
    {
        ulong command;
        lock (_registerLock)
            command = _registers.Get64(RegisterOffsets.ContextCommand);
        if ((command & ContextCommandBits.Invalidate) == 0 || _queue.IsOn)
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

        if ((command & IotlbCommandBits.Invalidate) == 0 || _queue.IsOn)
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
