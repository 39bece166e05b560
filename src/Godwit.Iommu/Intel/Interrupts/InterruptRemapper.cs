using Godwit.Iommu.Intel.Interrupts;
using Godwit.Iommu.Intel.Spec;

namespace Godwit.Iommu.Intel;

/// <summary>
/// Interrupt remapping (VT-d 5.1): decides for each interrupt request of a function what reaches the local APICs. Posted interrupts are not
/// offered. Any thread.
/// </summary>
public sealed class InterruptRemapper : IInterruptTableOwner
{
    private readonly GuestTables _tables;
    private readonly Action<ushort, ushort, FaultReason> _record;
    private readonly InterruptEntryCache _cache = new();
    private State _state = new(default);
    private long _fetches;

    internal InterruptRemapper(GuestTables tables, Action<ushort, ushort, FaultReason> record)
    {
        _tables = tables;
        _record = record;
    }

    /// <summary>Entries read from guest memory since the machine started; the rest were cached.</summary>
    public long Fetches => Interlocked.Read(ref _fetches);

    /// <summary>
    /// Delivers the request of <paramref name="requester"/>, a 32-bit write of <paramref name="data"/> to <paramref name="address"/> in the
    /// interrupt range, or blocks it and records why. When an invalidation returns to the guest, no delivery by an older entry goes on.
    /// </summary>
    public void Deliver(ushort requester, ulong address, uint data, IInterruptSink sink)
    {
        ArgumentNullException.ThrowIfNull(sink);
        FaultReason reason;
        ushort index = 0;
        bool silent = false;
        int turn = _cache.Enter();
        try
        {
            reason = Remap(requester, address, data, out InterruptMessage message, out index, out silent);
            if (reason == FaultReason.None)
                sink.Deliver(message);
        }
        finally
        {
            _cache.Exit(turn);
        }

        if (reason != FaultReason.None && !silent)
            _record(requester, index, reason);
    }

    void IInterruptTableOwner.Configure(in InterruptRemappingState state)
    {
        Volatile.Write(ref _state, new State(state));
        _cache.Invalidate(0, ushort.MaxValue);
    }

    void IInterruptTableOwner.InvalidateEntries(int first, int last) => _cache.Invalidate(first, last);

    private FaultReason Remap(
        ushort requester, ulong address, uint data, out InterruptMessage message, out ushort faultIndex, out bool silent)
    {
        InterruptRemappingState state = Volatile.Read(ref _state).Value;
        faultIndex = 0;
        silent = false;
        message = default;
        if (!state.Enabled || !RemappableRequest.IsRemappable(address))
        {
            message = InterruptMessage.FromCompatibility(address, data);
            return !state.Enabled || (state.CompatibilityPasses && !state.Extended) ? FaultReason.None : FaultReason.CompatibilityBlocked;
        }

        var request = new RemappableRequest(address, data);
        int index = request.Index;
        faultIndex = (ushort)index;
        if (request.HasReservedBits)
            return FaultReason.InterruptRequestReserved;
        if (index >= state.Entries)
            return FaultReason.InterruptIndexBeyondTable;
        if (!TryGetEntry(state, index, out InterruptTableEntry entry))
            return FaultReason.InterruptTableAccess;
        message = entry.ToMessage(state.Extended);
        silent = entry.FaultDisabled;
        return entry.Check(requester, state.Extended);
    }

    private bool TryGetEntry(in InterruptRemappingState state, int index, out InterruptTableEntry entry)
    {
        if (_cache.TryGet(index, out entry))
            return true;
        int generation = _cache.Generation;
        Span<ulong> words = stackalloc ulong[2];
        Interlocked.Increment(ref _fetches);
        if (!_tables.TryRead(state.Table.Value + ((ulong)index * InterruptTableEntry.Size), words))
            return false;
        entry = new InterruptTableEntry(words[0], words[1]);
        // 6.1 allows entries that are not present to be kept in caching mode; keeping none of them is right in both.
        if (entry.IsPresent)
            _cache.Add(index, entry, generation);
        return true;
    }

    private sealed record State(InterruptRemappingState Value);
}
