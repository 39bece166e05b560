using System.Diagnostics;
using System.Globalization;

namespace Godwit.Migration.Bench;

/// <summary>This program again, as the other side. Killed when disposed, should it still be there.</summary>
internal sealed class OtherProcess : IDisposable
{
    private readonly Process _process;

    public OtherProcess(params string[] arguments)
    {
        // Started as "dotnet program.dll" or as its own executable.
        string self = Environment.ProcessPath ?? throw new InvalidOperationException("This process has no path");
        var start = new ProcessStartInfo(self) { RedirectStandardOutput = true, UseShellExecute = false };
        if (Path.GetFileNameWithoutExtension(self) == "dotnet")
            start.ArgumentList.Add(typeof(OtherProcess).Assembly.Location);
        foreach (string argument in arguments)
            start.ArgumentList.Add(argument);
        _process = Process.Start(start) ?? throw new InvalidOperationException($"{self} does not start");
        Expect("ready");
    }

    /// <summary>Waits for a line.</summary>
    public void Expect(string line)
    {
        string? said = _process.StandardOutput.ReadLine();
        if (said != line)
            throw new InvalidOperationException($"The other process said '{said}' instead of '{line}'");
    }

    /// <summary>Waits for a line that says what it has used.</summary>
    public Usage ReadUsage() => Usage.Parse(_process.StandardOutput.ReadLine() ?? throw new InvalidOperationException("The other process has ended early"));

    /// <summary>Stops it, or lets it go on (signal(7)).</summary>
    public void Pause(bool stopped)
    {
        using Process kill = Process.Start("kill", [stopped ? "-STOP" : "-CONT", _process.Id.ToString(CultureInfo.InvariantCulture)]);
        kill.WaitForExit();
    }

    /// <summary>Ends one that would wait for more.</summary>
    public void Kill() => _process.Kill();

    public void Dispose()
    {
        if (!_process.WaitForExit(TimeSpan.FromSeconds(10)))
            _process.Kill();
        _process.Dispose();
    }
}
