using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// Waits for a client's signals. The eventfds are not read here: the client holds them too and could make the read block, or read them first.
/// Each signal is an edge of its own instead.
/// </summary>
internal sealed class EventFdThread : IDisposable
{
    private const ulong Rung = 1;

    private readonly Epoll _epoll;
    private readonly EventFd _stop;
    private readonly Thread _thread;
    private readonly Action _onRing;
    private volatile bool _stopping;

    private EventFdThread(string name, Epoll epoll, EventFd stop, Action onRing)
    {
        _epoll = epoll;
        _stop = stop;
        _onRing = onRing;
        _thread = new Thread(Run) { IsBackground = true, Name = name };
    }

    /// <summary>Calls <paramref name="onRing"/> on a thread of its own some time after each signal of one of <paramref name="bells"/>, which must outlive it.</summary>
    /// <exception cref="LinuxException">The process has no descriptor left.</exception>
    public static EventFdThread Start(string name, IEnumerable<EventFd> bells, Action onRing)
    {
        Epoll? epoll = null;
        EventFd? stop = null;
        try
        {
            epoll = Epoll.Create();
            stop = EventFd.Create();
            foreach (EventFd bell in bells)
                epoll.AddEdge(bell, Rung);
            epoll.AddEdge(stop, 0);
            var result = new EventFdThread(name, epoll, stop, onRing);
            result._thread.Start();
            return result;
        }
        catch
        {
            stop?.Dispose();
            epoll?.Dispose();
            throw;
        }
    }

    /// <summary>Ends the thread after what it does now.</summary>
    public void Dispose()
    {
        _stopping = true;
        _stop.Signal();
        _thread.Join();
        _stop.Dispose();
        _epoll.Dispose();
    }

    private void Run()
    {
        while (!_stopping)
        {
            if (_epoll.Wait() == Rung)
                _onRing();
        }
    }
}
