namespace Godwit.Devices;

/// <summary>How a worker leaves a submission queue.</summary>
internal enum QueueOutcome
{
    /// <summary>Nothing left, or waiting for something that will mark it ready again.</summary>
    Done,

    /// <summary>More to do: to the end of the line.</summary>
    More,
}

/// <summary>Executes commands of one submission queue for a while.</summary>
internal interface IQueueProcessor
{
    /// <summary>
    /// Called on a worker, never twice at a time for one queue. Returns soon after <see cref="CommandScheduler.IsOpen"/> turns false or
    /// the queue is retired.
    /// </summary>
    QueueOutcome Process(SubmissionQueue queue, CommandContext context);
}

/// <summary>
/// A line of submission queues with work and the worker threads that serve it, in turn. Closed, no worker touches a queue, and the line
/// is remembered: that is how the device stops for migration, reset and disconnection. Doorbells cost one short lock that is never held
/// during DMA or I/O.
/// </summary>
internal sealed class CommandScheduler : IDisposable
{
    private readonly object _gate = new();
    private readonly SubmissionQueue[] _line;
    private readonly Thread[] _threads;
    private readonly IQueueProcessor _processor;
    private readonly TimeProvider _clock;
    private int _first;
    private int _count;
    private int _running;
    private int _sleeping;
    private volatile bool _open;
    private bool _stopping;

    /// <summary>Starts <paramref name="workers"/> threads for at most <paramref name="queueSlots"/> queues, closed.</summary>
    public CommandScheduler(IQueueProcessor processor, int workers, int queueSlots, Func<CommandContext> createContext, TimeProvider clock)
    {
        _processor = processor;
        _clock = clock;
        _line = new SubmissionQueue[queueSlots]; // a queue is in it at most once, and never when retired
        _threads = new Thread[workers];
        for (int i = 0; i < workers; i++)
        {
            CommandContext context = createContext();
            _threads[i] = new Thread(() => Work(context)) { IsBackground = true, Name = $"nvme-worker-{i}" };
            _threads[i].Start();
        }
    }

    /// <summary>Whether workers may go on. Looked at between commands.</summary>
    public bool IsOpen => _open;

    /// <summary>Lets workers serve the line.</summary>
    public void Open()
    {
        lock (_gate)
        {
            _open = true;
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>Stops workers after the commands they execute. Not to be called from a worker.</summary>
    /// <returns>False when they had not finished within <paramref name="wait"/>; then it is still closed, but not quiet.</returns>
    public bool Close(TimeSpan wait)
    {
        bool late = false; // guarded by _gate
        void TimeIsOver()
        {
            lock (_gate)
            {
                late = true;
                Monitor.PulseAll(_gate);
            }
        }

        using ITimer limit = _clock.CreateTimer(_ => TimeIsOver(), null, wait, Timeout.InfiniteTimeSpan);
        lock (_gate)
        {
            _open = false;
            while (_running > 0 && !late)
                Monitor.Wait(_gate);
            return _running == 0;
        }
    }

    /// <summary>Stops handing out queues without waiting: from a worker that has found the controller broken.</summary>
    public void Halt() => _open = false;

    /// <summary>Puts a queue into the line unless it is there; wakes a worker if there is one asleep.</summary>
    public void MarkReady(SubmissionQueue queue)
    {
        lock (_gate)
        {
            if (queue.Retired)
                return;
            if (queue.Phase == QueuePhase.Idle)
                Append(queue);
            else if (queue.Phase == QueuePhase.Running)
                queue.Phase = QueuePhase.RunningAgain;
        }
    }

    /// <summary>Deletes a queue: on return no worker has it, and none will. Called from the worker that executes the deletion.</summary>
    public void Retire(SubmissionQueue queue)
    {
        lock (_gate)
        {
            queue.Retired = true;
            while (queue.Phase is QueuePhase.Running or QueuePhase.RunningAgain)
                Monitor.Wait(_gate);
            if (queue.Phase == QueuePhase.Queued)
                Remove(queue);
        }
    }

    /// <summary>Empties the line. Closed and quiet.</summary>
    public void Clear()
    {
        lock (_gate)
        {
            while (_count > 0)
                TakeFirst().Phase = QueuePhase.Idle;
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        lock (_gate)
        {
            _open = false;
            _stopping = true;
            Monitor.PulseAll(_gate);
        }
        foreach (Thread thread in _threads)
            thread.Join();
    }

    private void Work(CommandContext context)
    {
        while (true)
        {
            SubmissionQueue queue;
            lock (_gate)
            {
                while (!_stopping && (!_open || _count == 0))
                {
                    _sleeping++;
                    Monitor.Wait(_gate);
                    _sleeping--;
                }
                if (_stopping)
                    return;
                queue = TakeFirst();
                queue.Phase = QueuePhase.Running;
                _running++;
            }

            QueueOutcome outcome = _processor.Process(queue, context);

            lock (_gate)
            {
                _running--;
                bool again = outcome == QueueOutcome.More || queue.Phase == QueuePhase.RunningAgain;
                queue.Phase = QueuePhase.Idle;
                if (again && !queue.Retired)
                    Append(queue);
                // Somebody may wait for quiet or for this queue.
                if (_running == 0 || queue.Retired)
                    Monitor.PulseAll(_gate);
            }
        }
    }

    private void Append(SubmissionQueue queue)
    {
        queue.Phase = QueuePhase.Queued;
        _line[(_first + _count) % _line.Length] = queue;
        _count++;
        if (_open && _sleeping > 0)
            Monitor.Pulse(_gate);
    }

    private SubmissionQueue TakeFirst()
    {
        SubmissionQueue queue = _line[_first];
        _first = (_first + 1) % _line.Length;
        _count--;
        return queue;
    }

    private void Remove(SubmissionQueue queue)
    {
        for (int i = _count; i > 0; i--)
        {
            SubmissionQueue other = TakeFirst();
            if (!ReferenceEquals(other, queue))
            {
                _line[(_first + _count) % _line.Length] = other;
                _count++;
            }
        }
        queue.Phase = QueuePhase.Idle;
    }
}
