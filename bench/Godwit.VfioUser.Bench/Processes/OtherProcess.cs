using System.Diagnostics;
using System.Globalization;

namespace Godwit.VfioUser.Bench;

/// <summary>This program again, as the other side. It ends when its standard input does.</summary>
internal sealed class OtherProcess : IDisposable
{
    private readonly Process _process;

    public OtherProcess(params string[] arguments)
    {
        // Started as "dotnet program.dll" or as its own executable.
        string self = Environment.ProcessPath ?? throw new InvalidOperationException("This process has no path");
        var start = new ProcessStartInfo(self) { RedirectStandardInput = true, RedirectStandardOutput = true, UseShellExecute = false };
        if (Path.GetFileNameWithoutExtension(self) == "dotnet")
            start.ArgumentList.Add(typeof(OtherProcess).Assembly.Location);
        foreach (string argument in arguments)
            start.ArgumentList.Add(argument);
        _process = Process.Start(start) ?? throw new InvalidOperationException($"{self} does not start");
        string? said = _process.StandardOutput.ReadLine();
        if (said != "ready")
            throw new InvalidOperationException($"The other process said '{said}' instead of 'ready'");
    }

    /// <summary>Its number.</summary>
    public int Id => _process.Id;

    /// <summary>
    /// What the threads that a process has now have run so far, in nanoseconds (proc_pid_schedstat, Documentation/scheduler/sched-stats.rst): the runtime
    /// tells of another process in steps of 10 ms.
    /// </summary>
    public static TimeSpan ProcessorTimeOf(int process)
    {
        long nanoseconds = 0;
        foreach (string thread in Directory.EnumerateDirectories($"/proc/{process}/task"))
        {
            try
            {
                string text = File.ReadAllText(Path.Combine(thread, "schedstat"));
                nanoseconds += long.Parse(text.AsSpan(0, text.IndexOf(' ')), CultureInfo.InvariantCulture);
            }
            catch (IOException)
            {
                // The thread has ended meanwhile: one of the runtime's, of which nothing here depends.
            }
        }
        return TimeSpan.FromMicroseconds(nanoseconds / 1000.0);
    }

    /// <summary>In the other process: tells that it is ready.</summary>
    public static void SayReady() => Console.Out.WriteLine("ready");

    /// <summary>In the other process: cancelled when the first one has gone.</summary>
    public static CancellationToken UntilTheOtherGoes()
    {
        var stop = new CancellationTokenSource();
        var thread = new Thread(() =>
        {
            Console.In.ReadToEnd();
            stop.Cancel();
        })
        {
            IsBackground = true,
        };
        thread.Start();
        return stop.Token;
    }

    public void Dispose()
    {
        _process.StandardInput.Close();
        if (!_process.WaitForExit(TimeSpan.FromSeconds(10)))
            _process.Kill();
        _process.Dispose();
    }
}
