using System.Runtime.InteropServices;

namespace Godwit.Interop.Linux;

/// <summary>sys/eventfd.h: a kernel counter that threads and processes wait on.</summary>
public sealed unsafe partial class EventFd : FileDescriptor
{
    private const int EFD_CLOEXEC = 0x80000;
    private const int EFD_NONBLOCK = 0x800;

    /// <summary>Creates an eventfd whose counter is 0; reads never block.</summary>
    /// <exception cref="LinuxException">The process or the system has no descriptor left.</exception>
    public static EventFd Create()
    {
        var result = new EventFd();
        int number = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (number < 0)
            LinuxException.ThrowLast("eventfd");
        result.SetHandle(number);
        return result;
    }

    /// <summary>Takes ownership of a descriptor received from a peer. Not verified to be an eventfd; signalling one that is not fails.</summary>
    public static EventFd AdoptEventFd(int number)
    {
        var result = new EventFd();
        result.SetHandle(number);
        return result;
    }

    /// <summary>Adds 1 to the counter and wakes waiters. Returns false when the descriptor takes no write (a peer sent something else).</summary>
    public bool Signal()
    {
        ulong one = 1;
        return unistd.write(this, &one, sizeof(ulong)) == sizeof(ulong)
            || (Errno)Marshal.GetLastPInvokeError() == Errno.EAGAIN; // counter saturated: already signalled
    }

    /// <summary>Reads and clears the counter; 0 when nothing was signalled.</summary>
    public ulong Drain()
    {
        ulong value = 0;
        return unistd.read(this, &value, sizeof(ulong)) == sizeof(ulong) ? value : 0;
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int eventfd(uint initval, int flags);
}
