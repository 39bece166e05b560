using System.Diagnostics;
using System.Globalization;

namespace Godwit.EndToEnd.Tests;

/// <summary>A godwit as a user would start it, with everything it prints.</summary>
internal sealed class GodwitProcess : IAsyncDisposable
{
    /// <summary>Only fires when something hangs. <c>GODWIT_GUARD</c>: its seconds, for long runs beside other work.</summary>
    public static readonly TimeSpan Guard =
        TimeSpan.FromSeconds(int.Parse(Environment.GetEnvironmentVariable("GODWIT_GUARD") ?? "90", CultureInfo.InvariantCulture));

    private static readonly string Program = Path.Combine(AppContext.BaseDirectory, "godwit");

    private readonly Process _process;
    private readonly Lock _gate = new();
    private readonly List<string> _lines = [];
    private readonly List<string> _output = [];
    private readonly List<string> _errors = [];
    private readonly Task _reading;
    private TaskCompletionSource _changed = new(TaskCreationOptions.RunContinuationsAsynchronously);

    private GodwitProcess(Process process)
    {
        _process = process;
        _reading = Task.WhenAll(ReadAsync(process.StandardOutput, _output), ReadAsync(process.StandardError, _errors));
    }

    public int Id => _process.Id;

    public bool HasExited => _process.HasExited;

    /// <summary>Lines of standard output.</summary>
    public IReadOnlyList<string> Output => Copy(_output);

    /// <summary>Lines of standard error.</summary>
    public IReadOnlyList<string> Errors => Copy(_errors);

    /// <summary>Both, as they came.</summary>
    public string All => string.Join('\n', Copy(_lines));

    /// <summary>Starts <c>godwit</c> with <paramref name="arguments"/>; <paramref name="wrapper"/> is a program that runs its arguments.</summary>
    public static GodwitProcess Start(IReadOnlyList<string> arguments, string? temp = null, IReadOnlyList<string>? wrapper = null)
    {
        List<string> line = [.. wrapper ?? [], Program, .. arguments];
        var start = new ProcessStartInfo(line[0], line.Skip(1))
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
            UseShellExecute = false,
        };
        if (temp is not null)
        {
            start.Environment["TMPDIR"] = temp;
        }

        return new GodwitProcess(Process.Start(start)!);
    }

    /// <summary>Waits for a line with <paramref name="text"/>; fails with all output when the process ends without one.</summary>
    public async Task<string> WaitForAsync(string text)
    {
        Task deadline = Task.Delay(Guard, TimeProvider.System);
        while (true)
        {
            Task changed;
            bool ended = _reading.IsCompleted;
            lock (_gate)
            {
                if (_lines.Find(line => line.Contains(text, StringComparison.Ordinal)) is { } found)
                {
                    return found;
                }

                changed = _changed.Task;
            }

            Assert.False(ended, $"the process ended without '{text}':\n{All}");
            await Task.WhenAny(changed, _reading, deadline);
            Assert.False(deadline.IsCompleted, $"no '{text}' in time:\n{All}");
        }
    }

    /// <summary>Waits for the end and returns the exit code.</summary>
    public async Task<int> ExitAsync()
    {
        try
        {
            await _process.WaitForExitAsync().WaitAsync(Guard);
            await _reading.WaitAsync(Guard);
        }
        catch (TimeoutException)
        {
            Assert.Fail($"the process did not end in time:\n{All}");
        }

        return _process.ExitCode;
    }

    /// <summary>Waits for the end, which must be a success.</summary>
    public async Task SucceedAsync()
    {
        int code = await ExitAsync();
        Assert.True(code == 0, $"exit code {code}:\n{All}");
    }

    /// <summary>Waits for the end, which must be a failure explained by one line on standard error that has all of <paramref name="named"/>.</summary>
    public async Task<string> FailAsync(int code, params string[] named)
    {
        int actual = await ExitAsync();
        Assert.True(actual == code, $"exit code {actual} instead of {code}:\n{All}");
        string line = Assert.Single(Errors);
        Assert.StartsWith("godwit: ", line, StringComparison.Ordinal);
        foreach (string each in named)
        {
            Assert.Contains(each, line, StringComparison.Ordinal);
        }

        return line;
    }

    /// <summary>Sends a signal by its name, for example <c>INT</c>.</summary>
    public async Task SignalAsync(string name)
    {
        using Process kill = Process.Start("kill", [$"-{name}", $"{Id}"]);
        await kill.WaitForExitAsync();
    }

    /// <summary>Kills it with SIGKILL and waits until it is gone.</summary>
    public async Task KillAsync()
    {
        _process.Kill();
        await _process.WaitForExitAsync().WaitAsync(Guard);
    }

    /// <summary>Closes its standard input, as the end of a parent does.</summary>
    public void CloseInput() => _process.StandardInput.Close();

    public async ValueTask DisposeAsync()
    {
        if (!_process.HasExited)
        {
            _process.Kill(entireProcessTree: true);
        }

        await _process.WaitForExitAsync();
        _process.Dispose();
    }

    private List<string> Copy(List<string> lines)
    {
        lock (_gate)
        {
            return [.. lines];
        }
    }

    private async Task ReadAsync(StreamReader reader, List<string> own)
    {
        while (await reader.ReadLineAsync() is { } line)
        {
            TaskCompletionSource changed;
            lock (_gate)
            {
                _lines.Add(line);
                own.Add(line);
                changed = _changed;
                _changed = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
            }

            changed.SetResult();
        }
    }
}
