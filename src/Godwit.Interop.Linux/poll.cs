using System.Runtime.InteropServices;

namespace Godwit.Interop.Linux;

#pragma warning disable CS1591 // C names; poll(2)

/// <summary>poll.h: waiting on several descriptors.</summary>
public static unsafe partial class poll
{
    public const short POLLIN = 0x1;
    public const short POLLOUT = 0x4;
    public const short POLLERR = 0x8;
    public const short POLLHUP = 0x10;
    public const short POLLNVAL = 0x20;

    [LibraryImport("libc", EntryPoint = "poll", SetLastError = true)]
    public static partial int wait(pollfd* fds, nuint nfds, int timeout);
}

/// <summary>struct pollfd.</summary>
[StructLayout(LayoutKind.Sequential)]
public struct pollfd
{
    public int fd;
    public short events;
    public short revents;
}
