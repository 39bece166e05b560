using System.Runtime.InteropServices;

namespace Godwit.Interop.Linux;

#pragma warning disable CS1591 // C names; see the man page of each call

/// <summary>fcntl.h: opening files, locks of open file descriptions, allocation of file space.</summary>
public static unsafe partial class fcntl
{
    public const int O_RDONLY = 0;
    public const int O_RDWR = 2;
    public const int O_CREAT = 0x40;
    public const int O_EXCL = 0x80;
    public const int O_CLOEXEC = 0x80000;

    public const short F_RDLCK = 0;
    public const short F_WRLCK = 1;
    public const short F_UNLCK = 2;
    public const int F_OFD_GETLK = 36;
    public const int F_OFD_SETLK = 37;

    public const int FALLOC_FL_KEEP_SIZE = 0x01;
    public const int FALLOC_FL_PUNCH_HOLE = 0x02;
    public const int FALLOC_FL_ZERO_RANGE = 0x10;

    /// <summary>open(2); returns a descriptor number or -1.</summary>
    [LibraryImport("libc", StringMarshalling = StringMarshalling.Utf8, SetLastError = true)]
    public static partial int open(string path, int flags, uint mode);

    /// <summary>fcntl(2) with F_OFD_SETLK or F_OFD_GETLK.</summary>
    [LibraryImport("libc", EntryPoint = "fcntl", SetLastError = true)]
    public static partial int fcntl_lock(FileDescriptor fd, int command, flock* @lock);

    [LibraryImport("libc", SetLastError = true)]
    public static partial int fallocate(FileDescriptor fd, int mode, long offset, long length);

    [LibraryImport("libc", SetLastError = true)]
    public static partial int fdatasync(FileDescriptor fd);
}

/// <summary>struct flock (64-bit ABIs).</summary>
[StructLayout(LayoutKind.Sequential)]
public struct flock
{
    public short l_type;
    public short l_whence;
    public long l_start;
    public long l_len;
    public int l_pid;
}
