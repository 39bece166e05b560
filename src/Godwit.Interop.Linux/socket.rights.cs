using System.Diagnostics.CodeAnalysis;
using System.Net.Sockets;
using System.Runtime.InteropServices;

namespace Godwit.Interop.Linux;

/// <content>Descriptors and credentials over a unix socket that is the runtime's (unix(7), "Ancillary messages").</content>
public static unsafe partial class socket
{
#pragma warning disable CS1591 // C names; see the man page of each call
    /// <summary>asm-generic/socket.h.</summary>
    public const int SO_PEERCRED = 17;
#pragma warning restore CS1591

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint recvmsg(SafeSocketHandle fd, msghdr* message, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int getsockopt(SafeSocketHandle fd, int level, int name, void* value, uint* length);

    /// <summary>Who connected, or listened, at the other end when the connection was made (unix(7), SO_PEERCRED).</summary>
    /// <exception cref="LinuxException">It is no unix socket.</exception>
    public static ucred PeerOf(SafeSocketHandle fd)
    {
        ucred peer;
        uint length = (uint)sizeof(ucred);
        // SAFETY: the structure is in this frame, and its length is said.
        if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0)
            LinuxException.ThrowLast("getsockopt(SO_PEERCRED)");
        return peer;
    }

    /// <summary>Sends some of <paramref name="bytes"/>, and <paramref name="files"/> with the first of them: all of the files when anything is sent.</summary>
    /// <param name="fd">Kept open until the call returns.</param>
    /// <param name="bytes">At least one.</param>
    /// <param name="files">1 to <see cref="SCM_MAX_FD"/>; the peer gets duplicates.</param>
    /// <exception cref="LinuxException">The peer has gone, or takes nothing within the send timeout.</exception>
    public static int SendWithFiles(SafeSocketHandle fd, ReadOnlySpan<byte> bytes, ReadOnlySpan<FileDescriptor> files)
    {
        ArgumentOutOfRangeException.ThrowIfZero(bytes.Length);
        ArgumentOutOfRangeException.ThrowIfZero(files.Length);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(files.Length, SCM_MAX_FD);
        int length = sizeof(cmsghdr) + files.Length * sizeof(int);
        byte* control = stackalloc byte[(length + 7) & ~7];
        *(cmsghdr*)control = new cmsghdr { cmsg_len = (nuint)length, cmsg_level = SOL_SOCKET, cmsg_type = SCM_RIGHTS };
        int referenced = 0;
        try
        {
            foreach (FileDescriptor file in files)
            {
                bool added = false;
                file.DangerousAddRef(ref added);
                ((int*)(control + sizeof(cmsghdr)))[referenced++] = file.Number;
            }

            // SAFETY: the bytes are pinned and the control data lives in this frame; the descriptors stay open until after the call.
            fixed (byte* pointer = bytes)
            {
                var vector = new iovec { iov_base = pointer, iov_len = (nuint)bytes.Length };
                var message = new msghdr { msg_iov = &vector, msg_iovlen = 1, msg_control = control, msg_controllen = (nuint)((length + 7) & ~7) };
                nint sent;
                while ((sent = sendmsg(fd, &message, MSG_NOSIGNAL)) < 0)
                {
                    if ((Errno)Marshal.GetLastPInvokeError() != Errno.EINTR)
                        LinuxException.ThrowLast("sendmsg");
                }

                return (int)sent;
            }
        }
        finally
        {
            for (int i = 0; i < referenced; i++)
                files[i].DangerousRelease();
        }
    }

    /// <summary>Receives what is there, at most <paramref name="buffer"/>, and the descriptors that came with it; waits while nothing is. 0 at the end of the stream.</summary>
    /// <param name="fd">Kept open until the call returns.</param>
    /// <param name="buffer">Where the bytes go.</param>
    /// <param name="files">The descriptors are added, all close-on-exec; they are the caller's.</param>
    /// <param name="most">Descriptors that are taken at most, up to <see cref="SCM_MAX_FD"/>.</param>
    /// <param name="truncated">More came, or the process has none left; the kernel dropped the rest.</param>
    /// <exception cref="LinuxException">The connection broke.</exception>
    [SuppressMessage("Reliability", "CA2000", Justification = "The descriptors are the caller's")]
    public static int ReceiveWithFiles(SafeSocketHandle fd, Span<byte> buffer, ICollection<FileDescriptor> files, int most, out bool truncated)
    {
        ArgumentNullException.ThrowIfNull(files);
        ArgumentOutOfRangeException.ThrowIfGreaterThan((uint)most, (uint)SCM_MAX_FD, nameof(most));
        int room = sizeof(cmsghdr) + most * sizeof(int);
        byte* control = stackalloc byte[(room + 7) & ~7];
        // SAFETY: the buffer is pinned and the control data lives in this frame; the kernel writes at most the lengths given.
        fixed (byte* pointer = buffer)
        {
            var vector = new iovec { iov_base = pointer, iov_len = (nuint)buffer.Length };
            msghdr message;
            nint received;
            do
            {
                message = new msghdr { msg_iov = &vector, msg_iovlen = 1, msg_control = control, msg_controllen = (nuint)room };
                received = recvmsg(fd, &message, MSG_CMSG_CLOEXEC);
            }
            while (received < 0 && (Errno)Marshal.GetLastPInvokeError() == Errno.EINTR);
            if (received < 0)
                LinuxException.ThrowLast("recvmsg");
            truncated = (message.msg_flags & MSG_CTRUNC) != 0;
            var header = (cmsghdr*)control;
            if (message.msg_controllen >= (nuint)sizeof(cmsghdr) && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
            {
                // SAFETY: the kernel wrote cmsg_len bytes, no more than the room given above.
                int count = (int)(header->cmsg_len - (nuint)sizeof(cmsghdr)) / sizeof(int);
                for (int i = 0; i < count; i++)
                    files.Add(FileDescriptor.Adopt(((int*)(control + sizeof(cmsghdr)))[i]));
            }

            return (int)received;
        }
    }
}

/// <summary>Who is at the other end of a unix socket (unix(7), SO_PEERCRED).</summary>
[StructLayout(LayoutKind.Sequential)]
public struct ucred
{
#pragma warning disable CS1591 // C names; see the man page
    public int pid;
    public uint uid;
    public uint gid;
#pragma warning restore CS1591
}
