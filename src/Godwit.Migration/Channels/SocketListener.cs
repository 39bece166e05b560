using System.Net;
using System.Net.Sockets;

namespace Godwit.Migration;

/// <summary>A listening socket of a destination. Removes its unix socket when closed.</summary>
internal sealed class SocketListener : MigrationListener
{
    private readonly Socket _socket;
    private readonly string? _path;
    private readonly TimeProvider _clock;
    private int _closed;

    private SocketListener(Socket socket, MigrationUri address, TimeProvider clock) : base(address, once: false)
    {
        _socket = socket;
        _clock = clock;
        _path = MigrationUri.SocketPathOf(address);
    }

    /// <inheritdoc/>
    internal override bool IsOpen => Volatile.Read(ref _closed) == 0;

    /// <summary>Opens it.</summary>
    /// <exception cref="IOException">The address cannot be listened on; the text names it and the cause.</exception>
    internal static new SocketListener Open(MigrationUri uri, TimeProvider clock)
    {
        Socket? socket = null;
        try
        {
            EndPoint end;
            if (MigrationUri.SocketPathOf(uri) is { } path)
            {
                RemoveStale(uri, path);
                end = new UnixDomainSocketEndPoint(path);
                socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            }
            else
            {
                var tcp = (TcpMigrationUri)uri;
                IPAddress address = IPAddress.TryParse(tcp.Host, out IPAddress? literal) ? literal : Dns.GetHostAddresses(tcp.Host)[0];
                end = new IPEndPoint(address, tcp.Port);
                socket = new Socket(address.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
            }

            socket.Bind(end);
            socket.Listen(4);
            MigrationUri bound = uri is TcpMigrationUri named && socket.LocalEndPoint is IPEndPoint local
                ? named with { Port = (ushort)local.Port }
                : uri;
            return new SocketListener(socket, bound, clock);
        }
        catch (SocketException e)
        {
            socket?.Dispose();
            throw new IOException($"Cannot listen on {uri}: {e.Message}", e);
        }
        catch
        {
            socket?.Dispose();
            throw;
        }
    }

    /// <inheritdoc/>
    internal override MigrationChannel? Accept()
    {
        while (IsOpen)
        {
            Socket? socket = null;
            try
            {
                socket = _socket.Accept();
                if (Address is not LocalMigrationUri)
                    return new MigrationChannel(socket, _clock);
                if (HandoverChannel.Open(socket, _clock) is { } local)
                    return local;
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                // Closed, or a peer that hung up before it was accepted: the loop's condition tells them apart.
                socket?.Dispose();
                if (e is SocketException { SocketErrorCode: SocketError.TooManyOpenSockets or SocketError.NoBufferSpaceAvailable })
                    throw new IOException($"Cannot accept on {Address}: {e.Message}", e);
            }
        }

        return null;
    }

    /// <inheritdoc/>
    public override void Dispose()
    {
        if (Interlocked.Exchange(ref _closed, 1) != 0)
            return;
        // The name first: once the socket is closed somebody else may take the path.
        if (_path is not null)
            File.Delete(_path);
        MigrationChannel.Close(_socket);
    }

    /// <summary>Removes a socket that a process left behind; anything else at the path stays and is an error.</summary>
    private static void RemoveStale(MigrationUri uri, string path)
    {
        if (!Path.Exists(path))
            return;
        if (!SocketFile.IsSocket(path))
            throw new IOException($"Cannot listen on {uri}: there is a file that is no socket; choose another path or remove it");
        using var probe = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            probe.Connect(new UnixDomainSocketEndPoint(path));
        }
        catch (SocketException e) when (e.SocketErrorCode == SocketError.ConnectionRefused)
        {
            File.Delete(path);
            return;
        }

        throw new IOException($"Cannot listen on {uri}: another process is listening there");
    }
}
