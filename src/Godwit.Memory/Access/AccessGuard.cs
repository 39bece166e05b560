using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Godwit.Memory;

/// <summary>
/// The epoch of one thread's accesses to guest memory. <see cref="_state"/> is odd while the thread is inside an access and grows with
/// every entry and exit; <see cref="WaitForAll"/> waits until every slot that it finds odd has changed. Entering costs one interlocked
/// instruction on the thread's own cache line, leaving one store; neither takes a lock or allocates after the thread's first access.
/// Slots belong to the process, not to a machine: a wait may also see another machine's accesses, which are as short.
/// </summary>
[StructLayout(LayoutKind.Explicit, Size = 256)]
internal sealed class AccessGuard
{
    private static readonly Lock Registration = new();
    private static readonly Stack<AccessGuard> Free = new();
    private static AccessGuard[] _all = [];

    [ThreadStatic]
    private static AccessGuard? _current;

    [ThreadStatic]
    private static Owner? _owner;

    // Away from the object header and from the next object by 128 bytes, which prefetchers treat as one.
    [FieldOffset(128)]
    private long _state;

    [FieldOffset(136)]
    private long _openings;

    [FieldOffset(144)]
    private int _depth;

    [FieldOffset(148)]
    private int _handlerDepth;

    private AccessGuard()
    {
    }

    /// <summary>The slot of the calling thread.</summary>
    internal static AccessGuard Current
    {
        [MethodImpl(MethodImplOptions.AggressiveInlining)]
        get => _current ?? Register();
    }

    /// <summary>Grows each time an access opened its guard half way, for a handler or a wait.</summary>
    internal long Openings => _openings;

    /// <summary>Handlers of emulated registers that are on this thread's stack now.</summary>
    internal int HandlerDepth => _handlerDepth;

    /// <summary>Begins an access; nests.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal void Enter()
    {
        // The interlocked operation is the full fence that orders "I am inside" before every read of a view or translation.
        if (_depth++ == 0)
            Interlocked.Increment(ref _state);
    }

    /// <summary>Ends it.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    internal void Exit()
    {
        if (--_depth == 0)
            Volatile.Write(ref _state, _state + 1);
    }

    /// <summary>Steps outside whatever the nesting, to call a handler; returns what <see cref="Return"/> wants.</summary>
    internal int Leave()
    {
        int depth = _depth;
        _depth = 0;
        _openings++;
        _handlerDepth++;
        Volatile.Write(ref _state, _state + 1);
        return depth;
    }

    /// <summary>Steps back inside.</summary>
    internal void Return(int depth)
    {
        Interlocked.Increment(ref _state);
        _handlerDepth--;
        _depth = depth;
    }

    /// <summary>
    /// Waits until every access that began before the call has ended. A caller that is itself inside an access steps outside for the
    /// time of the wait, so that two such callers cannot wait for each other.
    /// </summary>
    internal static void WaitForAll()
    {
        AccessGuard? own = _current;
        if (own is null || own._depth == 0)
        {
            WaitForOthers();
            return;
        }

        int depth = own.Leave();
        try
        {
            WaitForOthers();
        }
        finally
        {
            own.Return(depth);
        }
    }

    private static void WaitForOthers()
    {
        // Orders what the caller has just withdrawn before the reads below: a slot found outside can only enter and see it gone.
        Interlocked.MemoryBarrier();
        foreach (AccessGuard slot in Volatile.Read(ref _all))
        {
            long seen = Volatile.Read(ref slot._state);
            if ((seen & 1) == 0)
                continue;
            var spin = new SpinWait();
            while (Volatile.Read(ref slot._state) == seen)
                spin.SpinOnce();
        }

        Interlocked.MemoryBarrier();
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static AccessGuard Register()
    {
        AccessGuard slot;
        lock (Registration)
        {
            if (!Free.TryPop(out slot!))
            {
                slot = new AccessGuard();
                Volatile.Write(ref _all, [.. _all, slot]);
            }
        }

        _owner = new Owner(slot);
        _current = slot;
        return slot;
    }

    /// <summary>Dies with its thread and gives the slot to the next one.</summary>
    private sealed class Owner(AccessGuard slot)
    {
        ~Owner()
        {
            lock (Registration)
                Free.Push(slot);
        }
    }
}
