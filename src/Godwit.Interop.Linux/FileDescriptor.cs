using System.Runtime.InteropServices;

namespace Godwit.Interop.Linux;

/// <summary>
/// An owned file descriptor. Allocated before the system call that fills it, so that running out of memory cannot leak one.
/// Always close-on-exec. Thread-safe in the way every <see cref="SafeHandle"/> is: closing waits for calls in progress.
/// </summary>
public class FileDescriptor : SafeHandle
{
    /// <summary>Creates an empty handle; the marshaller or <see cref="Adopt"/> fills it.</summary>
    public FileDescriptor() : base(-1, ownsHandle: true)
    {
    }

    /// <inheritdoc/>
    public override bool IsInvalid => handle < 0;

    /// <summary>The descriptor's number, valid while the caller keeps this object alive.</summary>
    public int Number => (int)handle;

    /// <summary>Takes ownership of <paramref name="number"/>, which must be an open descriptor nobody else closes.</summary>
    public static FileDescriptor Adopt(int number)
    {
        var result = new FileDescriptor();
        result.SetHandle(number);
        return result;
    }

    /// <summary>A second descriptor for the same open file.</summary>
    /// <exception cref="LinuxException">The process has no descriptor left.</exception>
    public FileDescriptor Duplicate()
    {
        var result = new FileDescriptor();
        int number = unistd.fcntl(this, unistd.F_DUPFD_CLOEXEC, 0);
        if (number < 0)
            LinuxException.ThrowLast("fcntl(F_DUPFD_CLOEXEC)");
        result.SetHandle(number);
        return result;
    }

    /// <inheritdoc/>
    protected override bool ReleaseHandle() => unistd.close((int)handle) == 0;
}
