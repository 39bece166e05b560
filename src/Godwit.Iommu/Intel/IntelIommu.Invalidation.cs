using Godwit.Iommu.Intel.Spec;
using Godwit.Memory;

namespace Godwit.Iommu.Intel;

// Invalidation, by queue and by registers (VT-d 6.5). Under the command lock.
public sealed partial class IntelIommu
{
    private bool _syncHeld;
    private bool _invalidatedSinceWait;

    /// <summary>Context-cache invalidation (6.5.2.1). What is not present is cached without a domain, so it goes with every one.</summary>
    private bool InvalidateContexts(ulong granularity, ushort domain, ushort sourceId, int functionMask)
    {
        EndSegment();
        _invalidatedSinceWait = true;
        switch (granularity)
        {
            case ContextCommandBits.Global:
                Reevaluate(_ => true);
                return true;
            case ContextCommandBits.Domain:
                // In scalable mode entries have no domain, so all go (6.5.2.1).
                Reevaluate(device => !IsLegacy || IsOf(device, domain));
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

    private static bool IsOf(IntelDevice device, ushort domain) => device.Region.Context.IsBlocked || device.Region.Context.Domain == domain;

    /// <summary>
    /// IOTLB invalidation (6.5.2.3): forgets cached translations and, in caching mode, finds out what the guest changed. Pages are those of
    /// second-stage tables; of a domain's first-stage translations all go.
    /// </summary>
    private bool InvalidateIotlb(ulong granularity, ushort domain, ulong address, int addressMask)
    {
        if (granularity is 0 || (granularity == IotlbCommandBits.Page && addressMask > Capabilities.MaxAddressMask))
            return false;
        bool pages = granularity == IotlbCommandBits.Page;
        foreach (IntelDevice device in Volatile.Read(ref _devices))
        {
            if (granularity != IotlbCommandBits.Global && !IsOf(device, domain))
                continue;
            (Iova first, Iova last) = pages && !device.Region.Context.UsesFirstStage ? Pages(address, addressMask) : Everything;
            Invalidate(device, first, last);
        }

        return true;
    }

    private static (Iova First, Iova Last) Everything => (default, new Iova(ulong.MaxValue));

    /// <summary>Any mask that a descriptor can have: MAMV limits those of second-stage pages only (11.4.2).</summary>
    private static (Iova First, Iova Last) Pages(ulong address, int addressMask)
    {
        if (addressMask >= 64 - RamPage.Shift)
            return Everything;
        ulong bytes = (ulong)RamPage.Size << addressMask;
        ulong first = address & ~(bytes - 1);
        return (new Iova(first), new Iova(first + (bytes - 1)));
    }

    private void Invalidate(IntelDevice device, Iova first, Iova last)
    {
        _invalidatedSinceWait = true;
        EnterSegment();
        device.Region.Iotlb.Invalidate(first, last);
        if (device.View == DmaView.Translated)
            SyncInSteps(device, first, last);
    }

    /// <summary>Brings the announcements up to the tables, giving the lock away after each step, with the host's unmaps done. Within a segment.</summary>
    private void SyncInSteps(IntelDevice device, Iova first, Iova last)
    {
        SyncRange range = device.Region.BeginSync(first, last);
        while (!device.Region.SyncStep(ref range))
        {
            EndSegment();
            Thread.Yield();
            EnterSegment();
        }
    }

    /// <summary>PASID-cache invalidation (6.5.2.2): of a domain, of a PASID in a domain, of all.</summary>
    private bool InvalidatePasids(ulong granularity, ushort domain, uint pasid)
    {
        EndSegment();
        _invalidatedSinceWait = true;
        switch (granularity)
        {
            case 0:
                Reevaluate(device => IsOf(device, domain));
                return true;
            case 1:
                Reevaluate(device => device.Region.Context.IsBlocked || (IsOf(device, domain) && device.Region.Context.Pasid == pasid));
                return true;
            case 3:
                Reevaluate(_ => true);
                return true;
            default:
                return false;
        }
    }

    /// <summary>PASID-based IOTLB invalidation (6.5.2.4): all translations of a PASID, or pages of a first-stage one.</summary>
    private bool InvalidatePasidIotlb(in InvalidationDescriptor descriptor)
    {
        bool pages = descriptor.Granularity == 3;
        if (descriptor.Granularity < 2)
            return false;
        (Iova first, Iova last) = pages ? Pages(descriptor.Address, descriptor.AddressMask) : Everything;
        foreach (IntelDevice device in Volatile.Read(ref _devices))
        {
            DeviceContext context = device.Region.Context;
            bool named = context.Domain == descriptor.Domain && context.Pasid == descriptor.Pasid && (!pages || context.UsesFirstStage);
            if (context.IsBlocked || named)
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

    /// <summary>Interrupt-entry cache invalidation (6.5.2.8).</summary>
    private bool InvalidateInterruptEntries(in InvalidationDescriptor descriptor)
    {
        int count = descriptor.InterruptSelective ? 1 << Math.Min(descriptor.InterruptIndexMask, 16) : 1 << 16;
        int first = descriptor.InterruptSelective ? descriptor.InterruptIndex & ~(count - 1) : 0;
        _interrupts?.InvalidateEntries(first, first + count - 1);
        return true;
    }

    /// <summary>
    /// CCMD (6.5.1.1): ignored while the queue is on, as the specification forbids the mix. Scalable mode is for the queue alone, so there
    /// the command is done in no granularity.
    /// </summary>
    private void ExecuteContextCommand()
    {
        ulong command;
        lock (_registerLock)
            command = _registers.Get64(RegisterOffsets.ContextCommand);
        if ((command & ContextCommandBits.Invalidate) == 0 || _queue.IsOn)
            return;
        ulong granularity = (command >> ContextCommandBits.RequestShift) & 3;
        bool done = IsLegacy && InvalidateContexts(granularity, (ushort)command, (ushort)(command >> 16), (int)((command >> 32) & 3));
        _topology.WaitForAccesses();
        ulong actual = done ? granularity : 0;
        lock (_registerLock)
        {
            command &= ~(ContextCommandBits.Invalidate | (3UL << ContextCommandBits.ActualShift));
            _registers.Set64(RegisterOffsets.ContextCommand, command | (actual << ContextCommandBits.ActualShift));
        }
    }

    private bool IsLegacy => new RootPointer(_rootPointer).Mode == TableMode.Legacy;

    /// <summary>IOTLB register (6.5.1.2); as CCMD.</summary>
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
            done = IsLegacy && InvalidateIotlb(
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
