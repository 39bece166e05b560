using System.Net.Sockets;
using System.Text;
using Godwit.Interop.Linux;

namespace Godwit.Monitor;

/// <summary>A listening unix socket for its owner only. <see cref="System.Net.Sockets.Socket"/> removes its file when it closes.</summary>
internal sealed class UnixListener : IDisposable
{
    /// <summary>Bytes of a path in struct sockaddr_un, without the terminator.</summary>
    private const int LongestPath = 107;

    private UnixListener(string path, Socket socket)
    {
        Path = path;
        Socket = socket;
    }

    /// <summary>Where it listens.</summary>
    public string Path { get; }

    /// <summary>The listening socket.</summary>
    public Socket Socket { get; }

    /// <summary>Listens at <paramref name="path"/>; a socket that nobody listens on any more is replaced.</summary>
    /// <exception cref="IOException">
    /// The path is too long, is taken by something that is no socket or by a socket in use, or cannot be made.
    /// </exception>
    public static UnixListener Open(string path)
    {
        int length = Encoding.UTF8.GetByteCount(path);
        if (length is 0 or > LongestPath)
        {
            throw new IOException($"Cannot listen at '{path}': a socket path has 1 to {LongestPath} bytes, this one has {length}");
        }

        RemoveStale(path);
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            socket.Bind(new UnixDomainSocketEndPoint(path));
            File.SetUnixFileMode(path, UnixFileMode.UserRead | UnixFileMode.UserWrite);
            socket.Listen(QmpLimits.Sessions);
            return new UnixListener(path, socket);
        }
        catch (Exception e) when (e is SocketException or UnauthorizedAccessException)
        {
            socket.Dispose();
            throw new IOException($"Cannot listen at '{path}': {e.Message}", e);
        }
    }

    /// <inheritdoc/>
    public void Dispose() => Socket.Dispose();

    private static void RemoveStale(string path)
    {
        FileStatus? found;
        try
        {
            found = stat.At(path);
        }
        catch (LinuxException e)
        {
            throw new IOException($"Cannot listen at '{path}': {e.Message}", e);
        }

        if (found is not { } file)
        {
            return;
        }

        if (!file.IsSocket)
        {
            throw new IOException($"Cannot listen at '{path}': something that is not a socket is there, and it is left alone");
        }

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
        catch (SocketException e)
        {
            throw new IOException($"Cannot listen at '{path}': {e.Message}", e);
        }

        throw new IOException($"Cannot listen at '{path}': another process listens there");
    }
}
