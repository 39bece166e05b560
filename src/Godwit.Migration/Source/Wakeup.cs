namespace Godwit.Migration;

/// <summary>
/// Where the coordinating thread of an outgoing migration waits: for the peer, for time, for a changed setting. A cancel ends every wait,
/// until the commit point has passed. <see cref="Wait"/> is for one thread; everything else for any.
/// </summary>
internal sealed class Wakeup(TimeProvider clock) : IDisposable
{
    private readonly object _gate = new(); // Monitor's Wait and Pulse are what is needed here; Lock has none
    private readonly CancellationTokenSource _cancel = new();
    private bool _cancelled;
    private bool _deaf; // past the commit point, or over

    /// <summary>Cancelled when <see cref="Cancel"/> was.</summary>
    internal CancellationToken Token => _cancel.Token;

    /// <summary>Whether a cancel came in time.</summary>
    internal bool Cancelled => Volatile.Read(ref _cancelled);

    /// <summary>Asks for the end; false when the commit point has passed or it is over.</summary>
    internal bool Cancel()
    {
        lock (_gate)
        {
            if (_deaf)
                return false;
            _cancelled = true;
            Monitor.PulseAll(_gate);
            _cancel.Cancel(); // closes a socket at most
            return true;
        }
    }

    /// <summary>From here on a cancel has no effect. Throws when one came before.</summary>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    internal void PassCommitPoint()
    {
        lock (_gate)
        {
            ThrowIfCancelled();
            _deaf = true;
        }
    }

    /// <summary>Something that a wait depends on has changed.</summary>
    internal void Poke()
    {
        lock (_gate)
            Monitor.PulseAll(_gate);
    }

    /// <summary>Throws when cancelled.</summary>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    internal void ThrowIfCancelled()
    {
        if (Cancelled)
            throw new OperationCanceledException("The migration was cancelled");
    }

    /// <summary>Waits until <paramref name="done"/> says so or <paramref name="atMost"/> is over; false for the latter.</summary>
    /// <param name="done">Asked after every <see cref="Poke"/>; may throw to end the wait.</param>
    /// <param name="atMost">Null for as long as it takes.</param>
    /// <exception cref="OperationCanceledException">It was cancelled.</exception>
    internal bool Wait(Func<bool> done, TimeSpan? atMost)
    {
        bool due = false;
        using ITimer? timer = atMost is { } time ? clock.CreateTimer(_ => Expire(), null, time, Timeout.InfiniteTimeSpan) : null;
        lock (_gate)
        {
            for (; ; )
            {
                ThrowIfCancelled();
                if (done())
                    return true;
                if (due)
                    return false;
                Monitor.Wait(_gate);
            }
        }

        void Expire()
        {
            lock (_gate)
            {
                due = true;
                Monitor.PulseAll(_gate);
            }
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        lock (_gate)
        {
            _deaf = true;
            _cancel.Dispose();
        }
    }
}
