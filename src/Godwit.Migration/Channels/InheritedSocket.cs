using System.Net.Sockets;
using Godwit.Interop.Linux;

namespace Godwit.Migration;

/// <summary>The socket of an <c>fd:</c> address.</summary>
internal static class InheritedSocket
{
    /// <summary>Takes it over: the descriptor's number is free afterwards. One that is refused stays as it was.</summary>
    /// <exception cref="IOException">
    /// It is not open, no connected stream socket, or one of this program's own: those are all close-on-exec, which one that was handed down
    /// cannot be.
    /// </exception>
    internal static MigrationChannel Open(FdMigrationUri uri, TimeProvider clock)
    {
        int flags = unistd.fcntl_number(uri.Number, unistd.F_GETFD, 0);
        if (flags < 0)
            throw new IOException($"Cannot use {uri}: this process has no such descriptor");
        if ((flags & unistd.FD_CLOEXEC) != 0)
            throw new IOException($"Cannot use {uri}: that descriptor was not handed to this process");
        try
        {
            Socket socket = AdoptDuplicate(unistd.fcntl_number(uri.Number, unistd.F_DUPFD_CLOEXEC, 0));
            try
            {
                Check(uri, socket);
                _ = unistd.close(uri.Number);
                return new MigrationChannel(socket, clock);
            }
            catch
            {
                socket.Dispose();
                throw;
            }
        }
        catch (SocketException e)
        {
            throw new IOException($"Cannot use {uri}: it is no socket ({e.Message})", e);
        }
    }

    /// <summary>A .NET socket, in blocking mode, on a descriptor that it owns from here on.</summary>
    internal static Socket AdoptDuplicate(int number)
    {
        if (number < 0)
            LinuxException.ThrowLast("fcntl(F_DUPFD_CLOEXEC)");
        var handle = new SafeSocketHandle(number, ownsHandle: true);
        try
        {
            int flags = unistd.fcntl_number(number, unistd.F_GETFL, 0);
            if (flags >= 0 && (flags & unistd.O_NONBLOCK) != 0)
                _ = unistd.fcntl_number(number, unistd.F_SETFL, flags & ~unistd.O_NONBLOCK);
            return new Socket(handle);
        }
        catch
        {
            handle.Dispose();
            throw;
        }
    }

    /// <summary>Two connected sockets of this process.</summary>
    internal static (Socket First, Socket Second) CreatePair()
    {
        (SocketHandle first, SocketHandle second) = SocketHandle.CreatePair();
        using (first)
        using (second)
        {
            return (AdoptDuplicate(unistd.fcntl(first, unistd.F_DUPFD_CLOEXEC, 0)), AdoptDuplicate(unistd.fcntl(second, unistd.F_DUPFD_CLOEXEC, 0)));
        }
    }

    private static void Check(FdMigrationUri uri, Socket socket)
    {
        if (socket.SocketType == SocketType.Unknown)
            throw new IOException($"Cannot use {uri}: it is no socket");
        if (socket.SocketType != SocketType.Stream)
            throw new IOException($"Cannot use {uri}: it is a {socket.SocketType} socket; a migration needs a stream");
        if (!socket.Connected)
            throw new IOException($"Cannot use {uri}: the socket is not connected");
    }
}
