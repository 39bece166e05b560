using System.Buffers;
using System.Net.Sockets;
using System.Text.Json;
using System.Threading.Channels;

namespace Godwit.Monitor;

/// <summary>An event as received.</summary>
/// <param name="Name">Its name, for example <c>MIGRATION</c>.</param>
/// <param name="Data">Its data, undefined when it has none.</param>
public readonly record struct QmpEvent(string Name, JsonElement Data);

/// <summary>The connection to a monitor is gone, or what came is not QMP.</summary>
public sealed class QmpConnectionException(string message, Exception? inner = null) : IOException(message, inner);

/// <summary>
/// A client of any QMP monitor. Commands may be executed from any thread and at the same time; each gets its own reply by id. Events are
/// kept in order until they are read.
/// </summary>
public sealed class QmpClient : IAsyncDisposable
{
    /// <summary>Longest reply taken: query-migrate with a hundred rounds has some 40 KiB.</summary>
    private const int LongestReply = 16 << 20;

    /// <summary>A monitor greets at once; anything that is silent for this long is something else.</summary>
    private static readonly TimeSpan GreetingTime = TimeSpan.FromSeconds(10);

    private readonly Socket _socket;
    private readonly Lock _gate = new();
    private readonly SemaphoreSlim _sending = new(1, 1);
    private readonly Dictionary<long, TaskCompletionSource<JsonElement>> _waiting = [];
    private readonly Channel<QmpEvent> _events = Channel.CreateUnbounded<QmpEvent>();
    private readonly TaskCompletionSource _greeting = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Task _receiving;
    private QmpConnectionException? _gone;
    private long _lastId;

    private QmpClient(string path, Socket socket)
    {
        Path = path;
        _socket = socket;
        _receiving = ReceiveAsync();
    }

    /// <summary>Path of the monitor's socket.</summary>
    public string Path { get; }

    /// <summary>Events since the connection was made. Completes when the connection goes.</summary>
    public ChannelReader<QmpEvent> Events => _events.Reader;

    /// <summary>Connects and negotiates.</summary>
    /// <exception cref="QmpConnectionException">Nobody listens there, or it is not a QMP monitor; the text names the path.</exception>
    public static async Task<QmpClient> ConnectAsync(string path, CancellationToken cancellation = default)
    {
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        QmpClient client;
        try
        {
            await socket.ConnectAsync(new UnixDomainSocketEndPoint(path), cancellation);
            client = new QmpClient(path, socket);
        }
        catch (Exception e) when (e is SocketException or ArgumentException)
        {
            socket.Dispose();
            string why = !System.IO.Path.Exists(path) ? "nothing is there"
                : e is SocketException { SocketErrorCode: SocketError.ConnectionRefused } ? "nobody listens there"
                : e.Message;
            throw new QmpConnectionException($"Cannot connect to the monitor at '{path}': {why}", e);
        }
        catch (OperationCanceledException)
        {
            socket.Dispose();
            throw;
        }

        try
        {
            await client._greeting.Task.WaitAsync(GreetingTime, cancellation);
            await client.ExecuteAsync("qmp_capabilities", null, cancellation);
            return client;
        }
        catch (TimeoutException e)
        {
            await client.DisposeAsync();
            throw new QmpConnectionException($"What listens at '{path}' is not a QMP monitor: no greeting came in {GreetingTime.TotalSeconds:0} s", e);
        }
        catch
        {
            await client.DisposeAsync();
            throw;
        }
    }

    /// <summary>Executes a command and returns its result.</summary>
    /// <exception cref="QmpException">The monitor refused it.</exception>
    /// <exception cref="QmpConnectionException">The connection went before the reply came.</exception>
    public async Task<JsonElement> ExecuteAsync(
        string command, Action<Utf8JsonWriter>? arguments = null, CancellationToken cancellation = default)
    {
        var reply = new TaskCompletionSource<JsonElement>(TaskCreationOptions.RunContinuationsAsynchronously);
        long id;
        lock (_gate)
        {
            if (_gone is not null)
            {
                throw _gone;
            }

            id = ++_lastId;
            _waiting.Add(id, reply);
        }

        byte[] request = Request(command, arguments, id);
        await _sending.WaitAsync(cancellation);
        try
        {
            for (ReadOnlyMemory<byte> rest = request; !rest.IsEmpty;)
            {
                rest = rest[await _socket.SendAsync(rest, CancellationToken.None)..];
            }
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            End($"The monitor at '{Path}' has gone: {e.Message}");
        }
        finally
        {
            _sending.Release();
        }

        return await reply.Task.WaitAsync(cancellation);
    }

    /// <summary>Closes the connection. Commands that wait fail.</summary>
    public async ValueTask DisposeAsync()
    {
        End($"The connection to the monitor at '{Path}' was closed");
        _socket.Dispose();
        await _receiving;
        _sending.Dispose();
    }

    private static byte[] Request(string command, Action<Utf8JsonWriter>? arguments, long id)
    {
        var buffer = new ArrayBufferWriter<byte>(256);
        using (var writer = new Utf8JsonWriter(buffer))
        {
            writer.WriteStartObject();
            writer.WriteString("execute", command);
            if (arguments is not null)
            {
                writer.WriteStartObject("arguments");
                arguments(writer);
                writer.WriteEndObject();
            }

            writer.WriteNumber("id", id);
            writer.WriteEndObject();
        }

        buffer.Write("\n"u8);
        return buffer.WrittenSpan.ToArray();
    }

    private async Task ReceiveAsync()
    {
        var framer = new JsonFramer(LongestReply, QmpLimits.Depth);
        byte[] chunk = new byte[16384];
        string why = $"The monitor at '{Path}' closed the connection";
        try
        {
            while (await _socket.ReceiveAsync(chunk) is > 0 and var read)
            {
                Take(framer, chunk.AsSpan(0, read));
            }
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException or QmpConnectionException)
        {
            why = e is QmpConnectionException ? e.Message : $"The monitor at '{Path}' has gone: {e.Message}";
        }

        End(why);
    }

    private void Take(JsonFramer framer, ReadOnlySpan<byte> bytes)
    {
        while (framer.TryRead(ref bytes, out JsonFrame frame))
        {
            if (frame.Error is not null)
            {
                throw new QmpConnectionException($"What listens at '{Path}' is not a QMP monitor: {frame.Error}");
            }

            try
            {
                using JsonDocument document = JsonDocument.Parse(frame.Text);
                Take(document.RootElement.Clone());
            }
            catch (JsonException e)
            {
                throw new QmpConnectionException($"What listens at '{Path}' is not a QMP monitor: {e.Message}", e);
            }
        }
    }

    private void Take(JsonElement message)
    {
        if (message.ValueKind != JsonValueKind.Object)
        {
            throw new QmpConnectionException($"What listens at '{Path}' is not a QMP monitor: it sent {QmpArguments.Kind(message)}");
        }

        if (message.TryGetProperty("QMP", out _))
        {
            _greeting.TrySetResult();
        }
        else if (message.TryGetProperty("event", out JsonElement name) && name.ValueKind == JsonValueKind.String)
        {
            _events.Writer.TryWrite(new QmpEvent(name.GetString()!, message.TryGetProperty("data", out JsonElement data) ? data : default));
        }
        else if (message.TryGetProperty("id", out JsonElement id) && id.ValueKind == JsonValueKind.Number && id.TryGetInt64(out long number))
        {
            Reply(number, message);
        }
        else if (message.TryGetProperty("error", out JsonElement error))
        {
            throw new QmpConnectionException($"The monitor at '{Path}' reports: {error.GetRawText()}");
        }
    }

    private void Reply(long id, JsonElement message)
    {
        TaskCompletionSource<JsonElement>? waiting;
        lock (_gate)
        {
            if (!_waiting.Remove(id, out waiting))
            {
                return;
            }
        }

        if (message.TryGetProperty("return", out JsonElement result))
        {
            waiting.SetResult(result);
        }
        else
        {
            string errorClass = Text(message, "class") ?? QmpException.GenericError;
            waiting.SetException(new QmpException(errorClass, Text(message, "desc") ?? "The monitor gave no reason"));
        }
    }

    private static string? Text(JsonElement message, string member) =>
        message.TryGetProperty("error", out JsonElement error) && error.ValueKind == JsonValueKind.Object
        && error.TryGetProperty(member, out JsonElement value) && value.ValueKind == JsonValueKind.String
            ? value.GetString()
            : null;

    private void End(string why)
    {
        TaskCompletionSource<JsonElement>[] waiting;
        QmpConnectionException gone;
        lock (_gate)
        {
            gone = _gone ??= new QmpConnectionException(why);
            waiting = [.. _waiting.Values];
            _waiting.Clear();
        }

        _greeting.TrySetException(gone);
        _events.Writer.TryComplete();
        foreach (TaskCompletionSource<JsonElement> each in waiting)
        {
            each.TrySetException(gone);
        }
    }
}
