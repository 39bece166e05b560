using System.Text.Json;
using Godwit.Machine;
using Godwit.Migration;
using Godwit.Vfio;

namespace Godwit.Monitor;

/// <summary>Why a machine ends, as the <c>SHUTDOWN</c> event says it (qapi ShutdownCause).</summary>
public enum ShutdownCause
{
    /// <summary>A client executed <c>quit</c>.</summary>
    Quit,

    /// <summary>The guest has switched the machine off.</summary>
    Guest,

    /// <summary>The process was told to stop by a signal or by its parent.</summary>
    Signal,

    /// <summary>The machine cannot go on.</summary>
    Error,
}

/// <summary>How to serve a machine's monitor.</summary>
public sealed record MonitorOptions
{
    /// <summary>Path of the unix socket.</summary>
    public required string SocketPath { get; init; }

    /// <summary>Clock of event timestamps.</summary>
    public TimeProvider Clock { get; init; } = TimeProvider.System;

    /// <summary>Told one line per problem worth an operator's eye.</summary>
    public Action<string>? Log { get; init; }
}

/// <summary>
/// The QMP monitor of one machine: <c>docs/qmp.md</c> lists its commands and events. Never waits for a guest or a device; commands that do
/// have a thread of their own while the other sessions go on.
/// </summary>
public sealed class MonitorServer : IAsyncDisposable
{
    private readonly VirtualMachine _machine;
    private readonly QmpServer _server;
    private readonly TaskCompletionSource _quit = new(TaskCreationOptions.RunContinuationsAsynchronously);

    private MonitorServer(VirtualMachine machine, MonitorOptions options)
    {
        _machine = machine;
        var commands = new QmpCommandTable();
        new MachineCommands(machine, _quit).AddTo(commands);
        new MigrationCommands(machine).AddTo(commands);
        new DeviceCommands(machine).AddTo(commands);
        new DirtyTrackingCommands(machine).AddTo(commands);
        commands.Add("query-version", static (_, result) => QmpMessages.WriteVersion(result));
        commands.Add("query-commands", (_, result) => WriteCommands(commands, result));

        _server = new QmpServer(options.SocketPath, commands, options.Clock, options.Log ?? (static _ => { }));
        machine.RunStateChanged += OnRunStateChanged;
        machine.Notice += OnNotice;
        machine.Migration.StateChanged += OnMigrationStateChanged;
        machine.Migration.PassStarted += OnPassStarted;
        foreach (VfioPciFunction device in machine.Devices)
        {
            device.StateChanged += OnDeviceStateChanged;
        }
    }

    /// <summary>Completes when a client has executed <c>quit</c>.</summary>
    public Task QuitRequested => _quit.Task;

    /// <summary>Listens. The machine must outlive the server.</summary>
    /// <exception cref="IOException">The socket cannot be made; the text names the path and why.</exception>
    public static MonitorServer Start(VirtualMachine machine, MonitorOptions options) => new(machine, options);

    /// <summary>Tells clients that the machine ends.</summary>
    public void AnnounceShutdown(ShutdownCause cause) => _server.Emit("SHUTDOWN", writer =>
    {
        writer.WriteBoolean("guest", cause == ShutdownCause.Guest);
        writer.WriteString("reason", cause switch
        {
            ShutdownCause.Quit => "host-qmp-quit",
            ShutdownCause.Guest => "guest-shutdown",
            ShutdownCause.Signal => "host-signal",
            _ => "host-error",
        });
    });

    /// <inheritdoc/>
    public async ValueTask DisposeAsync()
    {
        _machine.RunStateChanged -= OnRunStateChanged;
        _machine.Notice -= OnNotice;
        _machine.Migration.StateChanged -= OnMigrationStateChanged;
        _machine.Migration.PassStarted -= OnPassStarted;
        foreach (VfioPciFunction device in _machine.Devices)
        {
            device.StateChanged -= OnDeviceStateChanged;
        }

        await _server.DisposeAsync();
    }

    private static void WriteCommands(QmpCommandTable commands, Utf8JsonWriter result)
    {
        result.WriteStartArray();
        foreach (string name in commands.Names.Append("qmp_capabilities").Order(StringComparer.Ordinal))
        {
            result.WriteStartObject();
            result.WriteString("name", name);
            result.WriteEndObject();
        }

        result.WriteEndArray();
    }

    private void OnRunStateChanged(RunState before, RunState now)
    {
        if (now == RunState.Running)
        {
            _server.Emit("RESUME");
        }
        else if (before == RunState.Running)
        {
            _server.Emit("STOP");
        }
    }

    private void OnNotice(string text) => _server.Emit("X_GODWIT_NOTICE", writer => writer.WriteString("message", text));

    private void OnMigrationStateChanged(MigrationState state) =>
        _server.Emit("MIGRATION", writer => writer.WriteString("status", QmpNames.Of(state)));

    private void OnPassStarted(int pass) => _server.Emit("MIGRATION_PASS", writer => writer.WriteNumber("pass", pass));

    private void OnDeviceStateChanged(IMigratableDevice device) => _server.Emit("VFIO_MIGRATION", writer =>
    {
        writer.WriteString("device-id", device.Id);
        writer.WriteString("qom-path", $"/machine/peripheral/{device.Id}");
        writer.WriteString("device-state", device.StateName);
    });
}
