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

    /// <summary>
    /// Reads and clears the counter; 0 when nothing was signalled. Does not wait, even when a peer that shares the eventfd has made it
    /// blocking, from Linux 5.8 on; before that it waits then.
    /// </summary>
    public ulong Drain()
    {
        // SAFETY: both live in this frame; the kernel writes 8 bytes at most.
        ulong value = 0;
        var place = new socket.iovec { iov_base = &value, iov_len = sizeof(ulong) };
        nint got = unistd.preadv2(this, &place, 1, -1, unistd.RWF_NOWAIT);
        if (got < 0 && (Errno)Marshal.GetLastPInvokeError() is Errno.ENOTSUP or Errno.ENOSYS)
            got = unistd.read(this, &value, sizeof(ulong));
        return got == sizeof(ulong) ? value : 0;
    }

    /// <summary>
    /// Empties the counter if nothing more can be added to it, which releases everybody who hangs in a write. An honest peer does not fill
    /// it in centuries.
    /// </summary>
    /// <returns>Whether it was full.</returns>
    /// <exception cref="ObjectDisposedException">It has been closed.</exception>
    public bool EmptyIfFull()
    {
        bool added = false;
        try
        {
            DangerousAddRef(ref added);
            // SAFETY: one entry in this frame; the reference keeps the descriptor open.
            var entry = new pollfd { fd = Number, events = poll.POLLOUT };
            if (poll.wait(&entry, 1, 0) != 0)
                return false;
            Drain();
            return true;
        }
        finally
        {
            if (added)
                DangerousRelease();
        }
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int eventfd(uint initval, int flags);
}
