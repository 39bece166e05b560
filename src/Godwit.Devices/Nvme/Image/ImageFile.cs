using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.Devices;

/// <summary>
/// The backing image: positioned transfers between it and memory of this process (guest memory as a rule), without a copy in between.
/// Thread-safe. Opening takes no lock, so that the destination of a migration can open what the source still writes;
/// <see cref="ImageOwnership"/> decides who may transfer.
/// </summary>
internal sealed unsafe class ImageFile : IDisposable
{
    private static readonly byte[] Zeroes = GC.AllocateArray<byte>(64 << 10, pinned: true);

    private readonly LogLimiter _log;

    private ImageFile(FileDescriptor file, string path, ulong size, LogLimiter log)
    {
        File = file;
        Path = path;
        Size = size;
        SharesPageCache = IsOnLocalFileSystem(file);
        _log = log;
    }

    /// <summary>The open file.</summary>
    public FileDescriptor File { get; }

    /// <summary>Where it was opened.</summary>
    public string Path { get; }

    /// <summary>Bytes, fixed at opening.</summary>
    public ulong Size { get; }

    /// <summary>
    /// Whether every server that can open the image sees this kernel's page cache: a regular file on a file system that only this kernel
    /// mounts. Shared block devices and network and cluster file systems have other hosts behind them.
    /// </summary>
    public bool SharesPageCache { get; }

    /// <summary>Opens, and if a size is asked for and nothing is there, creates the image.</summary>
    /// <exception cref="LinuxException">The file cannot be opened or grown.</exception>
    /// <exception cref="NvmeOptionsException">It is no file or block device, or its size is not what was asked for.</exception>
    public static ImageFile Open(NvmeOptions options, LogLimiter log)
    {
        string path = System.IO.Path.GetFullPath(options.ImagePath);
        int flags = fcntl.O_RDWR | fcntl.O_CLOEXEC | (options.Size is null ? 0 : fcntl.O_CREAT);
        var file = new FileDescriptor();
        try
        {
            int number = fcntl.open(path, flags, 0x1A4 /* 0644 */);
            if (number < 0)
                LinuxException.ThrowLast("open", path);
            file = FileDescriptor.Adopt(number);

            ulong size = SizeOf(file, path);
            if (size == 0 && options.Size is ulong wanted)
            {
                // Both servers of a migration may find the file empty at once: both set the same length or one of them is told below.
                if (unistd.ftruncate(file, (long)wanted) != 0)
                    LinuxException.ThrowLast("ftruncate", $"{path} to {wanted} bytes");
                size = SizeOf(file, path);
            }
            if (options.Size is ulong expected && size != expected)
                throw new NvmeOptionsException(nameof(options.Size), $"{path} has {size} bytes, not {expected}");
            NvmeLimits.ValidateSize(nameof(options.ImagePath), size, options.BlockSize);
            return new ImageFile(file, path, size, log);
        }
        catch
        {
            file.Dispose();
            throw;
        }
    }

    /// <summary>An image on a descriptor that is already open. Takes ownership of it.</summary>
    public static ImageFile Adopt(FileDescriptor file, string name, ulong size, LogLimiter log) => new(file, name, size, log);

    /// <summary>Reads exactly <paramref name="length"/> bytes at <paramref name="offset"/>. A logged error otherwise.</summary>
    public Errno Read(byte* destination, int length, ulong offset)
    {
        int done = 0;
        while (done < length)
        {
            nint count = unistd.pread(File, destination + done, (nuint)(length - done), (long)offset + done);
            if (count > 0)
            {
                done += (int)count;
                continue;
            }
            // The end of the file inside the image: somebody has cut it.
            Errno errno = count == 0 ? Errno.EIO : LastErrno();
            if (errno != Errno.EINTR)
                return Report("read", length, offset, errno, count == 0 ? "the file ends before it" : null);
        }
        return Errno.None;
    }

    /// <summary>Writes exactly <paramref name="length"/> bytes at <paramref name="offset"/>. A logged error otherwise.</summary>
    public Errno Write(byte* source, int length, ulong offset)
    {
        int done = 0;
        while (done < length)
        {
            nint count = unistd.pwrite(File, source + done, (nuint)(length - done), (long)offset + done);
            if (count > 0)
            {
                done += (int)count;
                continue;
            }
            Errno errno = count == 0 ? Errno.EIO : LastErrno();
            if (errno != Errno.EINTR)
                return Report("write", length, offset, errno);
        }
        return Errno.None;
    }

    /// <summary>Brings everything written so far to stable storage.</summary>
    public Errno Flush()
    {
        while (fcntl.fdatasync(File) != 0)
        {
            Errno errno = LastErrno();
            if (errno != Errno.EINTR)
                return Report("flush", 0, 0, errno);
        }
        return Errno.None;
    }

    /// <summary>Makes a range read as zeroes and gives its space back, if the file can; does nothing if it cannot.</summary>
    public Errno Deallocate(ulong offset, ulong length)
    {
        Errno errno = Allocate(fcntl.FALLOC_FL_PUNCH_HOLE | fcntl.FALLOC_FL_KEEP_SIZE, offset, length);
        return errno is Errno.None || CannotAllocate(errno) ? Errno.None : Report("deallocation", (long)length, offset, errno);
    }

    /// <summary>Makes a range read as zeroes by the cheapest way there is.</summary>
    /// <param name="offset">First byte.</param>
    /// <param name="length">Bytes, above 0.</param>
    /// <param name="deallocate">Whether its space may be given back.</param>
    public Errno WriteZeroes(ulong offset, ulong length, bool deallocate)
    {
        const int Punch = fcntl.FALLOC_FL_PUNCH_HOLE | fcntl.FALLOC_FL_KEEP_SIZE;
        const int Zero = fcntl.FALLOC_FL_ZERO_RANGE | fcntl.FALLOC_FL_KEEP_SIZE;

        Errno errno = Allocate(deallocate ? Punch : Zero, offset, length);
        if (CannotAllocate(errno))
            errno = Allocate(deallocate ? Zero : Punch, offset, length);
        if (errno == Errno.None)
            return Errno.None;
        if (!CannotAllocate(errno))
            return Report("write of zeroes", (long)length, offset, errno);

        // SAFETY: the array is pinned for the life of the process.
        byte* zeroes = (byte*)Marshal.UnsafeAddrOfPinnedArrayElement(Zeroes, 0);
        while (length > 0)
        {
            int step = (int)Math.Min(length, (ulong)Zeroes.Length);
            errno = Write(zeroes, step, offset);
            if (errno != Errno.None)
                return errno;
            offset += (ulong)step;
            length -= (ulong)step;
        }
        return Errno.None;
    }

    /// <inheritdoc/>
    public void Dispose() => File.Dispose();

    private static ulong SizeOf(FileDescriptor file, string path)
    {
        FileStatus found = stat.Of(file);
        if (found.IsRegular)
            return found.Size;
        if (!found.IsBlockDevice)
            throw new NvmeOptionsException(nameof(NvmeOptions.ImagePath), $"{path} is neither a regular file nor a block device");
        long end = unistd.lseek(file, 0, unistd.SEEK_END);
        if (end < 0)
            LinuxException.ThrowLast("lseek", path);
        return (ulong)end;
    }

    /// <summary>The file or its file system knows no such operation, as opposed to one that failed (fallocate(2)).</summary>
    private static bool CannotAllocate(Errno errno) => errno is Errno.ENOTSUP or Errno.ENODEV or Errno.ENOSYS;

    private static bool IsOnLocalFileSystem(FileDescriptor file)
    {
        if (!stat.Of(file).IsRegular)
            return false;
        statfs.statfs_t system;
        return statfs.fstatfs(file, &system) == 0 && (ulong)system.f_type
            is 0xEF53          // ext2, ext3, ext4 (linux/magic.h, as all of these)
            or 0x58465342      // xfs
            or 0x9123683E      // btrfs
            or 0xF2F52010      // f2fs
            or 0x01021994      // tmpfs
            or 0x858458F6      // ramfs
            or 0x794C7630      // overlayfs, whose upper layer is local
            or 0x2FC12FC1;     // zfs
    }

    private static Errno LastErrno() => (Errno)Marshal.GetLastPInvokeError();

    private Errno Allocate(int mode, ulong offset, ulong length)
    {
        while (fcntl.fallocate(File, mode, (long)offset, (long)length) != 0)
        {
            Errno errno = LastErrno();
            if (errno != Errno.EINTR)
                return errno;
        }
        return Errno.None;
    }

    private Errno Report(string operation, long length, ulong offset, Errno errno, string? detail = null)
    {
        if (_log.Admit(LogKind.ImageError, out long ordinal))
        {
            string what = length == 0 ? operation : $"{operation} of {length} bytes at offset {offset}";
            string why = detail ?? Marshal.GetPInvokeErrorMessage((int)errno);
            _log.WriteAdmitted($"nvme: {what} of {Path} failed: {why} ({errno})", ordinal);
        }
        return errno;
    }
}
