using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.Vfio;

/// <summary>The running kernel.</summary>
internal sealed unsafe class LinuxKernelCalls : IKernelCalls
{
    /// <summary>It has no state.</summary>
    public static LinuxKernelCalls Instance { get; } = new();

    /// <inheritdoc/>
    public ulong MemoryLockLimit
    {
        get
        {
            rlimit limit;
            if (resource.getrlimit(resource.RLIMIT_MEMLOCK, &limit) != 0)
                LinuxException.ThrowLast("getrlimit", "RLIMIT_MEMLOCK");
            return limit.rlim_cur;
        }
    }

    /// <inheritdoc/>
    public Errno Open(string path, out FileDescriptor? file)
    {
        int number;
        do
            number = fcntl.open(path, fcntl.O_RDWR | fcntl.O_CLOEXEC, 0);
        while (number < 0 && Last == Errno.EINTR);
        file = number < 0 ? null : FileDescriptor.Adopt(number);
        return number < 0 ? Last : Errno.None;
    }

    /// <inheritdoc/>
    public FileDescriptor Adopt(int number) => FileDescriptor.Adopt(number);

    /// <inheritdoc/>
    public Errno Inspect(int number, out InheritedDescriptor descriptor)
    {
        descriptor = default;
        if (stat.OfNumber(number) is not { } status)
            return Errno.EBADF;
        int flags = unistd.fcntl_number(number, unistd.F_GETFD, 0);
        if (flags < 0)
            return Last;
        descriptor = new InheritedDescriptor(status.IsCharacterDevice, status.RepresentedMajor, status.RepresentedMinor, (flags & unistd.FD_CLOEXEC) != 0);
        return Errno.None;
    }

    /// <inheritdoc/>
    public Errno SetCloseOnExec(FileDescriptor file) => unistd.fcntl(file, unistd.F_SETFD, unistd.FD_CLOEXEC) < 0 ? Last : Errno.None;

    /// <inheritdoc/>
    public Errno Ioctl(FileDescriptor file, uint request, Span<byte> argument, out int result)
    {
        // SAFETY: pinned for the call; the structure's own size (argsz or size) bounds what the kernel touches.
        fixed (byte* pointer = argument)
        {
            do
                result = ioctl.call(file, request, pointer);
            while (result < 0 && Last == Errno.EINTR);
        }

        return result < 0 ? Last : Errno.None;
    }

    /// <inheritdoc/>
    public Errno Ioctl(FileDescriptor file, uint request, nuint argument, out int result)
    {
        do
            result = ioctl.call(file, request, argument);
        while (result < 0 && Last == Errno.EINTR);
        return result < 0 ? Last : Errno.None;
    }

    /// <inheritdoc/>
    public Errno Read(FileDescriptor file, Span<byte> destination, out int count)
    {
        nint done;
        // SAFETY: pinned for the call, which is told the length.
        fixed (byte* pointer = destination)
        {
            do
                done = unistd.read(file, pointer, (nuint)destination.Length);
            while (done < 0 && Last == Errno.EINTR);
        }

        return Counted(done, out count);
    }

    /// <inheritdoc/>
    public Errno Write(FileDescriptor file, ReadOnlySpan<byte> data, out int count)
    {
        nint done;
        // SAFETY: pinned for the call, which is told the length and only reads.
        fixed (byte* pointer = data)
        {
            do
                done = unistd.write(file, pointer, (nuint)data.Length);
            while (done < 0 && Last == Errno.EINTR);
        }

        return Counted(done, out count);
    }

    /// <inheritdoc/>
    public Errno Map(FileDescriptor file, ulong offset, ulong length, bool writable, out MemoryMapping? mapping) =>
        MemoryMapping.TryMapShared(file, offset, length, writable, out mapping);

    /// <inheritdoc/>
    public Errno ReadAt(FileDescriptor file, ulong offset, Span<byte> destination, out int count)
    {
        nint done;
        // SAFETY: pinned for the call, which is told the length.
        fixed (byte* pointer = destination)
        {
            do
                done = unistd.pread(file, pointer, (nuint)destination.Length, (long)offset);
            while (done < 0 && Last == Errno.EINTR);
        }

        return Counted(done, out count);
    }

    /// <inheritdoc/>
    public Errno WriteAt(FileDescriptor file, ulong offset, ReadOnlySpan<byte> data, out int count)
    {
        nint done;
        // SAFETY: pinned for the call, which is told the length and only reads.
        fixed (byte* pointer = data)
        {
            do
                done = unistd.pwrite(file, pointer, (nuint)data.Length, (long)offset);
            while (done < 0 && Last == Errno.EINTR);
        }

        return Counted(done, out count);
    }

    private static Errno Last => (Errno)Marshal.GetLastPInvokeError();

    private static Errno Counted(nint done, out int count)
    {
        count = (int)Math.Max(done, 0);
        return done < 0 ? Last : Errno.None;
    }
}
