using System.Runtime.InteropServices;

namespace Godwit.Interop.Linux;

/// <summary>unistd.h and fcntl.h: file descriptors by their C names.</summary>
public static unsafe partial class unistd
{
#pragma warning disable CS1591 // C names; see the man page of each call
    public const int F_GETFD = 1;
    public const int F_SETFD = 2;
    public const int FD_CLOEXEC = 1;
    public const int F_SETFL = 4;
    public const int F_GETFL = 3;
    public const int F_ADD_SEALS = 1033;
    public const int F_GET_SEALS = 1034;
    public const int F_DUPFD_CLOEXEC = 1030;
    public const int F_SEAL_SEAL = 0x1;
    public const int F_SEAL_SHRINK = 0x2;
    public const int F_SEAL_GROW = 0x4;
    public const int F_SEAL_WRITE = 0x8;
    public const int F_SEAL_FUTURE_WRITE = 0x10;
    public const int O_ACCMODE = 3;
    public const int O_NONBLOCK = 0x800;
    public const int RWF_NOWAIT = 0x8;
    public const int SEEK_END = 2;
    public const int SEEK_DATA = 3;
    public const int SEEK_HOLE = 4;

    [LibraryImport("libc", SetLastError = true)]
    public static partial int close(int fd);

    [LibraryImport("libc", SetLastError = true)]
    public static partial nint read(FileDescriptor fd, void* buffer, nuint count);

    [LibraryImport("libc", SetLastError = true)]
    public static partial nint write(FileDescriptor fd, void* buffer, nuint count);

    [LibraryImport("libc", SetLastError = true)]
    public static partial nint pread(FileDescriptor fd, void* buffer, nuint count, long offset);

    [LibraryImport("libc", SetLastError = true)]
    public static partial nint pwrite(FileDescriptor fd, void* buffer, nuint count, long offset);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial nint preadv2(FileDescriptor fd, socket.iovec* vectors, int count, long offset, int flags);

    [LibraryImport("libc", SetLastError = true)]
    public static partial long lseek(FileDescriptor fd, long offset, int whence);

    [LibraryImport("libc", SetLastError = true)]
    public static partial int ftruncate(FileDescriptor fd, long length);

    [LibraryImport("libc", SetLastError = true)]
    public static partial uint geteuid();

    [LibraryImport("libc", SetLastError = true)]
    public static partial int fcntl(FileDescriptor fd, int command, nint argument);
#pragma warning restore CS1591

    /// <summary>fcntl(2) on a descriptor that somebody else owns, or nobody here yet.</summary>
    [LibraryImport("libc", EntryPoint = "fcntl", SetLastError = true)]
    public static partial int fcntl_number(int fd, int command, nint argument);
}
