using System.Runtime.InteropServices;

namespace Godwit.Cli;

/// <summary>
/// The ways in which a long-running command is asked to end: SIGINT, SIGTERM, SIGHUP, and with <c>--exit-with-parent</c> the end of
/// standard input. The command then ends by itself; nothing is killed.
/// </summary>
internal sealed class StopSignals : IDisposable
{
    private readonly List<PosixSignalRegistration> _registrations = [];
    private readonly CancellationTokenSource _stop = new();

    /// <summary>Listens from now on.</summary>
    /// <param name="exitWithParent">SIGINT then belongs to the parent, who shares the terminal's process group.</param>
    public StopSignals(bool exitWithParent = false)
    {
        Register(PosixSignal.SIGTERM, stop: true);
        Register(PosixSignal.SIGHUP, stop: true);
        Register(PosixSignal.SIGINT, stop: !exitWithParent);
        if (exitWithParent)
        {
            // A thread of its own: the read lasts as long as the process.
            new Thread(WatchStandardInput) { IsBackground = true, Name = "parent" }.Start();
        }
    }

    /// <summary>Cancelled at the first request.</summary>
    public CancellationToken Requested => _stop.Token;

    public void Dispose()
    {
        foreach (PosixSignalRegistration registration in _registrations)
        {
            registration.Dispose();
        }

        _stop.Dispose();
    }

    private void Register(PosixSignal signal, bool stop) => _registrations.Add(PosixSignalRegistration.Create(signal, context =>
    {
        context.Cancel = true;
        if (stop)
        {
            Stop();
        }
    }));

    private void WatchStandardInput()
    {
        using Stream input = Console.OpenStandardInput();
        Span<byte> ignored = stackalloc byte[256];
        while (input.Read(ignored) > 0)
        {
            // What is typed has no meaning here; only the end has.
        }

        Stop();
    }

    private void Stop()
    {
        try
        {
            _stop.Cancel();
        }
        catch (ObjectDisposedException)
        {
            // The command has ended already.
        }
    }
}
