using System.Diagnostics.CodeAnalysis;
using System.Runtime.InteropServices;

namespace Godwit.Interop.Linux;

/// <summary>A system call that failed: which one, on what, and with which error number.</summary>
public sealed class LinuxException : IOException
{
    /// <summary>Creates the exception for <paramref name="operation"/> on <paramref name="subject"/>.</summary>
    public LinuxException(string operation, string? subject, Errno errno)
        : base(subject is null
            ? $"{operation} failed: {Describe(errno)}"
            : $"{operation} failed on {subject}: {Describe(errno)}")
    {
        Operation = operation;
        Subject = subject;
        Errno = errno;
    }

    /// <summary>The system call, by its C name.</summary>
    public string Operation { get; }

    /// <summary>The path, address or object that it was made on, if one can be named.</summary>
    public string? Subject { get; }

    /// <summary>The error number as returned by the kernel.</summary>
    public Errno Errno { get; }

    /// <summary>Throws for the error number that the calling thread's last system call left.</summary>
    [DoesNotReturn]
    public static void ThrowLast(string operation, string? subject = null) =>
        throw new LinuxException(operation, subject, (Errno)Marshal.GetLastPInvokeError());

    private static string Describe(Errno errno) =>
        $"{Marshal.GetPInvokeErrorMessage((int)errno)} ({errno})";
}
