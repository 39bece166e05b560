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
            // What is cached of a device without a usable context was found by later walks, through whatever tables there were then.
            DeviceContext context = device.Region.Context;
            (Iova first, Iova last) = pages && context.IsTranslated && !context.UsesFirstStage ? Pages(address, addressMask) : Everything;
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
        Charge(ContextUnits);
        device.Region.Iotlb.Invalidate(first, last);
        if (device.View == DmaView.Translated)
            _plan.Compare(device, first, last);
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
        Charge(InterruptUnits);
        return true;
    }

    /// <summary>
    /// CCMD (6.5.1.1): ignored while the queue is on, as the specification forbids the mix. Scalable mode is for the queue alone, so there
    /// the command is done in no granularity.
    /// </summary>
    private void RequestContextCommand()
    {
        lock (_registerLock)
            _contextCommand = (_registers.Get64(RegisterOffsets.ContextCommand) & ContextCommandBits.Invalidate) != 0 && !_queue.IsOn;
    }

    private void BeginContextCommand()
    {
        _contextCommand = false;
        lock (_registerLock)
            _registerCommand = _registers.Get64(RegisterOffsets.ContextCommand);
        _work = Work.ContextCommand;
        _commandTaken = IsLegacy && InvalidateContexts(
            (_registerCommand >> ContextCommandBits.RequestShift) & 3, (ushort)_registerCommand, (ushort)(_registerCommand >> 16), (int)((_registerCommand >> 32) & 3));
    }

    private void FinishContextCommand() => FinishRegisterCommand(
        RegisterOffsets.ContextCommand, ContextCommandBits.Invalidate, ContextCommandBits.RequestShift, ContextCommandBits.ActualShift, again: _contextCommand);

    private bool IsLegacy => new RootPointer(_rootPointer).Mode == TableMode.Legacy;

    /// <summary>IOTLB register (6.5.1.2); as CCMD.</summary>
    private void RequestIotlbCommand()
    {
        lock (_registerLock)
            _iotlbCommand = (_registers.Get64(RegisterOffsets.IotlbInvalidate) & IotlbCommandBits.Invalidate) != 0 && !_queue.IsOn;
    }

    private void BeginIotlbCommand()
    {
        _iotlbCommand = false;
        ulong address;
        lock (_registerLock)
        {
            _registerCommand = _registers.Get64(RegisterOffsets.IotlbInvalidate);
            address = _registers.Get64(RegisterOffsets.InvalidateAddress);
        }

        _work = Work.IotlbCommand;
        _commandTaken = IsLegacy && InvalidateIotlb(
            (_registerCommand >> IotlbCommandBits.RequestShift) & 3,
            (ushort)(_registerCommand >> IotlbCommandBits.DomainShift),
            address & ~0xFFFUL,
            (int)(address & IotlbCommandBits.AddressMaskMask));
    }

    private void FinishIotlbCommand() => FinishRegisterCommand(
        RegisterOffsets.IotlbInvalidate, IotlbCommandBits.Invalidate, IotlbCommandBits.RequestShift, IotlbCommandBits.ActualShift, again: _iotlbCommand);

    /// <summary>Tells software by the bit that it waits for. Software that has written the register again meanwhile waits for that.</summary>
    private void FinishRegisterCommand(int offset, ulong invalidate, int requestShift, int actualShift, bool again)
    {
        Drain();
        if (again)
            return;
        ulong actual = _commandTaken ? (_registerCommand >> requestShift) & 3 : 0;
        lock (_registerLock)
        {
            ulong value = _registers.Get64(offset) & ~(invalidate | (3UL << actualShift));
            _registers.Set64(offset, value | (actual << actualShift));
        }
    }

    /// <summary>Page invalidations up to the next wait or context change, or the end of a step, share one hold of the lock and one batch.</summary>
    internal void EnterSegment()
    {
        if (_syncHeld)
            return;
        Sync.Enter();
        _syncHeld = true;
    }

    /// <summary>On return what was withdrawn is unmapped in the host, IQH says so, and the lock is free.</summary>
    internal void EndSegment()
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

        TellHead();
    }
}
