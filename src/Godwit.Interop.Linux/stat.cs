using System.Runtime.InteropServices;

namespace Godwit.Interop.Linux;

/// <summary>sys/stat.h: what a file is. statx(2) is used because its layout is the same on every architecture.</summary>
public static unsafe partial class stat
{
    private const int AT_EMPTY_PATH = 0x1000;
    private const uint STATX_BASIC_STATS = 0x7ff;
    private const ushort S_IFMT = 0xf000;
    private const ushort S_IFREG = 0x8000;
    private const ushort S_IFBLK = 0x6000;
    private const ushort S_IFCHR = 0x2000;
    private const ushort S_IFSOCK = 0xc000;
    private const int AT_FDCWD = -100;
    private const int AT_SYMLINK_NOFOLLOW = 0x100;

    /// <summary>The file behind <paramref name="file"/>.</summary>
    /// <exception cref="LinuxException">The descriptor is not open.</exception>
    public static FileStatus Of(FileDescriptor file)
    {
        statx_t buffer;
        byte empty = 0;
        if (statx_fd(file, &empty, AT_EMPTY_PATH, STATX_BASIC_STATS, &buffer) != 0)
            LinuxException.ThrowLast("statx");
        return From(buffer);
    }

    /// <summary>What is at <paramref name="path"/>, symbolic links not followed; null when nothing is.</summary>
    /// <exception cref="LinuxException">The path cannot be looked at.</exception>
    public static FileStatus? At(string path)
    {
        statx_t buffer;
        if (statx_path(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, STATX_BASIC_STATS, &buffer) == 0)
            return From(buffer);
        if ((Errno)Marshal.GetLastPInvokeError() != Errno.ENOENT)
            LinuxException.ThrowLast("statx", path);
        return null;
    }

    /// <summary>The file behind a descriptor that somebody else owns; null when <paramref name="number"/> is not open.</summary>
    /// <exception cref="LinuxException">It cannot be looked at.</exception>
    public static FileStatus? OfNumber(int number)
    {
        statx_t buffer;
        if (number >= 0 && statx_path(number, "", AT_EMPTY_PATH, STATX_BASIC_STATS, &buffer) == 0)
            return From(buffer);
        if (number >= 0 && (Errno)Marshal.GetLastPInvokeError() != Errno.EBADF)
            LinuxException.ThrowLast("statx", $"descriptor {number}");
        return null;
    }

    private static FileStatus From(statx_t status) => new(
        ((ulong)status.stx_dev_major << 32) | status.stx_dev_minor,
        status.stx_ino,
        status.stx_size,
        (status.stx_mode & S_IFMT) == S_IFREG,
        (status.stx_mode & S_IFMT) == S_IFSOCK,
        (status.stx_mode & S_IFMT) == S_IFBLK)
    {
        IsCharacterDevice = (status.stx_mode & S_IFMT) == S_IFCHR,
        RepresentedMajor = status.stx_rdev_major,
        RepresentedMinor = status.stx_rdev_minor,
    };

    [LibraryImport("libc", EntryPoint = "statx", SetLastError = true)]
    private static partial int statx_fd(FileDescriptor directory, byte* path, int flags, uint mask, statx_t* buffer);

    [LibraryImport("libc", EntryPoint = "statx", StringMarshalling = StringMarshalling.Utf8, SetLastError = true)]
    private static partial int statx_path(int directory, string path, int flags, uint mask, statx_t* buffer);

    /// <summary>struct statx (linux/stat.h), 256 bytes.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 256)]
    private struct statx_t
    {
        [FieldOffset(28)] public ushort stx_mode;
        [FieldOffset(32)] public ulong stx_ino;
        [FieldOffset(40)] public ulong stx_size;
        [FieldOffset(128)] public uint stx_rdev_major;
        [FieldOffset(132)] public uint stx_rdev_minor;
        [FieldOffset(136)] public uint stx_dev_major;
        [FieldOffset(140)] public uint stx_dev_minor;
    }
}

/// <summary>Identity, size and kind of a file.</summary>
/// <param name="Device">Device number; with <paramref name="Inode"/> unique while the file is open.</param>
/// <param name="Inode">Inode number.</param>
/// <param name="Size">Bytes.</param>
/// <param name="IsRegular">A regular file, which includes memfds.</param>
/// <param name="IsSocket">A socket in the file system.</param>
/// <param name="IsBlockDevice">A block device.</param>
public readonly record struct FileStatus(ulong Device, ulong Inode, ulong Size, bool IsRegular, bool IsSocket, bool IsBlockDevice)
{
    /// <summary>A character device.</summary>
    public bool IsCharacterDevice { get; init; }

    /// <summary>Major number of the device that the file stands for; 0 when it stands for none.</summary>
    public uint RepresentedMajor { get; init; }

    /// <summary>Minor number of it.</summary>
    public uint RepresentedMinor { get; init; }
}
