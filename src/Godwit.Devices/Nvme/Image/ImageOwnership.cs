using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.Devices;

/// <summary>
/// The right to transfer to and from the image, which at most one server has at a time: an exclusive lock of the open file description
/// on the whole file (fcntl(2), F_OFD_SETLK). The kernel releases it when the process dies, so no owner can be left behind. Taken
/// when an enabled controller enters a running state, released when it stops or its client goes; that hands it over exactly once
/// in a migration. Used on the message thread only.
/// </summary>
internal sealed unsafe class ImageOwnership(ImageFile image, TimeProvider clock, LogLimiter log) : IDisposable
{
    /// <summary>The pause between two looks: no system call waits for such a lock with a limit. Only the limit is <see cref="TimeProvider"/>'s.</summary>
    private static readonly TimeSpan Retry = TimeSpan.FromMilliseconds(1);

    private readonly ManualResetEventSlim _never = new(initialState: false);

    /// <summary>Whether this server has it.</summary>
    public bool Held { get; private set; }

    /// <summary>Takes it, waiting at most <paramref name="wait"/> for its present owner; nothing happens when already held.</summary>
    /// <returns>EBUSY when another server kept it; another number when the file system cannot lock.</returns>
    public Errno Take(TimeSpan wait)
    {
        if (Held)
            return Errno.None;
        long start = clock.GetTimestamp();
        while (true)
        {
            Errno errno = Lock(fcntl.F_WRLCK);
            switch (errno)
            {
                case Errno.None:
                    Held = true;
                    TimeSpan waited = clock.GetElapsedTime(start);
                    log.Write($"nvme: took {image.Path}" + (waited > Retry ? $" after {waited.TotalMilliseconds:F0} ms" : ""));
                    return Errno.None;
                case Errno.EINTR:
                    continue;
                case Errno.EAGAIN or Errno.EACCES:
                    if (clock.GetElapsedTime(start) < wait)
                    {
                        _never.Wait(Retry);
                        continue;
                    }
                    log.Write($"nvme: {image.Path} belongs to another running server, which did not let go within {wait}");
                    return Errno.EBUSY;
                default:
                    log.Write($"nvme: {image.Path} cannot be locked: {Marshal.GetPInvokeErrorMessage((int)errno)} ({errno})");
                    return errno;
            }
        }
    }

    /// <summary>
    /// Lets go. Workers are quiet. If the next owner may not share this kernel's page cache, what was written goes to stable storage first.
    /// </summary>
    /// <returns>The error of that flush, with ownership kept: the next owner would read old data.</returns>
    public Errno Release()
    {
        if (!Held)
            return Errno.None;
        if (!image.SharesPageCache)
        {
            Errno flushed = image.Flush();
            if (flushed != Errno.None)
                return flushed;
        }
        Abandon();
        return Errno.None;
    }

    /// <summary>Lets go at once, whatever was written so far.</summary>
    public void Abandon()
    {
        if (!Held)
            return;
        Errno errno = Lock(fcntl.F_UNLCK);
        if (errno != Errno.None)
            log.Write($"nvme: {image.Path} cannot be unlocked: {Marshal.GetPInvokeErrorMessage((int)errno)} ({errno})");
        Held = false;
        log.Write($"nvme: released {image.Path}");
    }

    /// <inheritdoc/>
    public void Dispose() => _never.Dispose();

    private Errno Lock(short kind)
    {
        var request = new flock { l_type = kind, l_whence = 0, l_start = 0, l_len = 0 };
        return fcntl.fcntl_lock(image.File, fcntl.F_OFD_SETLK, &request) == 0 ? Errno.None : (Errno)Marshal.GetLastPInvokeError();
    }
}
