using System.Runtime.InteropServices;

namespace Godwit.Interop.Linux;

/// <summary>sys/ioctl.h: requests to a driver.</summary>
public static unsafe partial class ioctl
{
    /// <summary>ioctl(2) with a pointer to a structure, which the driver reads and writes as its request says; -1 on failure.</summary>
    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    public static partial int call(FileDescriptor fd, nuint request, void* argument);

    /// <summary>ioctl(2) with a number.</summary>
    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    public static partial int call(FileDescriptor fd, nuint request, nuint argument);
}
