using System.Net;
using System.Net.Sockets;

namespace Godwit.Migration;

/// <summary>Connects to a listening destination.</summary>
internal static class MigrationConnector
{
    /// <summary>Longest wait for a connection. Arbitrary: a host that does not answer within it will not take a migration either.</summary>
    internal static readonly TimeSpan Timeout = TimeSpan.FromSeconds(10);

    private static readonly TimeSpan UnixPatience = TimeSpan.FromMilliseconds(50);

    /// <summary>Connects, or says why not.</summary>
    /// <exception cref="IOException">Nobody listens there; the text names the address and the cause.</exception>
    /// <exception cref="OperationCanceledException"><paramref name="cancel"/>.</exception>
    internal static MigrationChannel Connect(MigrationUri uri, TimeProvider clock, CancellationToken cancel)
    {
        using var timeout = new CancellationTokenSource(Timeout, clock);
        using var both = CancellationTokenSource.CreateLinkedTokenSource(cancel, timeout.Token);
        try
        {
            return uri switch
            {
                UnixMigrationUri unix => new MigrationChannel(ConnectUnix(unix.Path, both.Token), clock),
                LocalMigrationUri local => HandoverChannel.Open(ConnectUnix(local.Path, both.Token), clock)
                    ?? throw new IOException($"Cannot hand over to {local}: another user listens there; RAM goes only to processes of the same one"),
                TcpMigrationUri tcp => ConnectTcp(tcp, clock, both.Token),
                FdMigrationUri fd => InheritedSocket.Open(fd, clock),
                ExecMigrationUri exec => RelayCommand.Open(exec, clock),
                _ => throw new ArgumentOutOfRangeException(nameof(uri), uri, "Unknown kind of address"),
            };
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException or OperationCanceledException)
        {
            cancel.ThrowIfCancellationRequested();
            if (timeout.IsCancellationRequested)
                throw new IOException($"Cannot connect to {uri}: no answer within {Timeout.TotalSeconds} s", e);
            throw new IOException($"Cannot connect to {uri}: {Explain(uri, e)}", e);
        }
    }

    private static MigrationChannel ConnectTcp(TcpMigrationUri tcp, TimeProvider clock, CancellationToken cancel)
    {
        IPAddress[] addresses = IPAddress.TryParse(tcp.Host, out IPAddress? literal)
            ? [literal]
            : Dns.GetHostAddressesAsync(tcp.Host, cancel).GetAwaiter().GetResult();
        SocketException? last = null;
        foreach (IPAddress address in addresses)
        {
            try
            {
                return ConnectTcp(new IPEndPoint(address, tcp.Port), clock, cancel);
            }
            catch (SocketException e) when (!cancel.IsCancellationRequested)
            {
                last = e;
            }
        }

        throw last ?? new SocketException((int)SocketError.HostNotFound);
    }

    private static MigrationChannel ConnectTcp(IPEndPoint end, TimeProvider clock, CancellationToken cancel)
    {
        var socket = new Socket(end.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
        try
        {
            // A blocking connect, ended by closing: an asynchronous one would leave the socket in non-blocking mode for good.
            using (cancel.Register(static state => MigrationChannel.Close((Socket)state!), socket))
                socket.Connect(end);
            cancel.ThrowIfCancellationRequested();
            return new MigrationChannel(socket, clock);
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }

    /// <summary>
    /// A unix connect waits only while the listener's backlog is full, and neither closing nor shutting down ends that wait; the send timeout
    /// does (unix(7), SO_SNDTIMEO).
    /// </summary>
    private static Socket ConnectUnix(string path, CancellationToken cancel)
    {
        for (; ; )
        {
            cancel.ThrowIfCancellationRequested();
            var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            try
            {
                socket.SendTimeout = (int)UnixPatience.TotalMilliseconds;
                socket.Connect(new UnixDomainSocketEndPoint(path));
                socket.SendTimeout = 0;
                return socket;
            }
            catch (SocketException e) when (e.SocketErrorCode is SocketError.WouldBlock or SocketError.TryAgain or SocketError.TimedOut)
            {
                socket.Dispose();
            }
            catch
            {
                socket.Dispose();
                throw;
            }
        }
    }

    private static string Explain(MigrationUri uri, Exception e)
    {
        if (MigrationUri.SocketPathOf(uri) is { } path)
        {
            if (Directory.Exists(path))
                return "it is a directory, not a socket";
            if (!Path.Exists(path))
                return "there is no such socket";
            if (e is SocketException { SocketErrorCode: SocketError.ConnectionRefused })
            {
                return SocketFile.IsSocket(path)
                    ? "nobody listens on that socket any more (connection refused)"
                    : "it is a file, not a socket";
            }
        }

        return e is SocketException { SocketErrorCode: SocketError.ConnectionRefused }
            ? "nobody listens there (connection refused)"
            : e.Message;
    }
}
