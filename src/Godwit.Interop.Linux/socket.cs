using System.Net.Sockets;
using System.Runtime.InteropServices;
using System.Text;

namespace Godwit.Interop.Linux;

/// <summary>sys/socket.h and sys/un.h: local stream sockets that carry file descriptors.</summary>
public static unsafe partial class socket
{
#pragma warning disable CS1591 // C names; see the man page of each call
    public const int AF_UNIX = 1;
    public const int SOCK_STREAM = 1;
    public const int SOCK_CLOEXEC = 0x80000;
    public const int SOL_SOCKET = 1;
    public const int SO_RCVTIMEO = 20;
    public const int SO_SNDTIMEO = 21;
    public const int SCM_RIGHTS = 1;
    public const int SHUT_RDWR = 2;
    public const int MSG_CTRUNC = 0x8;
    public const int MSG_DONTWAIT = 0x40;
    public const int MSG_WAITALL = 0x100;
    public const int MSG_NOSIGNAL = 0x4000;
    public const int MSG_CMSG_CLOEXEC = 0x40000000;

    /// <summary>Most descriptors in one message (include/net/scm.h, SCM_MAX_FD).</summary>
    public const int SCM_MAX_FD = 253;

    [LibraryImport("libc", EntryPoint = "socket", SetLastError = true)]
    internal static partial int create(int domain, int type, int protocol);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int socketpair(int domain, int type, int protocol, int* pair);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int bind(FileDescriptor fd, sockaddr_un* address, uint length);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int listen(FileDescriptor fd, int backlog);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int accept4(FileDescriptor fd, void* address, uint* length, int flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int connect(FileDescriptor fd, sockaddr_un* address, uint length);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int shutdown(FileDescriptor fd, int how);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int setsockopt(FileDescriptor fd, int level, int name, void* value, uint length);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint sendmsg(FileDescriptor fd, msghdr* message, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint sendmsg(SafeSocketHandle fd, msghdr* message, int flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint recvmsg(FileDescriptor fd, msghdr* message, int flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint recv(FileDescriptor fd, void* buffer, nuint length, int flags);
#pragma warning restore CS1591

    [StructLayout(LayoutKind.Sequential)]
    internal struct sockaddr_un
    {
        public ushort sun_family;
        public fixed byte sun_path[108];
    }

    /// <summary>sendmsg(2) of what is in several places, on a socket that is the runtime's.</summary>
    /// <param name="fd">Kept open until the call returns.</param>
    /// <param name="pieces">Where it is. The caller vouches that it is readable.</param>
    /// <param name="count">Pieces; at most 1024 (<c>UIO_MAXIOV</c> of linux/uio.h).</param>
    /// <param name="flags"><c>MSG_</c> constants.</param>
    /// <returns>Bytes sent, or -1 and an error number in <see cref="Marshal.GetLastPInvokeError"/>.</returns>
    public static nint sendmsg(SafeSocketHandle fd, iovec* pieces, int count, int flags)
    {
        var message = new msghdr { msg_iov = pieces, msg_iovlen = (nuint)count };
        return sendmsg(fd, &message, flags);
    }

    /// <summary>A piece of memory (struct iovec of linux/uio.h).</summary>
    [StructLayout(LayoutKind.Sequential)]
    public struct iovec
    {
        /// <summary>Where it begins.</summary>
        public void* iov_base;

        /// <summary>Its bytes.</summary>
        public nuint iov_len;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct msghdr
    {
        public void* msg_name;
        public uint msg_namelen;
        public iovec* msg_iov;
        public nuint msg_iovlen;
        public void* msg_control;
        public nuint msg_controllen;
        public int msg_flags;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct cmsghdr
    {
        public nuint cmsg_len;
        public int cmsg_level;
        public int cmsg_type;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct timeval
    {
        public nint tv_sec;
        public nint tv_usec;
    }
}

/// <summary>
/// A connected or listening AF_UNIX stream socket. Sending and receiving may happen on two threads at once; two senders must take
/// turns, or their messages mix.
/// </summary>
public sealed unsafe class SocketHandle : FileDescriptor
{
    /// <summary>sizeof(struct cmsghdr); descriptors follow at once, the header being a multiple of the alignment (cmsg(3)).</summary>
    private const int ControlHeaderSize = 16;

    /// <summary>Longest path, its NUL not counted (unix(7)).</summary>
    public const int MaxPathBytes = 107;

    /// <summary>Connects to the socket at <paramref name="path"/>.</summary>
    /// <param name="path">A path in the file system, at most <see cref="MaxPathBytes"/> bytes of UTF-8.</param>
    /// <param name="timeout">How long to wait while the listener's backlog is full; null waits for ever.</param>
    /// <exception cref="LinuxException">No such path, no socket, nobody listens (ECONNREFUSED), or no answer in time (EAGAIN).</exception>
    public static SocketHandle Connect(string path, TimeSpan? timeout = null)
    {
        SocketHandle result = Create();
        try
        {
            if (timeout is { } limit)
                result.SetTimeout(socket.SO_SNDTIMEO, limit);
            socket.sockaddr_un address = AddressOf(path);
            while (socket.connect(result, &address, (uint)sizeof(socket.sockaddr_un)) != 0)
            {
                if ((Errno)Marshal.GetLastPInvokeError() != Errno.EINTR)
                    LinuxException.ThrowLast("connect", path);
            }
            return result;
        }
        catch
        {
            result.Dispose();
            throw;
        }
    }

    /// <summary>Binds <paramref name="path"/>, which must not exist, and listens.</summary>
    /// <exception cref="LinuxException">The path exists (EADDRINUSE), is too long, or may not be created.</exception>
    public static SocketHandle Listen(string path, int backlog)
    {
        SocketHandle result = Create();
        try
        {
            socket.sockaddr_un address = AddressOf(path);
            if (socket.bind(result, &address, (uint)sizeof(socket.sockaddr_un)) != 0)
                LinuxException.ThrowLast("bind", path);
            if (socket.listen(result, backlog) != 0)
                LinuxException.ThrowLast("listen", path);
            return result;
        }
        catch
        {
            result.Dispose();
            throw;
        }
    }

    /// <summary>A second descriptor of a socket received from a peer. Not verified to be a socket; using one that is not fails.</summary>
    /// <exception cref="LinuxException">The process has no descriptor left.</exception>
    public static SocketHandle DuplicateOf(FileDescriptor received)
    {
        var result = new SocketHandle();
        int number = unistd.fcntl(received, unistd.F_DUPFD_CLOEXEC, 0);
        if (number < 0)
            LinuxException.ThrowLast("fcntl(F_DUPFD_CLOEXEC)");
        result.SetHandle(number);
        return result;
    }

    /// <summary>Two sockets connected to each other.</summary>
    /// <exception cref="LinuxException">The process has no descriptor left.</exception>
    public static (SocketHandle First, SocketHandle Second) CreatePair()
    {
        var first = new SocketHandle();
        var second = new SocketHandle();
        int* pair = stackalloc int[2];
        if (socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, 0, pair) != 0)
            LinuxException.ThrowLast("socketpair");
        first.SetHandle(pair[0]);
        second.SetHandle(pair[1]);
        return (first, second);
    }

    /// <summary>Waits for and takes one connection.</summary>
    /// <exception cref="LinuxException">The listener was shut down (EINVAL), or no descriptor is left.</exception>
    public SocketHandle Accept()
    {
        var result = new SocketHandle();
        int number;
        while ((number = socket.accept4(this, null, null, socket.SOCK_CLOEXEC)) < 0)
        {
            if ((Errno)Marshal.GetLastPInvokeError() is not (Errno.EINTR or Errno.ECONNABORTED))
                LinuxException.ThrowLast("accept4");
        }
        result.SetHandle(number);
        return result;
    }

    /// <summary>Ends both directions: everyone who waits on this socket, here and at the peer, is woken. Harmless when already gone.</summary>
    public void Shutdown()
    {
        if (socket.shutdown(this, socket.SHUT_RDWR) != 0 && (Errno)Marshal.GetLastPInvokeError() != Errno.ENOTCONN)
            LinuxException.ThrowLast("shutdown");
    }

    /// <summary>Sends fail with EAGAIN after making no progress for this long; <see cref="Timeout.InfiniteTimeSpan"/> takes the limit away.</summary>
    public void SetSendTimeout(TimeSpan timeout) => SetTimeout(socket.SO_SNDTIMEO, timeout);

    /// <summary>Receives fail with EAGAIN after nothing came for this long; <see cref="Timeout.InfiniteTimeSpan"/> takes the limit away.</summary>
    public void SetReceiveTimeout(TimeSpan timeout) => SetTimeout(socket.SO_RCVTIMEO, timeout);

    /// <summary>
    /// Sends <paramref name="first"/> followed by <paramref name="second"/> as one message of the stream, with descriptors riding on
    /// the first byte. Returns when the kernel has taken everything.
    /// </summary>
    /// <param name="first">Not empty.</param>
    /// <param name="second">May be empty.</param>
    /// <param name="descriptors">At most <see cref="socket.SCM_MAX_FD"/>; the peer gets duplicates.</param>
    /// <exception cref="LinuxException">The peer has gone (EPIPE, ECONNRESET) or takes nothing within the send timeout (EAGAIN).</exception>
    public void Send(ReadOnlySpan<byte> first, ReadOnlySpan<byte> second = default, ReadOnlySpan<FileDescriptor> descriptors = default)
    {
        ArgumentOutOfRangeException.ThrowIfZero(first.Length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(descriptors.Length, socket.SCM_MAX_FD);
        int referenced = 0;
        // SAFETY: the control buffer holds one header and every descriptor number; it lives in this frame during the calls below.
        int controlLength = descriptors.IsEmpty ? 0 : ControlHeaderSize + descriptors.Length * sizeof(int);
        byte* control = stackalloc byte[(controlLength + 7) & ~7];
        try
        {
            if (!descriptors.IsEmpty)
            {
                *(socket.cmsghdr*)control = new socket.cmsghdr
                {
                    cmsg_len = (nuint)controlLength,
                    cmsg_level = socket.SOL_SOCKET,
                    cmsg_type = socket.SCM_RIGHTS,
                };
                foreach (FileDescriptor descriptor in descriptors)
                {
                    bool added = false;
                    descriptor.DangerousAddRef(ref added);
                    ((int*)(control + ControlHeaderSize))[referenced++] = descriptor.Number;
                }
            }
            SendAll(first, second, control, (nuint)((controlLength + 7) & ~7));
        }
        finally
        {
            for (int i = 0; i < referenced; i++)
                descriptors[i].DangerousRelease();
        }
    }

    /// <summary>Receives what is there, at most <paramref name="buffer"/>; waits while nothing is. 0 at the end of the stream.</summary>
    /// <exception cref="LinuxException">The connection broke (ECONNRESET), or the receive timeout passed (EAGAIN).</exception>
    public int Receive(Span<byte> buffer)
    {
        // SAFETY: the span is pinned during the call, and the kernel writes at most its length.
        fixed (byte* pointer = buffer)
        {
            return Receive(pointer, buffer.Length);
        }
    }

    /// <summary>As <see cref="Receive(Span{byte})"/>, into memory that the caller keeps valid during the call.</summary>
    public int Receive(byte* buffer, int length)
    {
        nint received;
        while ((received = socket.recv(this, buffer, (nuint)length, 0)) < 0)
        {
            if ((Errno)Marshal.GetLastPInvokeError() != Errno.EINTR)
                LinuxException.ThrowLast("recv");
        }
        return (int)received;
    }

    /// <summary>
    /// As <see cref="Receive(Span{byte})"/>, and takes the descriptors that came with these bytes, all close-on-exec. The caller owns them.
    /// </summary>
    /// <param name="buffer">Where the bytes go.</param>
    /// <param name="descriptors">Where the descriptors' numbers go, at most <see cref="socket.SCM_MAX_FD"/>.</param>
    /// <param name="descriptorCount">How many came.</param>
    /// <param name="truncated">The peer sent more descriptors than fit, or the process has none left; the kernel dropped the rest.</param>
    /// <param name="all">
    /// Waits until <paramref name="buffer"/> is full. Less comes at the end of the stream, after a signal, when the receive timeout passed, and
    /// with descriptors (recv(2), MSG_WAITALL).
    /// </param>
    public int Receive(Span<byte> buffer, Span<int> descriptors, out int descriptorCount, out bool truncated, bool all = false) =>
        Receive(buffer, descriptors, out descriptorCount, out truncated, all ? socket.MSG_WAITALL : 0);

    /// <summary>As the other, but does not wait. False when nothing is there; the end of the stream is.</summary>
    /// <param name="buffer">Where the bytes go.</param>
    /// <param name="descriptors">Where the descriptors' numbers go, at most <see cref="socket.SCM_MAX_FD"/>.</param>
    /// <param name="received">How many bytes came, 0 at the end of the stream.</param>
    /// <param name="descriptorCount">How many descriptors came.</param>
    /// <param name="truncated">The peer sent more descriptors than fit, or the process has none left; the kernel dropped the rest.</param>
    public bool TryReceive(Span<byte> buffer, Span<int> descriptors, out int received, out int descriptorCount, out bool truncated)
    {
        received = Receive(buffer, descriptors, out descriptorCount, out truncated, socket.MSG_DONTWAIT);
        return received >= 0;
    }

    /// <summary>-1 when nothing is there and MSG_DONTWAIT was given.</summary>
    private int Receive(Span<byte> buffer, Span<int> descriptors, out int descriptorCount, out bool truncated, int flags)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(descriptors.Length, socket.SCM_MAX_FD);
        descriptorCount = 0;
        int room = ControlHeaderSize + descriptors.Length * sizeof(int);
        byte* control = stackalloc byte[(room + 7) & ~7];
        // SAFETY: buffer is pinned and control lives in this frame; the kernel writes at most the lengths given.
        fixed (byte* pointer = buffer)
        {
            var vector = new socket.iovec { iov_base = pointer, iov_len = (nuint)buffer.Length };
            socket.msghdr message = default;
            nint received;
            do
            {
                message = new socket.msghdr { msg_iov = &vector, msg_iovlen = 1, msg_control = control, msg_controllen = (nuint)room };
                received = socket.recvmsg(this, &message, socket.MSG_CMSG_CLOEXEC | flags);
            }
            while (received < 0 && (Errno)Marshal.GetLastPInvokeError() == Errno.EINTR);
            if (received < 0)
            {
                if ((flags & socket.MSG_DONTWAIT) == 0 || (Errno)Marshal.GetLastPInvokeError() != Errno.EAGAIN)
                    LinuxException.ThrowLast("recvmsg");
                truncated = false; // nothing was written, neither to the message nor to the control data
                return -1;
            }

            truncated = (message.msg_flags & socket.MSG_CTRUNC) != 0;
            var header = (socket.cmsghdr*)control;
            if (message.msg_controllen >= ControlHeaderSize && header->cmsg_level == socket.SOL_SOCKET && header->cmsg_type == socket.SCM_RIGHTS)
            {
                // SAFETY: the kernel wrote cmsg_len bytes, no more than the room given above.
                descriptorCount = (int)(header->cmsg_len - ControlHeaderSize) / sizeof(int);
                new ReadOnlySpan<int>(control + ControlHeaderSize, descriptorCount).CopyTo(descriptors);
            }
            return (int)received;
        }
    }

    private static SocketHandle Create()
    {
        var result = new SocketHandle();
        int number = socket.create(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC, 0);
        if (number < 0)
            LinuxException.ThrowLast("socket");
        result.SetHandle(number);
        return result;
    }

    private static socket.sockaddr_un AddressOf(string path)
    {
        ArgumentException.ThrowIfNullOrEmpty(path);
        int length = Encoding.UTF8.GetByteCount(path);
        if (length > MaxPathBytes)
            throw new LinuxException("sockaddr_un", $"{path} ({length} bytes, at most {MaxPathBytes})", Errno.ENAMETOOLONG);
        ArgumentOutOfRangeException.ThrowIfNotEqual(path.Contains('\0', StringComparison.Ordinal), false, nameof(path));
        var address = new socket.sockaddr_un { sun_family = socket.AF_UNIX };
        // SAFETY: the length was checked to leave the terminating NUL of the 108 bytes.
        Encoding.UTF8.GetBytes(path, new Span<byte>(address.sun_path, MaxPathBytes));
        return address;
    }

    private void SetTimeout(int name, TimeSpan timeout)
    {
        bool infinite = timeout == Timeout.InfiniteTimeSpan;
        if (!infinite)
            ArgumentOutOfRangeException.ThrowIfLessThanOrEqual(timeout, TimeSpan.Zero);
        // 0 means no limit to the kernel, so a limit below its unit becomes one unit.
        long microseconds = infinite ? 0 : Math.Max(1, timeout.Ticks / TimeSpan.TicksPerMicrosecond);
        var value = new socket.timeval { tv_sec = (nint)(microseconds / 1_000_000), tv_usec = (nint)(microseconds % 1_000_000) };
        if (socket.setsockopt(this, socket.SOL_SOCKET, name, &value, (uint)sizeof(socket.timeval)) != 0)
            LinuxException.ThrowLast("setsockopt");
    }

    private void SendAll(ReadOnlySpan<byte> first, ReadOnlySpan<byte> second, byte* control, nuint controlLength)
    {
        // SAFETY: both spans are pinned for the whole loop and the vectors never reach past them.
        fixed (byte* firstPointer = first)
        fixed (byte* secondPointer = second)
        {
            nuint total = (nuint)first.Length + (nuint)second.Length;
            nuint done = 0;
            socket.iovec* vectors = stackalloc socket.iovec[2];
            while (done < total)
            {
                nuint firstDone = Math.Min(done, (nuint)first.Length);
                nuint secondDone = done - firstDone;
                vectors[0] = new socket.iovec { iov_base = firstPointer + firstDone, iov_len = (nuint)first.Length - firstDone };
                vectors[1] = new socket.iovec { iov_base = secondPointer + secondDone, iov_len = (nuint)second.Length - secondDone };
                // Descriptors ride on the first byte only: a continuation after a signal must not send them again.
                var message = new socket.msghdr
                {
                    msg_iov = vectors,
                    msg_iovlen = second.IsEmpty ? 1u : 2u,
                    msg_control = done == 0 && controlLength != 0 ? control : null,
                    msg_controllen = done == 0 ? controlLength : 0,
                };
                nint sent = socket.sendmsg(this, &message, socket.MSG_NOSIGNAL);
                if (sent >= 0)
                    done += (nuint)sent;
                else if ((Errno)Marshal.GetLastPInvokeError() != Errno.EINTR)
                    LinuxException.ThrowLast("sendmsg");
            }
        }
    }
}
