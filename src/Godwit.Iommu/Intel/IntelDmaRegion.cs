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
    /// <summary>Leaves compared, announced or withdrawn in one step, which is as long as anyone waits for the unit's lock.</summary>
    internal const int LeavesPerStep = 4096;

    private readonly IntelIommu _unit;
    private readonly PciBus _bus;
    private readonly DevFn _devFn;
    private readonly List<(IIommuListener Listener, BusRange Range)> _listeners = [];
    private readonly AnnouncementSet _record = new();
    private DeviceContext _context = DeviceContext.Blocked(FaultReason.RootNotPresent);
    private bool _inBatch;
    private ulong _cursor; // all before it is told
    private ulong _emptyTo; // nothing is mapped from the cursor to here
    private int _left;
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
        RequireCachingMode();
        lock (_unit.Sync)
        {
            bool first = _listeners.Count == 0;
            bool outer = _inBatch;
            _listeners.Add((listener, range));
            listener.BatchBegin();
            _inBatch = true; // the replay is a batch of its own, for this listener only
            try
            {
                if (!first)
                    ReplayRecord(listener, range);
                else if (!DefersReplay)
                    SyncAll();
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

    /// <summary>
    /// The unit is about to compare the tables with the record, in steps, so a first listener is not told here of all that is mapped, which
    /// would hold the topology's lock for as long as it takes.
    /// </summary>
    internal bool DefersReplay { get; set; }

    /// <summary>Throws <see cref="NotSupportedException"/> when the unit cannot announce mappings.</summary>
    internal void RequireCachingMode()
    {
        if (!_unit.Options.CachingMode)
        {
            throw new NotSupportedException(
                "This VT-d unit cannot announce mappings to a passthrough device: it was built with caching-mode=off");
        }
    }

    /// <summary>Reads the context entry again and forgets cached translations.</summary>
    internal void RefreshContext()
    {
        Volatile.Write(ref _context, _unit.LookupContext(SourceId));
        Iotlb.Invalidate(default, new Iova(ulong.MaxValue));
    }

    /// <summary>Begins a comparison, to be made by <see cref="SyncStep"/>.</summary>
    internal SyncRange BeginSync(Iova first, Iova last)
    {
        if (last > _unit.LastIova)
            last = _unit.LastIova;
        // Whole announcements only: one that reaches over an end of the range may have been replaced by smaller pages.
        if (_record.TryFindEndingAtOrAfter(first, out Announcement over) && over.First < first)
            first = over.First;
        if (_record.TryFindEndingAtOrAfter(last, out over) && over.First <= last && over.Last > last)
            last = over.Last;
        return new SyncRange(first.Value, last.Value, EmptyTo: 0, _unit.Shadows.ComparisonLimit);
    }

    /// <summary>
    /// Compares what the tables map in a range with what was announced, and announces the difference: what is gone or changed is
    /// unmapped before anything is mapped over it; what is the same is not mentioned. Stops after <see cref="LeavesPerStep"/> leaves, or as
    /// many tables as the walker allows, with <paramref name="range"/> being what is left; true when nothing is. Costs as many
    /// <paramref name="units"/> as it looked at tables and leaves, or withdrew or announced.
    /// </summary>
    internal bool SyncStep(ref SyncRange range, out long units)
    {
        units = 1;
        if (_listeners.Count == 0)
            return true;
        _cursor = range.First;
        _emptyTo = range.EmptyTo;
        _left = LeavesPerStep;
        long tables = _unit.Shadows.Visited;
        long budget = range.Budget;
        bool complete = Advance(range.Last, ref budget);
        TellGone();
        range = new SyncRange(_cursor, range.Last, _emptyTo, budget);
        units += LeavesPerStep - _left + (_unit.Shadows.Visited - tables);
        return complete;
    }

    private bool Advance(ulong last, ref long budget)
    {
        if (!WithdrawEmpty())
            return false;
        if (_cursor > last)
            return true;
        DeviceContext context = Context;
        WalkEnd end = WalkEnd.Complete;
        Iova paused = default;
        if (_unit.TranslationEnabled && context.IsTranslated)
            end = _unit.Shadows.Walk(context.Table, new Iova(_cursor), new Iova(last), this, ref budget, out paused);
        if (end == WalkEnd.Stopped)
            return _cursor > last;
        _emptyTo = end == WalkEnd.Paused ? paused.Value : last + 1;
        return WithdrawEmpty() && _cursor > last;
    }

    bool ILeafVisitor.Visit(in Announcement leaf)
    {
        _emptyTo = leaf.First.Value;
        if (!WithdrawEmpty())
            return false;
        while (_record.TryFindEndingAtOrAfter(leaf.First, out Announcement old) && old.First <= leaf.Last)
        {
            if (old == leaf)
            {
                _cursor = leaf.Last.Value + 1;
                return --_left > 0;
            }

            Withdraw(old);
            if (--_left <= 0)
                return false; // the leaf is met again
        }

        _cursor = leaf.Last.Value + 1;
        if (_record.Count >= _unit.Shadows.AnnouncementLimit)
        {
            _unit.Shadows.Refuse();
            return --_left > 0;
        }

        _record.Add(leaf);
        Mapped++;
        TellGone();
        BeginBatch();
        foreach ((IIommuListener listener, BusRange range) in _listeners)
            TellMapped(listener, range, leaf);
        return --_left > 0;
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
        ushort source = SourceId;
        // What was found for another requester id says nothing of this one; and until the cached context is of this one, nothing found for it may be
        // kept: the id may become the old one again, for which that would be another's translation.
        bool renumbered = context.SourceId != source;
        // Without caching mode, present needs no invalidation (VT-d 6.1).
        if (context.IsBlocked || renumbered)
            context = _unit.LookupContext(source);
        if (context.IsPassThrough)
            return new IommuTranslation(default, default, ulong.MaxValue, AccessRights.ReadWrite);
        FaultReason fault = context.Fault;
        if (context.IsTranslated)
        {
            fault = _unit.Walker.Walk(context.Table, iova, wanted, out Announcement leaf);
            if (fault == FaultReason.None)
            {
                if (wanted != AccessRights.None && !renumbered) // a probe marks nothing, so what it finds may not be kept
                    Iotlb.Fill(leaf, generation);
                return Found(leaf);
            }
        }

        // A probe that wants nothing is no request, so it cannot fault.
        if (wanted != AccessRights.None && !(context.FaultDisabled && fault.IsQualified()))
            _unit.RecordFault(source, iova, fault, (wanted & AccessRights.Write) != 0);
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

    /// <summary>
    /// Withdraws what was announced from the cursor up to where the walk has found nothing, and moves the cursor there. False when the step was
    /// over before; the next one then goes on withdrawing without walking there again.
    /// </summary>
    private bool WithdrawEmpty()
    {
        while (_record.TryFindEndingAtOrAfter(new Iova(_cursor), out Announcement old) && old.First.Value < _emptyTo)
        {
            if (_left-- <= 0)
                return false;
            Withdraw(old);
        }

        _cursor = Math.Max(_cursor, _emptyTo);
        return true;
    }

    private void SyncAll()
    {
        SyncRange range = BeginSync(default, _unit.LastIova);
        while (!SyncStep(ref range, out _))
        {
        }
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

/// <summary>What is left of a comparison of tables with announcements.</summary>
/// <param name="First">IOVA; all before is told.</param>
/// <param name="Last">IOVA, inclusive.</param>
/// <param name="EmptyTo">From the first to here nothing is mapped.</param>
/// <param name="Budget">Tables and leaves that it may still look at.</param>
internal readonly record struct SyncRange(ulong First, ulong Last, ulong EmptyTo, long Budget);
