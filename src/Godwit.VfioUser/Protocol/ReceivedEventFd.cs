using System.Diagnostics.CodeAnalysis;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>Takes over a descriptor that a peer calls an eventfd. Writing to anything else might block who writes.</summary>
internal static class ReceivedEventFd
{
    /// <summary>What the kernel calls an eventfd in /proc (fs/eventfd.c, anon_inode).</summary>
    private const string LinkTarget = "anon_inode:[eventfd]";

    /// <summary>A duplicate of <paramref name="file"/> as an eventfd that does not block as long as the peer leaves it so; false when it is something else.</summary>
    public static bool TryTake(FileDescriptor file, [NotNullWhen(true)] out EventFd? result)
    {
        result = null;
        if (new FileInfo($"/proc/self/fd/{file.Number}").LinkTarget != LinkTarget)
            return false;
        int flags = unistd.fcntl(file, unistd.F_GETFL, 0);
        if (flags < 0 || ((flags & unistd.O_NONBLOCK) == 0 && unistd.fcntl(file, unistd.F_SETFL, flags | unistd.O_NONBLOCK) != 0))
            return false;
        int number = unistd.fcntl(file, unistd.F_DUPFD_CLOEXEC, 0);
        if (number < 0)
            return false;
        result = EventFd.AdoptEventFd(number);
        return true;
    }
}
