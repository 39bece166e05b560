using Godwit.Iommu.Intel.Spec;
using Godwit.Memory;
using Godwit.Pci;

namespace Godwit.Iommu.Intel;

/// <summary>
/// DMA of one function (bus object and devfn) through the unit: translation of accesses, and the exact record of what shadow users were told.
/// Everything but <see cref="Translate"/> runs under the unit's lock.
/// </summary>
internal sealed class IntelDmaRegion : IommuRegion, ILeafVisitor
{
    private readonly IntelIommu _unit;
    private readonly PciBus _bus;
    private readonly DevFn _devFn;
    private readonly List<(IIommuListener Listener, BusRange Range)> _listeners = [];
    private readonly AnnouncementSet _record = new();
    private DeviceContext _context = DeviceContext.Blocked(FaultReason.RootNotPresent);
    private bool _inBatch;
    private ulong _cursor;
    private ulong _goneFirst;
    private ulong _goneLength;

    internal IntelDmaRegion(IntelIommu unit, PciBus bus, DevFn devFn, string name) : base(name, MaxSize)
    {
        _unit = unit;
        _bus = bus;
        _devFn = devFn;
    }

    /// <inheritdoc/>
    public override IommuAttributes Attributes => _unit.Attributes;

    internal Iotlb Iotlb { get; } = new();

    internal DeviceContext Context => Volatile.Read(ref _context);

    internal bool HasListeners => _listeners.Count != 0;

    internal long Live => _record.Count;

    internal long Mapped { get; private set; }

    internal long Unmapped { get; private set; }

    /// <summary>Computed now: bus numbers are the guest's to change.</summary>
    internal ushort SourceId => new RequesterId(_bus.Number, _devFn).Value;

    /// <inheritdoc/>
    public override IommuTranslation Translate(Iova iova, AccessRights wanted, in TransactionAttributes attributes)
    {
        if (Iotlb.TryGet(iova, out Announcement leaf) && (wanted & ~leaf.Rights) == 0)
            return Found(leaf);
        return TranslateByWalk(iova, wanted);
    }

    /// <inheritdoc/>
    public override void AddListener(IIommuListener listener, BusRange range)
    {
        if (!_unit.Options.CachingMode)
        {
            throw new NotSupportedException(
                "This VT-d unit cannot announce mappings to a passthrough device: it was built with caching-mode=off");
        }

        lock (_unit.Sync)
        {
            bool first = _listeners.Count == 0;
            bool outer = _inBatch;
            _listeners.Add((listener, range));
            listener.BatchBegin();
            _inBatch = true; // the replay is a batch of its own, for this listener only
            try
            {
                if (first)
                    SyncAll();
                else
                    ReplayRecord(listener, range);
            }
            finally
            {
                _inBatch = outer;
                listener.BatchEnd();
            }
        }
    }

    /// <inheritdoc/>
    public override void RemoveListener(IIommuListener listener)
    {
        lock (_unit.Sync)
        {
            _listeners.RemoveAll(entry => ReferenceEquals(entry.Listener, listener));
            if (_listeners.Count == 0)
            {
                Unmapped += _record.Count;
                _record.Clear();
            }
        }
    }

    /// <summary>Reads the context entry again and forgets cached translations.</summary>
    internal void RefreshContext()
    {
        Volatile.Write(ref _context, _unit.LookupContext(SourceId));
        Iotlb.Invalidate(default, new Iova(ulong.MaxValue));
    }

    /// <summary>Compares the whole table with the record.</summary>
    internal void SyncAll() => Sync(default, new Iova(_unit.LastIova.Value));

    /// <summary>
    /// Compares what the tables map in a range with what was announced, and announces the difference: what is gone or changed is
    /// unmapped before anything is mapped over it; what is the same is not mentioned.
    /// </summary>
    internal void Sync(Iova first, Iova last)
    {
        if (_listeners.Count == 0)
            return;
        // Whole announcements only: one that reaches over an end of the range may have been replaced by smaller pages.
        if (_record.TryFindEndingAtOrAfter(first, out Announcement over) && over.First < first)
            first = over.First;
        if (_record.TryFindEndingAtOrAfter(last, out over) && over.First <= last && over.Last > last)
            last = over.Last;
        _cursor = first.Value;
        DeviceContext context = Context;
        if (_unit.TranslationEnabled && context.IsTranslated)
            _unit.Shadows.Walk(context.Table, first, last, this);
        WithdrawUpTo(last.Value);
        TellGone();
    }

    void ILeafVisitor.Visit(in Announcement leaf)
    {
        if (leaf.First.Value > _cursor)
            WithdrawUpTo(leaf.First.Value - 1);
        while (_record.TryFindEndingAtOrAfter(leaf.First, out Announcement old) && old.First <= leaf.Last)
        {
            if (old == leaf)
            {
                _cursor = leaf.Last.Value + 1;
                return;
            }

            Withdraw(old);
        }

        _cursor = leaf.Last.Value + 1;
        if (_record.Count >= _unit.Shadows.AnnouncementLimit)
        {
            _unit.Shadows.Refuse();
            return;
        }

        _record.Add(leaf);
        Mapped++;
        TellGone();
        BeginBatch();
        foreach ((IIommuListener listener, BusRange range) in _listeners)
            TellMapped(listener, range, leaf);
    }

    /// <summary>Ends the series of events, if there was one: on return the host has unmapped what was withdrawn.</summary>
    internal void EndBatch()
    {
        if (!_inBatch)
            return;
        _inBatch = false;
        foreach ((IIommuListener listener, _) in _listeners)
            listener.BatchEnd();
    }

    private IommuTranslation TranslateByWalk(Iova iova, AccessRights wanted)
    {
        int generation = Iotlb.Generation;
        DeviceContext context = Context;
        if (context.IsBlocked)
            context = _unit.LookupContext(SourceId); // without caching mode, present needs no invalidation (VT-d 6.1)
        if (context.IsPassThrough)
            return new IommuTranslation(default, default, ulong.MaxValue, AccessRights.ReadWrite);
        FaultReason fault = context.Fault;
        if (context.IsTranslated)
        {
            fault = _unit.Walker.Walk(context.Table, iova, wanted, out Announcement leaf);
            if (fault == FaultReason.None)
            {
                if (wanted != AccessRights.None) // a probe marks nothing, so what it finds may not be kept
                    Iotlb.Fill(leaf, generation);
                return Found(leaf);
            }
        }

        // A probe that wants nothing is no request, so it cannot fault. Abort-DMA mode has no reason to tell.
        if (wanted != AccessRights.None && fault != FaultReason.None && !(context.FaultDisabled && fault.IsQualified()))
            _unit.RecordFault(SourceId, iova, fault, (wanted & AccessRights.Write) != 0);
        return new IommuTranslation(new Iova(iova.Value & ~0xFFFUL), default, 0xFFF, AccessRights.None);
    }

    private static IommuTranslation Found(in Announcement leaf) => new(leaf.First, leaf.Target, leaf.Length - 1, leaf.Rights);

    private void ReplayRecord(IIommuListener listener, BusRange range)
    {
        var from = new Iova(range.First.Value);
        while (_record.TryFindEndingAtOrAfter(from, out Announcement item) && item.First.Value <= range.Last.Value)
        {
            TellMapped(listener, range, item);
            from = new Iova(item.Last.Value + 1);
        }
    }

    private void WithdrawUpTo(ulong last)
    {
        while (_record.TryFindEndingAtOrAfter(new Iova(_cursor), out Announcement old) && old.First.Value <= last)
            Withdraw(old);
    }

    private void Withdraw(in Announcement old)
    {
        _record.Remove(old);
        Unmapped++;
        if (_goneLength != 0 && _goneFirst + _goneLength == old.First.Value)
        {
            _goneLength += old.Length;
            return;
        }

        TellGone();
        _goneFirst = old.First.Value;
        _goneLength = old.Length;
    }

    /// <summary>Tells of the adjoining announcements withdrawn so far, as one range; before anything is mapped, which may be in their place.</summary>
    private void TellGone()
    {
        if (_goneLength == 0)
            return;
        BeginBatch();
        foreach ((IIommuListener listener, BusRange range) in _listeners)
        {
            if (TryClip(range, _goneFirst, _goneFirst + (_goneLength - 1), out ulong first, out ulong length))
                listener.Unmapped(new Iova(first), length);
        }

        _goneLength = 0;
    }

    private static void TellMapped(IIommuListener listener, BusRange range, in Announcement item)
    {
        if (TryClip(range, item.First.Value, item.Last.Value, out ulong first, out ulong length))
            listener.Mapped(new Iova(first), length, item.Target + (first - item.First.Value), item.Rights);
    }

    // Clipped to what the listener asked for: a large page may reach over the interrupt window that splits a device's view.
    private static bool TryClip(BusRange range, ulong itemFirst, ulong itemLast, out ulong first, out ulong length)
    {
        first = Math.Max(itemFirst, range.First.Value);
        ulong last = Math.Min(itemLast, range.Last.Value);
        length = last - first + 1;
        return first <= last;
    }

    private void BeginBatch()
    {
        if (_inBatch)
            return;
        _inBatch = true;
        foreach ((IIommuListener listener, _) in _listeners)
            listener.BatchBegin();
        _unit.NoteBatch(this);
    }
}
