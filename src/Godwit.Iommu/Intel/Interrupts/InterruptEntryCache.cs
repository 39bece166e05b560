namespace Godwit.Iommu.Intel.Interrupts;

/// <summary>
/// Entries of the interrupt-remapping table by index: one slot for each index modulo the size, so memory is bounded and a newer entry
/// replaces an older one. Lookups are lock-free and allocate nothing.
/// </summary>
/// <remarks>
/// <para>Users are between <see cref="Enter"/> and <see cref="Exit"/>; an invalidation waits for those that could use what it forgets. These are not
/// only the users that began before it. Such a user may have read the entry before the guest changed it, and keep it after the invalidation has
/// looked, for as long as it takes to see that the generation has changed; whoever begins meanwhile may find it. So there are two counters,
/// and users that begin during an invalidation count in the other one: first the older users are waited for, who may keep what is stale, then the
/// ones who may have found that. Those that begin later find nothing stale.</para>
/// <para>This needs that no user counts in the wrong one, and so the turn is read again after counting. Else a user that read it before an
/// invalidation and counted after it would be in the counter that the next one waits for last, and those who find what it keeps in the one
/// waited for first.</para>
/// </remarks>
internal sealed class InterruptEntryCache
{
    internal const int Slots = 1024;

    private readonly Slot?[] _slots = new Slot?[Slots];
    private int _turn;
    private int _usersEven;
    private int _usersOdd;
    private int _generation;

    /// <summary>Grows with each invalidation. What was fetched at an older one must not be kept.</summary>
    internal int Generation => Volatile.Read(ref _generation);

    /// <summary>Begins a use; the result is for <see cref="Exit"/>. A full fence.</summary>
    internal int Enter()
    {
        while (true)
        {
            int turn = Volatile.Read(ref _turn) & 1;
            Interlocked.Increment(ref Users(turn));
            if ((Volatile.Read(ref _turn) & 1) == turn)
                return turn;
            Exit(turn); // an invalidation began between
        }
    }

    internal void Exit(int turn) => Interlocked.Decrement(ref Users(turn));

    internal bool TryGet(int index, out InterruptTableEntry entry)
    {
        Slot? slot = Volatile.Read(ref _slots[index & (Slots - 1)]);
        entry = slot?.Entry ?? default;
        return slot is not null && slot.Index == index;
    }

    /// <summary>Keeps what was fetched while the generation was <paramref name="generation"/>, unless an invalidation came between.</summary>
    internal void Add(int index, in InterruptTableEntry entry, int generation)
    {
        var slot = new Slot(index, entry);
        ref Slot? place = ref _slots[index & (Slots - 1)];
        Interlocked.Exchange(ref place, slot);
        if (Generation != generation)
            Interlocked.CompareExchange(ref place, null, slot);
    }

    /// <summary>Forgets entries <paramref name="first"/> to <paramref name="last"/>; on return no use of them goes on. One caller at a time, not inside a use.</summary>
    internal void Invalidate(int first, int last)
    {
        Interlocked.Increment(ref _generation);
        if (last - first >= Slots)
        {
            Array.Clear(_slots);
        }
        else
        {
            for (int index = first; index <= last; index++)
            {
                ref Slot? place = ref _slots[index & (Slots - 1)];
                if (Volatile.Read(ref place) is { } slot && slot.Index == index)
                    Interlocked.CompareExchange(ref place, null, slot);
            }
        }

        WaitForUsers();
    }

    private void WaitForUsers()
    {
        for (int pass = 0; pass < 2; pass++)
        {
            int old = (Interlocked.Increment(ref _turn) - 1) & 1;
            var spin = default(SpinWait);
            while (Volatile.Read(ref Users(old)) != 0)
                spin.SpinOnce();
        }
    }

    private ref int Users(int turn) => ref turn == 0 ? ref _usersEven : ref _usersOdd;

    private sealed record Slot(int Index, InterruptTableEntry Entry);
}
