namespace Godwit.Iommu.Intel;

/// <summary>
/// A thread that takes one turn at a time, when there is one: it is started for the first, kept for what may follow soon, and ends when nothing does,
/// so that a unit without work has none.
/// </summary>
/// <param name="name">Of the thread.</param>
/// <param name="idle">How long it waits for a turn before it ends.</param>
internal sealed class TurnThread(string name, TimeSpan idle)
{
    private readonly object _gate = new();
    private Action? _next;
    private bool _started;

    /// <summary>Has <paramref name="turn"/> taken; the one before has begun.</summary>
    internal void Post(Action turn)
    {
        lock (_gate)
        {
            _next = turn;
            if (_started)
            {
                Monitor.Pulse(_gate);
                return;
            }

            // Under the gate, so that a turn finds either a thread or none: it may not be started, for want of memory.
            new Thread(Run) { IsBackground = true, Name = name }.UnsafeStart();
            _started = true;
        }
    }

    private void Run()
    {
        while (TryTake() is { } turn)
            turn();
    }

    private Action? TryTake()
    {
        lock (_gate)
        {
            if (_next is null)
                Monitor.Wait(_gate, idle);
            Action? turn = _next;
            _next = null;
            _started = turn is not null;
            return turn;
        }
    }
}
