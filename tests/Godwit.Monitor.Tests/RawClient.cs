using System.Net.Sockets;
using System.Text;
using System.Text.Json;

namespace Godwit.Monitor.Tests;

/// <summary>Bytes to and from a monitor, without any of Godwit's own client code.</summary>
internal sealed class RawClient : IDisposable
{
    private readonly Socket _socket = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified) { ReceiveTimeout = 30_000 };
    private readonly List<byte> _pending = [];

    public RawClient(string path) => _socket.Connect(new UnixDomainSocketEndPoint(path));

    public static RawClient Negotiated(string path)
    {
        var client = new RawClient(path);
        Assert.True(client.Receive().TryGetProperty("QMP", out _));
        client.Send("""{"execute":"qmp_capabilities"}""");
        Assert.Equal("{}", client.Receive().GetProperty("return").GetRawText());
        return client;
    }

    public void Send(string text) => Send(Encoding.UTF8.GetBytes(text));

    public void Send(ReadOnlySpan<byte> bytes)
    {
        while (!bytes.IsEmpty)
        {
            bytes = bytes[_socket.Send(bytes)..];
        }
    }

    /// <summary>The next line as JSON.</summary>
    public JsonElement Receive() => TryReceive() ?? throw new EndOfStreamException("the monitor closed the session");

    /// <summary>The next line as JSON, or null at the end of the session.</summary>
    public JsonElement? TryReceive()
    {
        byte[] chunk = new byte[4096];
        int end;
        while ((end = _pending.IndexOf((byte)'\n')) < 0)
        {
            int read;
            try
            {
                read = _socket.Receive(chunk);
            }
            catch (SocketException e) when (e.SocketErrorCode == SocketError.ConnectionReset)
            {
                read = 0;
            }

            if (read == 0)
            {
                return null;
            }

            _pending.AddRange(chunk.AsSpan(0, read));
        }

        byte[] line = [.. _pending.GetRange(0, end)];
        _pending.RemoveRange(0, end + 1);
        return JsonDocument.Parse(line).RootElement;
    }

    public JsonElement Execute(string request)
    {
        Send(request);
        return Receive();
    }

    public void Dispose() => _socket.Dispose();
}
