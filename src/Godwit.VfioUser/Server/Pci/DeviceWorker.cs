namespace Godwit.VfioUser;

/// <summary>
/// The thread of a device's own work. While the gate is closed none is done; closing waits for what is being done. A request made while
/// closed is kept.
/// </summary>
internal sealed class DeviceWorker(Action work, Action<Exception> failed) : IDisposable
{
    private readonly object _gate = new();
    private Thread? _thread;
    private bool _requested;
    private bool _open;
    private bool _busy;
    private bool _ended;

    /// <summary>Asks for the work to be done (once more), soon.</summary>
    public void Request()
    {
        lock (_gate)
        {
            _requested = true;
            if (_open)
                Wake();
        }
    }

    /// <summary>Lets work be done.</summary>
    public void Open()
    {
        lock (_gate)
        {
            _open = true;
            if (_requested)
                Wake();
        }
    }

    /// <summary>Lets none begin and waits until none is being done.</summary>
    public void Close() => TryClose(Timeout.InfiniteTimeSpan, TimeProvider.System);

    /// <summary>Likewise. False: it took longer than <paramref name="wait"/>; closed it is.</summary>
    public bool TryClose(TimeSpan wait, TimeProvider clock)
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

        using ITimer limit = clock.CreateTimer(_ => TimeIsOver(), null, wait, Timeout.InfiniteTimeSpan);
        lock (_gate)
        {
            _open = false;
            while (_busy && !late)
                Monitor.Wait(_gate);
            return !_busy;
        }
    }

    /// <summary>Ends the thread.</summary>
    public void Dispose()
    {
        Close();
        lock (_gate)
        {
            _ended = true;
            Monitor.PulseAll(_gate);
        }
        _thread?.Join();
    }

    private void Wake()
    {
        if (_thread is null && !_ended)
        {
            _thread = new Thread(Run) { IsBackground = true, Name = "device work" };
            _thread.Start();
        }
        Monitor.PulseAll(_gate);
    }

    private void Run()
    {
        while (true)
        {
            lock (_gate)
            {
                while (!_ended && !(_open && _requested))
                    Monitor.Wait(_gate);
                if (_ended)
                    return;
                _requested = false;
                _busy = true;
            }
            try
            {
                work();
            }
            catch (Exception e) when (e is not OutOfMemoryException)
            {
                failed(e);
            }
            finally
            {
                lock (_gate)
                {
                    _busy = false;
                    Monitor.PulseAll(_gate);
                }
            }
        }
    }
}
