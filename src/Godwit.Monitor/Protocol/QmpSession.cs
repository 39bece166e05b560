using System.Buffers;
using System.Net.Sockets;
using System.Text.Json;
using System.Text.Unicode;
using System.Threading.Channels;

namespace Godwit.Monitor;

/// <summary>
/// One client. Three loops: a reader that cuts frames, an executor that answers them in order (QMP specification, 2.3), and a writer. The
/// reader goes on while a command waits for a device, so a client that leaves is noticed; other sessions never notice each other.
/// </summary>
internal sealed class QmpSession : IDisposable
{
    private static readonly JsonDocumentOptions Json = new() { MaxDepth = QmpLimits.Depth, AllowDuplicateProperties = false };

    private readonly Socket _socket;
    private readonly QmpCommandTable _commands;
    private readonly Action<string> _log;
    private readonly Channel<ReadOnlyMemory<byte>> _requests = Channel.CreateBounded<ReadOnlyMemory<byte>>(QmpLimits.QueuedCommands);
    private readonly Channel<byte[]> _replies = Channel.CreateUnbounded<byte[]>(new UnboundedChannelOptions { SingleReader = true });
    private readonly CancellationTokenSource _closed = new();
    private long _unread;
    private volatile bool _negotiated;

    public QmpSession(Socket socket, QmpCommandTable commands, Action<string> log)
    {
        _socket = socket;
        _commands = commands;
        _log = log;
    }

    /// <summary>Serves until the client leaves, breaks a limit, or <see cref="Complete"/> or <see cref="Abort"/> is called.</summary>
    public async Task RunAsync()
    {
        Send(QmpMessages.Greeting());
        Task writer = WriteAsync();
        Task executor = ExecuteAsync();
        try
        {
            await ReadAsync();
        }
        catch (Exception e) when (e is SocketException or OperationCanceledException or ObjectDisposedException)
        {
            // The client has gone, which is how sessions end.
        }

        _requests.Writer.TryComplete();
        await executor;
        _replies.Writer.TryComplete();
        await writer;
    }

    /// <summary>Sends an event to a client that has finished negotiation.</summary>
    public void SendEvent(byte[] message)
    {
        if (_negotiated)
        {
            Send(message);
        }
    }

    /// <summary>Ends the session after what was sent has been written.</summary>
    public void Complete() => _replies.Writer.TryComplete();

    /// <summary>Ends it now.</summary>
    public void Abort() => _closed.Cancel();

    public void Dispose()
    {
        _closed.Dispose();
        _socket.Dispose();
    }

    private void Send(byte[] message)
    {
        if (Interlocked.Add(ref _unread, message.Length) > QmpLimits.UnreadBytes)
        {
            _log($"monitor: a client was dropped, it left more than {QmpLimits.UnreadBytes} bytes unread");
            Abort();
            return;
        }

        _replies.Writer.TryWrite(message);
    }

    private async Task WriteAsync()
    {
        try
        {
            await foreach (byte[] message in _replies.Reader.ReadAllAsync(_closed.Token))
            {
                ReadOnlyMemory<byte> rest = message;
                while (!rest.IsEmpty)
                {
                    rest = rest[await _socket.SendAsync(rest, _closed.Token)..];
                }

                Interlocked.Add(ref _unread, -message.Length);
            }
        }
        catch (Exception e) when (e is SocketException or OperationCanceledException or ObjectDisposedException)
        {
            // Nobody is there to be told.
        }

        await _closed.CancelAsync();
    }

    private async Task ReadAsync()
    {
        var framer = new JsonFramer(QmpLimits.MessageBytes, QmpLimits.Depth);
        byte[] chunk = new byte[16384];
        while (true)
        {
            int read = await _socket.ReceiveAsync(chunk, _closed.Token);
            if (read == 0)
            {
                return;
            }

            int taken = 0;
            while (taken < read)
            {
                JsonFrame? next = NextFrame(framer, chunk, ref taken, read);
                if (next is not { } frame)
                {
                    break;
                }

                if (frame.Error is not null)
                {
                    Send(QmpMessages.Error(QmpException.GenericError, $"Invalid JSON: {frame.Error}", default));
                    if (frame.Fatal)
                    {
                        return;
                    }

                    continue;
                }

                await _requests.Writer.WriteAsync(frame.Text.ToArray(), _closed.Token);
            }
        }
    }

    private static JsonFrame? NextFrame(JsonFramer framer, byte[] chunk, ref int taken, int end)
    {
        ReadOnlySpan<byte> rest = chunk.AsSpan(taken, end - taken);
        bool found = framer.TryRead(ref rest, out JsonFrame frame);
        taken = end - rest.Length;
        return found ? frame : null;
    }

    private async Task ExecuteAsync()
    {
        await foreach (ReadOnlyMemory<byte> request in _requests.Reader.ReadAllAsync())
        {
            if (_closed.IsCancellationRequested)
            {
                return;
            }

            await ExecuteAsync(request);
        }
    }

    private async Task ExecuteAsync(ReadOnlyMemory<byte> request)
    {
        JsonElement id = default;
        try
        {
            using JsonDocument document = Parse(request);
            (QmpCommand? command, QmpArguments? arguments) = Resolve(document.RootElement, ref id);
            if (command is null || arguments is null)
            {
                _negotiated = true;
                Send(QmpMessages.Return(default, id));
                return;
            }

            byte[] result = command.Blocking
                ? await Task.Factory.StartNew(
                    () => Invoke(command, arguments), CancellationToken.None, TaskCreationOptions.LongRunning, TaskScheduler.Default)
                : Invoke(command, arguments);
            Send(QmpMessages.Return(result, id));
        }
        catch (QmpException e)
        {
            Send(QmpMessages.Error(e.ErrorClass, e.Message, id));
        }
        catch (Exception e) when (e is InvalidOperationException or ArgumentException or FormatException or IOException or TimeoutException)
        {
            Send(QmpMessages.Error(QmpException.GenericError, e.Message, id));
        }
        catch (Exception e)
        {
            // A bug behind one command must not take the monitor away, through which the operator can still act.
            _log($"monitor: a command failed unexpectedly: {e}");
            Send(QmpMessages.Error(QmpException.GenericError, $"Internal error: {e.GetType().Name}: {e.Message}", id));
        }
    }

    private static JsonDocument Parse(ReadOnlyMemory<byte> request)
    {
        if (!Utf8.IsValid(request.Span))
        {
            throw new QmpException("Invalid JSON: the text is not UTF-8");
        }

        try
        {
            return JsonDocument.Parse(request, Json);
        }
        catch (JsonException e)
        {
            throw new QmpException($"Invalid JSON: {e.Message}");
        }
    }

    /// <summary>Takes a request apart; nulls for the capabilities negotiation, which belongs to the session and not to the machine.</summary>
    private (QmpCommand? Command, QmpArguments? Arguments) Resolve(JsonElement request, ref JsonElement id)
    {
        if (request.ValueKind != JsonValueKind.Object)
        {
            throw new QmpException($"A request must be an object, not {QmpArguments.Kind(request)}");
        }

        JsonElement execute = default;
        JsonElement arguments = default;
        string? unknown = null;
        foreach (JsonProperty member in request.EnumerateObject())
        {
            switch (member.Name)
            {
                case "execute":
                    execute = member.Value;
                    break;
                case "arguments":
                    arguments = member.Value;
                    break;
                case "id":
                    id = member.Value.Clone();
                    break;
                default:
                    unknown = member.Name;
                    break;
            }
        }

        if (unknown is not null)
        {
            throw new QmpException($"A request has no member '{unknown}'; it has execute, arguments and id");
        }

        if (execute.ValueKind != JsonValueKind.String)
        {
            throw new QmpException("A request needs the member 'execute', a string");
        }

        string name = execute.GetString()!;
        if (name == "qmp_capabilities")
        {
            return Negotiate(arguments);
        }

        if (!_negotiated)
        {
            throw new QmpException(QmpException.CommandNotFound, $"'{name}' is not available before qmp_capabilities has been executed");
        }

        QmpCommand command = _commands.Find(name);
        return (command, new QmpArguments(arguments, command.Arguments));
    }

    private (QmpCommand? Command, QmpArguments? Arguments) Negotiate(JsonElement arguments)
    {
        if (_negotiated)
        {
            throw new QmpException(QmpException.CommandNotFound, "qmp_capabilities has been executed before in this session");
        }

        var parsed = new QmpArguments(arguments, ["enable"]);
        if (parsed.Find("enable", out JsonElement enable))
        {
            if (enable.ValueKind != JsonValueKind.Array)
            {
                throw new QmpException($"Argument 'enable' must be an array, not {QmpArguments.Kind(enable)}");
            }

            foreach (JsonElement capability in enable.EnumerateArray())
            {
                throw new QmpException($"Capability {capability.GetRawText()} is not offered");
            }
        }

        return (null, null);
    }

    private static byte[] Invoke(QmpCommand command, QmpArguments arguments)
    {
        var buffer = new ArrayBufferWriter<byte>(256);
        using (var writer = new Utf8JsonWriter(buffer))
        {
            command.Handler(arguments, writer);
        }

        return buffer.WrittenSpan.ToArray();
    }
}
