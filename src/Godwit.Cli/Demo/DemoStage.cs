using Godwit.Monitor;

namespace Godwit.Cli;

/// <summary>
/// The four processes of a demo, their folder and the two monitors. Everything is done with commands that a person could type;
/// <see cref="CommandLines"/> has them.
/// </summary>
internal sealed class DemoStage : IAsyncDisposable
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(10);

    private readonly string _folder = Directory.CreateTempSubdirectory("godwit-demo-").FullName;
    private readonly List<GodwitProcess> _processes = [];
    private readonly List<QmpClient> _monitors = [];
    private readonly TaskCompletionSource<CliException> _ended = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly CancellationToken _stop;
    private bool _closing;

    private DemoStage(CancellationToken stop) => _stop = stop;

    /// <summary>Monitor of the source.</summary>
    public QmpClient Source { get; private set; } = null!;

    /// <summary>Monitor of the destination.</summary>
    public QmpClient Destination { get; private set; } = null!;

    /// <summary>Where the destination waits.</summary>
    public string MigrationUri { get; private set; } = string.Empty;

    /// <summary>Path of the disk image.</summary>
    public string Image => Path.Combine(_folder, "disk.img");

    /// <summary>What was started, as a person would type it.</summary>
    public IEnumerable<string> CommandLines => _processes.Select(process => process.CommandLine);

    /// <summary>The last lines of each process, for a failure.</summary>
    public IEnumerable<string> LastLines => _processes.SelectMany(process => process.LastLines.TakeLast(6).Select(line => $"{process.Name}> {line}"));

    /// <summary>Starts all four and connects to the monitors.</summary>
    public static async Task<DemoStage> OpenAsync(DemoOptions options, CancellationToken stop)
    {
        var stage = new DemoStage(stop);
        try
        {
            await stage.StartAsync(options);
            return stage;
        }
        catch
        {
            await stage.DisposeAsync();
            throw;
        }
    }

    /// <summary>The result of <paramref name="work"/>, unless a process ends or the user stops the demo before.</summary>
    public async Task<T> WatchAsync<T>(Task<T> work)
    {
        Task first = await Task.WhenAny(work, _ended.Task).WaitAsync(_stop);
        if (first == work && work.IsCompletedSuccessfully)
        {
            return work.Result;
        }

        if (_ended.Task.IsCompleted)
        {
            // The reason why a monitor broke off, rather than that it did.
            throw _ended.Task.Result;
        }

        if (work.Exception?.InnerException is QmpConnectionException)
        {
            await Task.WhenAny(_ended.Task, Task.Delay(Patience, _stop));
            if (_ended.Task.IsCompleted)
            {
                throw _ended.Task.Result;
            }
        }

        return await work;
    }

    /// <summary>Waits, unless a process ends or the user stops the demo before.</summary>
    public Task<bool> PauseAsync(TimeSpan time) => WatchAsync(DelayAsync(time));

    /// <summary>Quits both machines over their monitors, then the devices. All must end by themselves and without an error.</summary>
    public async Task CloseAsync()
    {
        _closing = true;
        await Destination.ExecuteAsync("quit", cancellation: _stop);
        await Source.ExecuteAsync("quit", cancellation: _stop);
        foreach (GodwitProcess process in Enumerable.Reverse(_processes))
        {
            if (!await process.StopAsync(Patience))
            {
                throw new CliException($"The {process.Name} did not end within {Patience.TotalSeconds:0} s and was killed");
            }

            if (await process.Exited != ExitCodes.Ok)
            {
                throw process.Ended();
            }
        }
    }

    public async ValueTask DisposeAsync()
    {
        _closing = true;
        foreach (QmpClient monitor in _monitors)
        {
            await monitor.DisposeAsync();
        }

        await Task.WhenAll(_processes.Select(process => process.DisposeAsync().AsTask()));
        Directory.Delete(_folder, recursive: true);
    }

    private static async Task<bool> DelayAsync(TimeSpan time)
    {
        await Task.Delay(time);
        return true;
    }

    private async Task StartAsync(DemoOptions options)
    {
        GodwitProcess a = Start("source's device", Device(options, "a.sock"));
        await WatchAsync(a.WaitForLineAsync("listening on", _stop));
        GodwitProcess b = Start("destination's device", Device(options, "b.sock"));
        await WatchAsync(b.WaitForLineAsync("listening on", _stop));

        string incoming = options.Transport == DemoTransport.Unix ? $"unix:{In("mig.sock")}" : "tcp:127.0.0.1:0";
        GodwitProcess destination = Start("destination", [.. Machine(options, "dst", "b.sock"), "--incoming", incoming]);
        GodwitProcess source = Start("source", [.. Machine(options, "src", "a.sock")]);
        Destination = await ConnectAsync(destination, "dst.qmp");
        Source = await ConnectAsync(source, "src.qmp");
        MigrationView waiting = MigrationView.From(await Destination.ExecuteAsync("query-migrate", cancellation: _stop));
        MigrationUri = waiting.ListeningAt ?? throw new CliException("The destination does not say where it waits");
    }

    private List<string> Device(DemoOptions options, string socket)
    {
        List<string> arguments =
            ["device", "nvme", "--socket", In(socket), "--image", Image, "--size", ByteSize.Exact(DemoOptions.DiskBytes), "--serial", "demo"];
        if (options.LimitsLog)
        {
            arguments.AddRange(["--log-ranges", $"{options.LogRanges}", "--log-span-max", ByteSize.Exact(options.LogSpanMax)]);
        }

        return arguments;
    }

    private List<string> Machine(DemoOptions options, string name, string socket)
    {
        List<string> arguments =
        [
            "run", "--name", name, "--memory", ByteSize.Exact(options.Memory), "--vcpus", $"{options.Vcpus}", "--iommu", $"{options.Iommu}",
            "--device", $"vfio-user,socket={KeyValueList.Escape(In(socket))},id=nvme0",
            "--guest", string.Concat(options.GuestOptions.Select(option => $",{option.Key}={option.Value}").Prepend(options.Machine.Guest)),
            "--monitor", In($"{name}.qmp"),
        ];
        return arguments;
    }

    private async Task<QmpClient> ConnectAsync(GodwitProcess process, string monitor)
    {
        await WatchAsync(process.WaitForLineAsync("monitor at", _stop));
        QmpClient client = await QmpClient.ConnectAsync(In(monitor), _stop);
        _monitors.Add(client);
        return client;
    }

    private GodwitProcess Start(string name, params IReadOnlyList<string> arguments)
    {
        GodwitProcess process = GodwitProcess.Start(name, arguments);
        _processes.Add(process);
        _ = ReportEndAsync(process);
        return process;
    }

    private async Task ReportEndAsync(GodwitProcess process)
    {
        await process.Exited;
        if (!_closing)
        {
            _ended.TrySetResult(process.Ended());
        }
    }

    private string In(string name) => Path.Combine(_folder, name);
}
