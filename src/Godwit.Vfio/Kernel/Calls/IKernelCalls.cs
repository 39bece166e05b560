using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.Vfio;

/// <summary>
/// The system calls that kernel devices are driven with, and nothing above them: the one seam at which a test puts a kernel of its own.
/// Structures cross it as bytes, the way the kernel sees them. A failed call is an <see cref="Errno"/> and no exception, because callers
/// decide by it. Calls that a signal interrupted are made again. Any thread; a descriptor that has been disposed makes every call throw
/// <see cref="ObjectDisposedException"/>.
/// </summary>
internal interface IKernelCalls
{
    /// <summary>RLIMIT_MEMLOCK of this process in bytes (getrlimit(2)); <see cref="resource.RLIM_INFINITY"/> without a limit.</summary>
    ulong MemoryLockLimit { get; }

    /// <summary>open(2) for reading and writing.</summary>
    Errno Open(string path, out FileDescriptor? file);

    /// <summary>Takes ownership of a descriptor that the kernel has returned from a call.</summary>
    FileDescriptor Adopt(int number);

    /// <summary>Looks at a descriptor without owning it.</summary>
    Errno Inspect(int number, out InheritedDescriptor descriptor);

    /// <summary>fcntl(2), FD_CLOEXEC.</summary>
    Errno SetCloseOnExec(FileDescriptor file);

    /// <summary>ioctl(2) with a structure, read and written as the request says.</summary>
    Errno Ioctl(FileDescriptor file, uint request, Span<byte> argument, out int result);

    /// <summary>ioctl(2) with a number.</summary>
    Errno Ioctl(FileDescriptor file, uint request, nuint argument, out int result);

    /// <summary>read(2): a migration data stream.</summary>
    Errno Read(FileDescriptor file, Span<byte> destination, out int count);

    /// <summary>write(2): a migration data stream.</summary>
    Errno Write(FileDescriptor file, ReadOnlySpan<byte> data, out int count);

    /// <summary>mmap(2), shared: a part of a region. Unmapped when the mapping is disposed.</summary>
    Errno Map(FileDescriptor file, ulong offset, ulong length, bool writable, out MemoryMapping? mapping);

    /// <summary>pread(2): a region of a device.</summary>
    Errno ReadAt(FileDescriptor file, ulong offset, Span<byte> destination, out int count);

    /// <summary>pwrite(2): a region of a device.</summary>
    Errno WriteAt(FileDescriptor file, ulong offset, ReadOnlySpan<byte> data, out int count);
}

/// <summary>What a descriptor is.</summary>
/// <param name="IsCharacterDevice">A character device.</param>
/// <param name="Major">Its number.</param>
/// <param name="Minor">Its number.</param>
/// <param name="CloseOnExec">FD_CLOEXEC is set, so it cannot have been inherited.</param>
internal readonly record struct InheritedDescriptor(bool IsCharacterDevice, uint Major, uint Minor, bool CloseOnExec);

/// <summary>The calls with C structures.</summary>
internal static class KernelCallsExtensions
{
    /// <summary>ioctl(2) with the structure <paramref name="argument"/>.</summary>
    public static Errno Ioctl<T>(this IKernelCalls calls, FileDescriptor file, uint request, ref T argument, out int result) where T : unmanaged =>
        calls.Ioctl(file, request, MemoryMarshal.AsBytes(new Span<T>(ref argument)), out result);

    /// <summary>ioctl(2) with the structure <paramref name="argument"/>, of which the result does not matter.</summary>
    public static Errno Ioctl<T>(this IKernelCalls calls, FileDescriptor file, uint request, ref T argument) where T : unmanaged =>
        calls.Ioctl(file, request, ref argument, out _);
}
