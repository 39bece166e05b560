namespace Godwit.Machine;

/// <summary>
/// Raises events in the order they were posted, one at a time and under no lock of the poster: the first thread that finds nobody
/// delivering delivers for all. A handler may call back into the machine.
/// </summary>
internal sealed class OrderedEvents
{
    private readonly Lock _gate = new();
    private readonly Queue<Action> _pending = new();
    private bool _delivering;

    /// <summary>Puts <paramref name="raise"/> behind all others; raised by the next <see cref="Deliver"/>.</summary>
    public void Post(Action raise)
    {
        lock (_gate)
            _pending.Enqueue(raise);
    }

    /// <summary>Raises what is pending, unless another thread is doing so. Call without holding the machine's control lock.</summary>
    public void Deliver()
    {
        while (true)
        {
            Action raise;
            lock (_gate)
            {
                if (_delivering || !_pending.TryDequeue(out raise!))
                    return;
                _delivering = true;
            }

            try
            {
                raise();
            }
            finally
            {
                lock (_gate)
                    _delivering = false;
            }
        }
    }
}
