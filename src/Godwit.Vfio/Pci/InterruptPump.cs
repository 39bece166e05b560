using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.Vfio;

/// <summary>
/// Carries the device's interrupts, one eventfd a vector, to whoever delivers them, on one thread. What the device signalled before
/// <see cref="Drain"/> is delivered when that returns.
/// </summary>
internal sealed class InterruptPump : IDisposable
{
    private readonly EventFd[] _vectors;
    private readonly EventFd _stop = EventFd.Create();
    private readonly Action<int> _deliver;
    private readonly Lock _delivering = new();
    private readonly Thread _thread;
    private long _count;
    private volatile bool _stopped;

    /// <summary>Starts with <paramref name="vectors"/> eventfds; <paramref name="deliver"/> is called with the number of each one signalled.</summary>
    public InterruptPump(string device, int vectors, Action<int> deliver)
    {
        _deliver = deliver;
        _vectors = new EventFd[vectors];
        try
        {
            for (int i = 0; i < vectors; i++)
                _vectors[i] = EventFd.Create();
        }
        catch
        {
            CloseAll();
            throw;
        }

        _thread = new Thread(Run) { IsBackground = true, Name = $"{device} interrupts" };
        _thread.Start();
    }

    /// <summary>Interrupts delivered.</summary>
    public long Count => Volatile.Read(ref _count);

    /// <summary>The eventfds, by vector.</summary>
    public ReadOnlySpan<EventFd?> Vectors => _vectors;

    /// <summary>Delivers what has been signalled until now. For a device that has stopped: afterwards nothing is on its way.</summary>
    public void Drain()
    {
        lock (_delivering)
        {
            for (int i = 0; i < _vectors.Length; i++)
                Take(i);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_stopped)
            return;
        _stopped = true;
        _stop.Signal();
        if (Thread.CurrentThread != _thread)
            _thread.Join();
        CloseAll();
    }

    private unsafe void Run()
    {
        var entries = new pollfd[_vectors.Length + 1];
        for (int i = 0; i < _vectors.Length; i++)
            entries[i] = new pollfd { fd = _vectors[i].Number, events = poll.POLLIN };
        entries[^1] = new pollfd { fd = _stop.Number, events = poll.POLLIN };
        // SAFETY: pinned for the loop; the descriptors live until this thread has been joined.
        fixed (pollfd* pointer = entries)
        {
            while (!_stopped)
            {
                if (poll.wait(pointer, (nuint)entries.Length, -1) < 0)
                {
                    if ((Errno)Marshal.GetLastPInvokeError() == Errno.EINTR)
                        continue;
                    LinuxException.ThrowLast("poll");
                }

                lock (_delivering)
                {
                    for (int i = 0; i < _vectors.Length; i++)
                    {
                        if (entries[i].revents != 0)
                            Take(i);
                    }
                }
            }
        }
    }

    private void Take(int vector)
    {
        if (_vectors[vector].Drain() == 0)
            return;
        Volatile.Write(ref _count, _count + 1);
        _deliver(vector);
    }

    private void CloseAll()
    {
        foreach (EventFd? vector in _vectors)
            vector?.Dispose();
        _stop.Dispose();
    }
}
