using System.Runtime.InteropServices;

namespace Godwit.Interop.Linux;

/// <summary>spawn.h: starting a program with chosen descriptors.</summary>
public static unsafe partial class spawn
{
#pragma warning disable CS1591 // C names; posix_spawn(3)
    public const short POSIX_SPAWN_SETPGROUP = 0x02;
    public const short POSIX_SPAWN_SETSIGDEF = 0x04;
    public const short POSIX_SPAWN_SETSIGMASK = 0x08;
#pragma warning restore CS1591

    // posix_spawn_file_actions_t has 80 bytes and posix_spawnattr_t 336 with glibc on 64-bit machines, less with musl; both are opaque. A
    // sigset_t has 128 (spawn.h, signal.h).
    internal const int OpaqueBytes = 512;
    internal const int SignalSetBytes = 128;

    [LibraryImport("libc", EntryPoint = "posix_spawn", SetLastError = true)]
    internal static partial int start(int* pid, byte* path, byte* actions, byte* attributes, byte** arguments, byte** environment);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int posix_spawn_file_actions_init(byte* actions);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int posix_spawn_file_actions_destroy(byte* actions);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int posix_spawn_file_actions_adddup2(byte* actions, int from, int to);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int posix_spawnattr_init(byte* attributes);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int posix_spawnattr_destroy(byte* attributes);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int posix_spawnattr_setflags(byte* attributes, short flags);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int posix_spawnattr_setpgroup(byte* attributes, int group);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int posix_spawnattr_setsigdefault(byte* attributes, byte* signals);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int posix_spawnattr_setsigmask(byte* attributes, byte* signals);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int sigemptyset(byte* signals);

    [LibraryImport("libc", SetLastError = true)]
    internal static partial int sigfillset(byte* signals);
}
