using System.Runtime.ExceptionServices;
using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>Serves one device on one socket, one client at a time; a second client is refused while the first is there.</summary>
public static class VfioUserServer
{
    /// <summary>How long to pause when no descriptor is left for a new client.</summary>
    private const int ExhaustedPauseMilliseconds = 100;

    /// <summary>Serves until <paramref name="stop"/> is cancelled. Removes the socket on the way out.</summary>
    /// <exception cref="LinuxException">
    /// The socket cannot be made: the path is taken by something that is no socket (ENOTSOCK) or by a server that lives (EADDRINUSE),
    /// or may not be written.
    /// </exception>
    /// <exception cref="ArgumentException">The device has doorbells outside of its regions.</exception>
    /// <exception cref="TimeoutException">
    /// Told to stop, but the device has not returned from what it does for its client within <see cref="VfioUserServerOptions.DetachTimeout"/>;
    /// it may still use what it was given.
    /// </exception>
    public static void Run(IVfioUserDevice device, VfioUserServerOptions options, CancellationToken stop)
    {
        ArgumentNullException.ThrowIfNull(device);
        ArgumentNullException.ThrowIfNull(options);
        DeviceDescription description = device.Description;
        DoorbellBoard.Validate(description);
        EventBoard.Validate(description);
        var migration = new MigrationStateMachine(device, description.Migration);
        using ServerSocket listener = ServerSocket.Listen(options.SocketPath);
        using EventFd wake = EventFd.Create();
        using CancellationTokenRegistration registration = stop.Register(() => wake.Signal());
        options.Log?.Invoke($"listening on {options.SocketPath}");
        var refusals = new RefusalCount();
        RunningSession? current = null;
        try
        {
            while (WaitForClient(listener.Socket, wake, stop))
            {
                SocketHandle socket;
                try
                {
                    socket = listener.Socket.Accept();
                }
                catch (LinuxException e) when (e.Errno is Errno.EMFILE or Errno.ENFILE or Errno.ENOBUFS or Errno.ENOMEM)
                {
                    options.Log?.Invoke($"cannot take a client: {e.Message}");
                    stop.WaitHandle.WaitOne(ExhaustedPauseMilliseconds);
                    continue;
                }
                if (current is { HasEnded: true } && current.TryJoin(stop))
                    current = null;
                if (current is null)
                    current = RunningSession.Start(device, migration, options, socket);
                else
                    Refuse(socket, options, refusals);
            }
        }
        finally
        {
            current?.Stop();
        }
    }

    /// <summary>
    /// Serves several devices in this process, each on a socket of its own, until <paramref name="stop"/> is cancelled. They share nothing:
    /// one may be in use while another is migrated to. When one cannot be served all are stopped.
    /// </summary>
    /// <exception cref="LinuxException">A socket cannot be made; see <see cref="Run"/>.</exception>
    /// <exception cref="ArgumentException">A device has doorbells outside of its regions.</exception>
    /// <exception cref="TimeoutException">Told to stop, but a device has not; see <see cref="Run"/>.</exception>
    public static void RunAll(IReadOnlyList<(IVfioUserDevice Device, VfioUserServerOptions Options)> devices, CancellationToken stop)
    {
        ArgumentNullException.ThrowIfNull(devices);
        using var stopAll = CancellationTokenSource.CreateLinkedTokenSource(stop);
        ExceptionDispatchInfo? failure = null;
        Thread[] threads = [.. devices.Select(served => new Thread(() =>
        {
            try
            {
                Run(served.Device, served.Options, stopAll.Token);
            }
            catch (Exception e) when (e is not OutOfMemoryException)
            {
                Interlocked.CompareExchange(ref failure, ExceptionDispatchInfo.Capture(e), null);
                stopAll.Cancel();
            }
        })
        {
            Name = $"vfio-user {Path.GetFileName(served.Options.SocketPath)}",
        })];
        foreach (Thread thread in threads)
            thread.Start();
        foreach (Thread thread in threads)
            thread.Join();
        failure?.Throw();
    }

    private static unsafe bool WaitForClient(SocketHandle listener, EventFd wake, CancellationToken stop)
    {
        // SAFETY: two entries in this frame; both handles are held by the caller for as long as it runs.
        pollfd* entries = stackalloc pollfd[2];
        while (!stop.IsCancellationRequested)
        {
            entries[0] = new pollfd { fd = listener.Number, events = poll.POLLIN };
            entries[1] = new pollfd { fd = wake.Number, events = poll.POLLIN };
            if (poll.wait(entries, 2, -1) < 0)
            {
                if ((Errno)Marshal.GetLastPInvokeError() == Errno.EINTR)
                    continue;
                LinuxException.ThrowLast("poll");
            }
            if (entries[0].revents != 0 && !stop.IsCancellationRequested)
                return true;
        }
        return false;
    }

    /// <summary>
    /// Tells a second client that the device is busy, on a thread of its own: the client may be slow to ask. When many are slow at
    /// once, further ones only see the connection close.
    /// </summary>
    private static void Refuse(SocketHandle socket, VfioUserServerOptions options, RefusalCount refusals)
    {
        options.Log?.Invoke("vfio-user client refused: another one is connected");
        if (!refusals.TryBegin())
        {
            socket.Dispose();
            return;
        }
        var thread = new Thread(() =>
        {
            try
            {
                using (socket)
                {
                    socket.SetSendTimeout(options.SendTimeout);
                    using var pump = new MessagePump(socket, options.DmaReplyTimeout, options.Clock, end: null);
                    using ITimer limit = options.Clock.CreateTimer(
                        static state => ((MessagePump)state!).Close("busy"), pump, options.RefusalTimeout, Timeout.InfiniteTimeSpan);
                    if (pump.Next() is { } message)
                    {
                        pump.Refuse(message.Header, Errno.EBUSY);
                        pump.Return(message);
                    }
                    pump.Close("busy");
                }
            }
            finally
            {
                refusals.End();
            }
        })
        {
            IsBackground = true,
            Name = "vfio-user refusal",
        };
        thread.Start();
    }

    /// <summary>Refusals under way, bounded.</summary>
    private sealed class RefusalCount
    {
        private const int Max = 8;

        private int _count;

        public bool TryBegin()
        {
            if (Interlocked.Increment(ref _count) <= Max)
                return true;
            End();
            return false;
        }

        public void End() => Interlocked.Decrement(ref _count);
    }

    /// <summary>A session with its thread.</summary>
    private sealed class RunningSession : IDisposable
    {
        private readonly Session _session;
        private readonly VfioUserServerOptions _options;
        private readonly Thread _thread;
        private readonly ManualResetEvent _done = new(false);

        private RunningSession(Session session, VfioUserServerOptions options)
        {
            _session = session;
            _options = options;
            _thread = new Thread(Run) { IsBackground = true, Name = "vfio-user session" };
            _thread.Start();
        }

        public bool HasEnded => _session.HasEnded || _done.WaitOne(0);

        public static RunningSession Start(IVfioUserDevice device, MigrationStateMachine migration, VfioUserServerOptions options, SocketHandle socket) =>
            new(new Session(device, migration, options, socket), options);

        /// <summary>Waits until the device has let go of the client. False when that takes too long, or <paramref name="stop"/> is cancelled first.</summary>
        public bool TryJoin(CancellationToken stop)
        {
            using var limit = new CancellationTokenSource(_options.DetachTimeout, _options.Clock);
            if (WaitHandle.WaitAny([_done, stop.WaitHandle, limit.Token.WaitHandle]) != 0)
            {
                if (!stop.IsCancellationRequested)
                    _options.Log?.Invoke($"the device has not let go of a client that has gone within {_options.DetachTimeout}");
                return false;
            }
            Dispose();
            return true;
        }

        /// <summary>Waits for the thread, which has ended or is about to, and gives everything back.</summary>
        public void Dispose()
        {
            _thread.Join();
            _session.Dispose();
            _done.Dispose();
        }

        public void Stop()
        {
            _session.Stop("the server stops");
            if (!TryJoin(CancellationToken.None))
                throw new TimeoutException($"The device has not let go of its client within {_options.DetachTimeout}");
        }

        private void Run()
        {
            try
            {
                _session.Run();
            }
            catch (Exception e) when (e is not OutOfMemoryException)
            {
                _options.Log?.Invoke($"vfio-user session failed in the device: {e}");
            }
            _done.Set();
        }
    }
}
