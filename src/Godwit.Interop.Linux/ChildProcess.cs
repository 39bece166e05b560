using System.Collections;
using System.Runtime.InteropServices;
using System.Text;

namespace Godwit.Interop.Linux;

/// <summary>
/// A child process whose standard input and output are one descriptor of the caller's choice, in a process group of its own, which ends with
/// this object. .NET's own Process gives pipes only. Any thread may call.
/// </summary>
public sealed unsafe class ChildProcess : IDisposable
{
    // Offsets in siginfo_t of a SIGCHLD on 64-bit machines (asm-generic/siginfo.h); the whole has 128 bytes.
    private const int SignalInfoBytes = 128;
    private const int SignalInfoCode = 8;
    private const int SignalInfoStatus = 24;
    private const int ChildExited = 1; // CLD_EXITED; everything else that WEXITED reports is a signal

    private readonly ManualResetEventSlim _ended = new();
    private readonly Lock _gate = new();
    private readonly Thread _waiter;
    private readonly int _pid;
    private string? _end;
    private bool _reaped;

    private ChildProcess(int pid)
    {
        _pid = pid;
        _waiter = new Thread(Wait) { Name = "godwit-child-wait", IsBackground = true };
        _waiter.Start();
    }

    /// <summary>How it ended (<c>status 1</c>, <c>signal 9</c>), or null while it runs.</summary>
    public string? End => Volatile.Read(ref _end);

    /// <summary>Starts <paramref name="program"/> with this process's environment; standard error is this process's.</summary>
    /// <param name="program">Absolute path.</param>
    /// <param name="arguments">Arguments, the name of the program first.</param>
    /// <param name="inputAndOutput">Becomes descriptors 0 and 1 of the child; stays the caller's here.</param>
    /// <exception cref="LinuxException">The program cannot be started.</exception>
    public static ChildProcess Start(string program, IReadOnlyList<string> arguments, FileDescriptor inputAndOutput)
    {
        ArgumentException.ThrowIfNullOrEmpty(program);
        List<string> environment = [];
        foreach (DictionaryEntry entry in Environment.GetEnvironmentVariables())
            environment.Add($"{entry.Key}={entry.Value}");

        byte* actions = stackalloc byte[spawn.OpaqueBytes];
        byte* attributes = stackalloc byte[spawn.OpaqueBytes];
        byte* signals = stackalloc byte[spawn.SignalSetBytes];
        byte** argumentVector = Vector(arguments);
        byte** environmentVector = Vector(environment);
        bool held = false;
        try
        {
            // SAFETY: the opaque objects are larger than the C library's and live in this frame; the vectors end with null and are freed below.
            Check(spawn.posix_spawn_file_actions_init(actions), program);
            Check(spawn.posix_spawnattr_init(attributes), program);
            inputAndOutput.DangerousAddRef(ref held);
            Check(spawn.posix_spawn_file_actions_adddup2(actions, inputAndOutput.Number, 0), program);
            Check(spawn.posix_spawn_file_actions_adddup2(actions, inputAndOutput.Number, 1), program);
            // The runtime ignores SIGPIPE and may block others; a program of the user's expects neither.
            Check(spawn.posix_spawnattr_setflags(attributes,
                spawn.POSIX_SPAWN_SETPGROUP | spawn.POSIX_SPAWN_SETSIGDEF | spawn.POSIX_SPAWN_SETSIGMASK), program);
            Check(spawn.posix_spawnattr_setpgroup(attributes, 0), program);
            _ = spawn.sigfillset(signals);
            Check(spawn.posix_spawnattr_setsigdefault(attributes, signals), program);
            _ = spawn.sigemptyset(signals);
            Check(spawn.posix_spawnattr_setsigmask(attributes, signals), program);
            int pid;
            fixed (byte* path = Encoding.UTF8.GetBytes(program + '\0'))
                Check(spawn.start(&pid, path, actions, attributes, argumentVector, environmentVector), program);
            return new ChildProcess(pid);
        }
        finally
        {
            if (held)
                inputAndOutput.DangerousRelease();
            _ = spawn.posix_spawn_file_actions_destroy(actions);
            _ = spawn.posix_spawnattr_destroy(attributes);
            Free(argumentVector);
            Free(environmentVector);
        }
    }

    /// <summary>Waits for its end; false when <paramref name="atMost"/> has passed before.</summary>
    public bool WaitForEnd(TimeSpan atMost) => _ended.Wait(atMost);

    /// <summary>Kills what is left of it and of what it has started in its process group.</summary>
    public void Dispose()
    {
        lock (_gate)
        {
            if (_reaped)
                return;
            _reaped = true;
            // The child has not been reaped, so its number, and with it the group's, is nobody else's.
            _ = signal.kill(-_pid, signal.SIGKILL);
        }

        _waiter.Join();
        int status;
        // SAFETY: the status lives in this frame.
        _ = wait.waitpid(_pid, &status, 0);
        _ended.Dispose();
    }

    private void Wait()
    {
        byte* info = stackalloc byte[SignalInfoBytes];
        // SAFETY: info is as large as siginfo_t.
        while (wait.waitid(wait.P_PID, (uint)_pid, info, wait.WEXITED | wait.WNOWAIT) != 0)
        {
            if ((Errno)Marshal.GetLastPInvokeError() != Errno.EINTR)
                break; // somebody else has reaped it: it has ended all the same
        }

        int number = *(int*)(info + SignalInfoStatus);
        Volatile.Write(ref _end, *(int*)(info + SignalInfoCode) == ChildExited ? $"status {number}" : $"signal {number}");
        _ended.Set();
    }

    private static void Check(int error, string program)
    {
        if (error != 0)
            throw new LinuxException("posix_spawn", program, (Errno)error);
    }

    private static byte** Vector(IReadOnlyList<string> texts)
    {
        // SAFETY: one pointer for each text and a null after them; every text is NUL-terminated. Freed by Free.
        var vector = (byte**)NativeMemory.AllocZeroed((nuint)texts.Count + 1, (nuint)sizeof(byte*));
        for (int i = 0; i < texts.Count; i++)
            vector[i] = (byte*)Marshal.StringToCoTaskMemUTF8(texts[i]);
        return vector;
    }

    private static void Free(byte** vector)
    {
        for (byte** item = vector; *item is not null; item++)
            Marshal.FreeCoTaskMem((nint)(*item));
        NativeMemory.Free(vector);
    }
}
