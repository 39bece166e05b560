using System.Runtime.InteropServices;

namespace Godwit.Interop.Linux;

#pragma warning disable CS1591 // C names; see the man page of each call

/// <summary>sys/wait.h: the end of child processes.</summary>
public static unsafe partial class wait
{
    public const int P_PID = 1;
    public const int WEXITED = 0x4;
    public const int WNOWAIT = 0x1000000;

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int waitid(int kind, uint id, void* info, int options);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int waitpid(int pid, int* status, int options);
}

/// <summary>signal.h: signals to processes.</summary>
public static partial class signal
{
    public const int SIGKILL = 9;

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int kill(int pid, int number);
}
