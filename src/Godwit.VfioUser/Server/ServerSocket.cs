using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>The listening socket and its place in the file system.</summary>
internal sealed class ServerSocket : IDisposable
{
    /// <summary>Clients waiting to be accepted; they are accepted at once, if only to be refused.</summary>
    private const int Backlog = 16;

    private readonly string _path;
    private readonly FileStatus _created;

    private ServerSocket(string path, SocketHandle socket, FileStatus created)
    {
        _path = path;
        Socket = socket;
        _created = created;
    }

    /// <summary>Listens.</summary>
    public SocketHandle Socket { get; }

    /// <summary>Listens at <paramref name="path"/>. A socket that is left there and has no listener is replaced.</summary>
    /// <exception cref="LinuxException">The path is taken: ENOTSOCK by something else, EADDRINUSE by a server that lives; or cannot be made.</exception>
    public static ServerSocket Listen(string path)
    {
        if (stat.At(path) is { } existing)
        {
            if (!existing.IsSocket)
                throw new LinuxException("bind", $"{path}, where something that is no socket exists", Errno.ENOTSOCK);
            if (HasListener(path))
                throw new LinuxException("bind", $"{path}, where another process listens", Errno.EADDRINUSE);
            File.Delete(path);
        }
        SocketHandle socket = SocketHandle.Listen(path, Backlog);
        try
        {
            return new ServerSocket(path, socket, stat.At(path) ?? throw new LinuxException("bind", path, Errno.ENOENT));
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }

    /// <summary>Stops listening and removes the socket, unless somebody else has put something in its place.</summary>
    public void Dispose()
    {
        Socket.Dispose();
        if (stat.At(_path) is { } now && now.Inode == _created.Inode && now.Device == _created.Device)
            File.Delete(_path);
    }

    private static bool HasListener(string path)
    {
        try
        {
            using SocketHandle probe = SocketHandle.Connect(path, TimeSpan.FromSeconds(1));
            return true;
        }
        catch (LinuxException e) when (e.Errno is Errno.ECONNREFUSED or Errno.ENOENT)
        {
            return false;
        }
        catch (LinuxException e) when (e.Errno == Errno.EAGAIN)
        {
            return true; // so busy that its queue is full
        }
    }
}
