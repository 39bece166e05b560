using System.Diagnostics;

namespace Godwit.Cli;

/// <summary>
/// A godwit started by godwit, with the public command line and <c>--exit-with-parent</c>: it ends when its standard input closes, so it
/// cannot outlive this process, even if this process is killed.
/// </summary>
internal sealed class GodwitProcess : IAsyncDisposable
{
    private const int KeptLines = 40;

    private readonly Process _process;
    private readonly Lock _gate = new();
    private readonly Queue<string> _lines = new();
    private readonly List<(string Beginning, TaskCompletionSource<string> Found)> _awaited = [];
    private readonly Task _reading;

    private GodwitProcess(string name, IReadOnlyList<string> arguments, Process process)
    {
        Name = name;
        CommandLine = "godwit " + string.Join(' ', arguments);
        _process = process;
        _reading = Task.WhenAll(ReadAsync(process.StandardOutput), ReadAsync(process.StandardError));
        Exited = ExitAsync();
    }

    /// <summary>What it is in the demo, for example <c>source</c>.</summary>
    public string Name { get; }

    /// <summary>As a person would type it.</summary>
    public string CommandLine { get; }

    /// <summary>Completes with the exit code when the process has ended and all its output was read.</summary>
    public Task<int> Exited { get; }

    /// <summary>Process id.</summary>
    public int Id => _process.Id;

    /// <summary>The last lines that it printed, on either stream.</summary>
    public IReadOnlyList<string> LastLines
    {
        get
        {
            lock (_gate)
            {
                return [.. _lines];
            }
        }
    }

    /// <summary>Starts it.</summary>
    public static GodwitProcess Start(string name, params IReadOnlyList<string> arguments)
    {
        var start = new ProcessStartInfo
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            UseShellExecute = false,
        };
        (start.FileName, IReadOnlyList<string> own) = Self();
        foreach (string argument in own.Concat(arguments).Append("--exit-with-parent"))
        {
            start.ArgumentList.Add(argument);
        }

        Process process = Process.Start(start) ?? throw new CliException($"Cannot start {start.FileName}");
        return new GodwitProcess(name, arguments, process);
    }

    /// <summary>Completes with the first line that contains <paramref name="text"/>; fails when the process ends without one.</summary>
    public async Task<string> WaitForLineAsync(string text, CancellationToken cancellation)
    {
        var found = new TaskCompletionSource<string>(TaskCreationOptions.RunContinuationsAsynchronously);
        lock (_gate)
        {
            if (_lines.FirstOrDefault(line => line.Contains(text, StringComparison.Ordinal)) is { } line)
            {
                return line;
            }

            _awaited.Add((text, found));
        }

        await Task.WhenAny(found.Task, Exited).WaitAsync(cancellation);
        return found.Task.IsCompletedSuccessfully ? found.Task.Result : throw Ended();
    }

    /// <summary>The failure to report when this process has ended although it should not have: with its last words.</summary>
    public CliException Ended()
    {
        string lines = string.Concat(LastLines.TakeLast(10).Select(line => $"\n    {line}"));
        return new CliException($"The {Name} ended with exit code {_process.ExitCode}. Its last lines:{lines}");
    }

    /// <summary>Asks it to end by closing its standard input, and kills it when it has not after <paramref name="patience"/>.</summary>
    /// <returns>Whether it ended by itself.</returns>
    public async Task<bool> StopAsync(TimeSpan patience)
    {
        try
        {
            _process.StandardInput.Close();
        }
        catch (IOException)
        {
            // It has gone already, and its end of the pipe with it.
        }

        try
        {
            await Exited.WaitAsync(patience);
            return true;
        }
        catch (TimeoutException)
        {
            _process.Kill();
            await Exited;
            return false;
        }
    }

    public async ValueTask DisposeAsync()
    {
        await StopAsync(TimeSpan.FromSeconds(5));
        _process.Dispose();
    }

    /// <summary>How to start this program again: the apphost, or <c>dotnet godwit.dll</c>.</summary>
    private static (string Program, IReadOnlyList<string> Arguments) Self()
    {
        string program = Environment.ProcessPath ?? throw new CliException("The path of this program is not known");
        bool isHost = System.IO.Path.GetFileNameWithoutExtension(program) == "dotnet";
        return isHost ? (program, [System.IO.Path.GetFullPath(Environment.GetCommandLineArgs()[0])]) : (program, []);
    }

    private async Task<int> ExitAsync()
    {
        await _process.WaitForExitAsync();
        await _reading;
        return _process.ExitCode;
    }

    private async Task ReadAsync(StreamReader reader)
    {
        while (await reader.ReadLineAsync() is { } line)
        {
            lock (_gate)
            {
                _lines.Enqueue(line);
                if (_lines.Count > KeptLines)
                {
                    _lines.Dequeue();
                }

                foreach ((string text, TaskCompletionSource<string> found) in _awaited)
                {
                    if (line.Contains(text, StringComparison.Ordinal))
                    {
                        found.TrySetResult(line);
                    }
                }
            }
        }
    }
}
