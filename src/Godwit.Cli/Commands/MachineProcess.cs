using Godwit.Machine;
using Godwit.Migration;
using Godwit.Monitor;
using Godwit.Vfio;

namespace Godwit.Cli;

/// <summary>A machine, its monitor and the lines it prints, from building to the last reply.</summary>
internal static class MachineProcess
{
    private const string Deferred = "defer";

    /// <summary>Runs until quit, a stop request, the guest's switching off, or an incoming migration that failed for good.</summary>
    public static async Task<int> RunAsync(MachineConfig config, string monitorPath, string? incoming, TlsCredentials? tls, string? metrics, CancellationToken stop)
    {
        using VirtualMachine machine = Build(config);
        machine.Migration.Parameters = machine.Migration.Parameters with { Tls = tls };
        var incomingFailed = new TaskCompletionSource<string>(TaskCreationOptions.RunContinuationsAsynchronously);
        machine.RunStateChanged += (_, now) => Say(config, NameOf(now));
        machine.Notice += text => Say(config, text);
        machine.Migration.StateChanged += state => Say(config, $"migration {state.ToString().ToLowerInvariant()}{Because(machine, state)}");
        var switchedOff = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        machine.SwitchedOff += () => switchedOff.TrySetResult();
        machine.Migration.IncomingFailed += why => incomingFailed.TrySetResult(why);

        await using MonitorServer monitor = MonitorServer.Start(
            machine, new MonitorOptions { SocketPath = monitorPath, Log = text => Say(config, text) });
        await using MetricsServer? numbers = metrics is null ? null : StartMetrics(machine, metrics);
        foreach (VfioPciFunction device in machine.Devices)
        {
            Say(config, $"device {device.Id} at {device.Bus.Number:x2}:{device.DevFn}");
        }

        Begin(machine, incoming);
        Say(config, $"monitor at {monitorPath}");

        var stopped = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        await using CancellationTokenRegistration registration = stop.Register(stopped.SetResult);
        Task first = await Task.WhenAny(monitor.QuitRequested, stopped.Task, incomingFailed.Task, switchedOff.Task);
        if (first == incomingFailed.Task)
        {
            monitor.AnnounceShutdown(ShutdownCause.Error);
            await Console.Error.WriteLineAsync($"godwit: {config.Name}: the incoming migration failed: {incomingFailed.Task.Result}");
            return ExitCodes.Failed;
        }

        if (first == switchedOff.Task)
        {
            Say(config, "switched off by the guest");
            monitor.AnnounceShutdown(ShutdownCause.Guest);
            return ExitCodes.Ok;
        }

        monitor.AnnounceShutdown(first == monitor.QuitRequested ? ShutdownCause.Quit : ShutdownCause.Signal);
        return ExitCodes.Ok;
    }

    private static VirtualMachine Build(MachineConfig config)
    {
        try
        {
            return VirtualMachine.Build(config, TimeProvider.System);
        }
        catch (ArgumentException e)
        {
            throw new CliException(e.Message, e);
        }
    }

    private static MetricsServer StartMetrics(VirtualMachine machine, string address)
    {
        try
        {
            return MetricsServer.Start(machine, address);
        }
        catch (FormatException e)
        {
            throw new CliException(e.Message, e);
        }
    }

    private static void Begin(VirtualMachine machine, string? incoming)
    {
        try
        {
            switch (incoming)
            {
                case null:
                    machine.Start();
                    break;
                case Deferred:
                    break;
                default:
                    machine.StartIncoming(incoming);
                    Say(machine.Config, $"waiting for a migration at {machine.Migration.ListeningAt}");
                    break;
            }
        }
        catch (Exception e) when (e is FormatException or InvalidOperationException or ArgumentException)
        {
            throw new CliException(e.Message, e);
        }
    }

    private static string Because(VirtualMachine machine, MigrationState state) =>
        state is MigrationState.Failed or MigrationState.Cancelled && machine.Migration.Status.Error is { } error ? $": {error}" : string.Empty;

    private static string NameOf(RunState state) => state switch
    {
        RunState.InMigrate => "waiting for a migration",
        RunState.FinishMigrate => "stopped for the switchover",
        RunState.PostMigrate => "migrated away",
        RunState.InternalError => "stopped by an error",
        _ => state.ToString().ToLowerInvariant(),
    };

    private static void Say(MachineConfig config, string text) => Console.WriteLine($"{config.Name}: {text}");
}
