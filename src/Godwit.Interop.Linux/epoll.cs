using System.Runtime.InteropServices;

namespace Godwit.Interop.Linux;

/// <summary>sys/epoll.h: waiting on descriptors that are registered once.</summary>
public sealed unsafe partial class Epoll : FileDescriptor
{
    private const int EPOLL_CLOEXEC = 0x80000;
    private const int EPOLL_CTL_ADD = 1;
    private const uint EPOLLIN = 0x1;
    private const uint EPOLLET = 1u << 31;

    /// <summary>Creates one that waits for nothing yet.</summary>
    /// <exception cref="LinuxException">The process or the system has no descriptor left.</exception>
    public static Epoll Create()
    {
        var result = new Epoll();
        int number = epoll_create1(EPOLL_CLOEXEC);
        if (number < 0)
            LinuxException.ThrowLast("epoll_create1");
        result.SetHandle(number);
        return result;
    }

    /// <summary>
    /// Has <see cref="Wait"/> return <paramref name="token"/> when <paramref name="descriptor"/> can be read. Edge-triggered: told once for
    /// each time that something arrives, whether it is read or not (epoll(7)). Of an eventfd every write is such an arrival.
    /// </summary>
    /// <exception cref="LinuxException">The descriptor cannot be waited on, or is registered already.</exception>
    public void AddEdge(FileDescriptor descriptor, ulong token)
    {
        var registration = new epoll_event { events = EPOLLIN | EPOLLET, data = token };
        if (epoll_ctl(this, EPOLL_CTL_ADD, descriptor, &registration) != 0)
            LinuxException.ThrowLast("epoll_ctl");
    }

    /// <summary>Waits until something can be read and returns its token. One thread at a time.</summary>
    /// <exception cref="LinuxException">The wait failed.</exception>
    public ulong Wait()
    {
        epoll_event arrived;
        while (epoll_wait(this, &arrived, 1, -1) != 1)
        {
            if ((Errno)Marshal.GetLastPInvokeError() != Errno.EINTR)
                LinuxException.ThrowLast("epoll_wait");
        }
        return arrived.data;
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int epoll_create1(int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int epoll_ctl(FileDescriptor epfd, int op, FileDescriptor fd, epoll_event* @event);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int epoll_wait(FileDescriptor epfd, epoll_event* events, int maxevents, int timeout);
}

#pragma warning disable CS1591 // C names; epoll_ctl(2)

/// <summary>struct epoll_event, which is packed on x86-64 (sys/epoll.h, __EPOLL_PACKED).</summary>
[StructLayout(LayoutKind.Sequential, Pack = 1)]
public struct epoll_event
{
    public uint events;
    public ulong data;
}
