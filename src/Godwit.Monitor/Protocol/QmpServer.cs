using System.Collections.Concurrent;
using System.Net.Sockets;
using System.Text.Json;

namespace Godwit.Monitor;

/// <summary>
/// A QMP server on a unix socket: any number of clients up to <see cref="QmpLimits.Sessions"/>, each with its own pace. Knows the
/// protocol and nothing of machines. Any thread may call.
/// </summary>
internal sealed class QmpServer : IAsyncDisposable
{
    private static readonly TimeSpan DrainTime = TimeSpan.FromSeconds(2);

    private readonly UnixListener _listener;
    private readonly QmpCommandTable _commands;
    private readonly TimeProvider _clock;
    private readonly Action<string> _log;
    private readonly ConcurrentDictionary<QmpSession, Task> _sessions = new();
    private readonly CancellationTokenSource _stop = new();
    private readonly Task _accepting;
    private int _disposed;

    /// <summary>Listens at once; see <see cref="UnixListener"/> for what is refused.</summary>
    public QmpServer(string path, QmpCommandTable commands, TimeProvider clock, Action<string> log)
    {
        _commands = commands;
        _clock = clock;
        _log = log;
        _listener = UnixListener.Open(path);
        _accepting = AcceptAsync();
    }

    /// <summary>Sends an event to every client that has negotiated. Never blocks.</summary>
    public void Emit(string name, Action<Utf8JsonWriter>? data = null)
    {
        if (_sessions.IsEmpty)
        {
            return;
        }

        byte[] message = QmpMessages.Event(name, data, _clock.GetUtcNow());
        foreach (QmpSession session in _sessions.Keys)
        {
            session.SendEvent(message);
        }
    }

    /// <summary>Removes the socket, lets clients read what was sent to them for a moment, and closes.</summary>
    public async ValueTask DisposeAsync()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
        {
            return;
        }

        await _stop.CancelAsync();
        _listener.Dispose();
        await _accepting;
        foreach (QmpSession session in _sessions.Keys)
        {
            session.Complete();
        }

        Task all = Task.WhenAll(_sessions.Values);
        await Task.WhenAny(all, Task.Delay(DrainTime, _clock));
        foreach (QmpSession session in _sessions.Keys)
        {
            session.Abort();
        }

        await Task.WhenAny(all, Task.Delay(DrainTime, _clock));
        _stop.Dispose();
    }

    private async Task AcceptAsync()
    {
        try
        {
            while (true)
            {
                Socket socket = await _listener.Socket.AcceptAsync(_stop.Token);
                if (_sessions.Count >= QmpLimits.Sessions)
                {
                    _log($"monitor: a client was turned away, there are {QmpLimits.Sessions} sessions");
                    socket.Dispose();
                    continue;
                }

                // Registered before it runs, so that its end always finds it.
                var session = new QmpSession(socket, _commands, _log);
                var registered = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
                _sessions[session] = RunAsync(session, registered.Task);
                registered.SetResult();
            }
        }
        catch (OperationCanceledException)
        {
            // Disposed.
        }
        catch (SocketException e)
        {
            _log($"monitor: no more clients are taken at {_listener.Path}: {e.Message}");
        }
    }

    private async Task RunAsync(QmpSession session, Task registered)
    {
        await registered;
        await session.RunAsync();
        _sessions.TryRemove(session, out _);
        session.Dispose();
    }
}
