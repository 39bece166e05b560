using System.Text.Json;
using Godwit.Monitor;

namespace Godwit.EndToEnd.Tests;

/// <summary>A folder of its own for one test, and the processes started in it, which are killed at the end whatever happens.</summary>
internal sealed class Stage : IAsyncDisposable
{
    /// <summary>Small machines and disks: the whole suite shares two cores with nothing to spare.</summary>
    public const string Memory = "128M";

    /// <summary>A downtime limit in milliseconds, for tests of something else: how long a guest stands still on a busy machine is not their matter.</summary>
    public const string Patient = "60000";

    private readonly List<IAsyncDisposable> _owned = [];

    public string Folder { get; } = Directory.CreateTempSubdirectory("godwit-e2e-").FullName;

    /// <summary>The guest of most tests: small enough to converge at once, seeds vary by the run.</summary>
    public string Guest { get; init; } = $"nvme-stress,queue-depth=16,dirty-rate=16,working-set=4M,region=8M,churn=500,seed={Environment.TickCount & 0xffff}";

    public string In(string name) => Path.Combine(Folder, name);

    public GodwitProcess Start(params IReadOnlyList<string> arguments) => Own(GodwitProcess.Start(arguments, Folder));

    public T Own<T>(T owned)
        where T : IAsyncDisposable
    {
        _owned.Add(owned);
        return owned;
    }

    /// <summary>A file in it: the image that all devices of the stage share.</summary>
    public string Image { get; init; } = "disk.img";

    /// <summary>A device server on that image.</summary>
    public async Task<GodwitProcess> DeviceAsync(string name)
    {
        GodwitProcess device = Start("device", "nvme", "--socket", In($"{name}.sock"), "--image", In(Image), "--size", "8M", "--serial", "e2e");
        await device.WaitForAsync("listening on");
        return device;
    }

    /// <summary>Arguments of a machine with one device.</summary>
    public IReadOnlyList<string> Machine(string name, string device, params IReadOnlyList<string> more) =>
    [
        "run", "--name", name, "--memory", Memory, "--device", $"vfio-user,socket={In(device)}.sock,id=nvme0", "--guest", Guest,
        "--monitor", In($"{name}.qmp"), .. more,
    ];

    /// <summary>A machine that boots.</summary>
    public async Task<GodwitProcess> SourceAsync(params IReadOnlyList<string> more)
    {
        GodwitProcess machine = Start(Machine("src", "a", more));
        await machine.WaitForAsync("monitor at");
        return machine;
    }

    /// <summary>A machine that waits at mig.sock.</summary>
    public async Task<GodwitProcess> DestinationAsync(params IReadOnlyList<string> more)
    {
        GodwitProcess machine = Start([.. Machine("dst", "b", more), "--incoming", $"unix:{In("mig.sock")}"]);
        await machine.WaitForAsync("monitor at");
        return machine;
    }

    /// <summary>Two devices, a source whose guest does I/O, and a destination that waits.</summary>
    public async Task<Pair> PairAsync(params IReadOnlyList<string> more)
    {
        GodwitProcess a = await DeviceAsync("a");
        GodwitProcess b = await DeviceAsync("b");
        GodwitProcess source = await SourceAsync(more);
        GodwitProcess destination = await DestinationAsync(more);
        Qmp src = await QmpAsync("src");
        Qmp dst = await QmpAsync("dst");
        await src.GuestDoesIoAsync();
        return new Pair(a, b, source, destination, src, dst);
    }

    public async Task<Qmp> QmpAsync(string machine) => new(Own(await QmpClient.ConnectAsync(In($"{machine}.qmp"))));

    public async ValueTask DisposeAsync()
    {
        foreach (IAsyncDisposable owned in Enumerable.Reverse(_owned))
        {
            await owned.DisposeAsync();
        }

        Directory.Delete(Folder, recursive: true);
    }
}

/// <summary>Everything of an ordinary migration.</summary>
internal sealed record Pair(GodwitProcess DeviceA, GodwitProcess DeviceB, GodwitProcess Source, GodwitProcess Destination, Qmp Src, Qmp Dst)
{
    public string Everything => $"source:\n{Source.All}\ndestination:\n{Destination.All}\ndevice a:\n{DeviceA.All}\ndevice b:\n{DeviceB.All}";
}

/// <summary>A machine's monitor with the questions that tests ask.</summary>
internal sealed class Qmp(QmpClient client)
{
    private static readonly TimeSpan Tick = TimeSpan.FromMilliseconds(50);

    public QmpClient Client => client;

    public async Task<JsonElement> ExecuteAsync(string command, Action<Utf8JsonWriter>? arguments = null) =>
        await client.ExecuteAsync(command, arguments).WaitAsync(GodwitProcess.Guard);

    public async Task<string> StateAsync() => (await ExecuteAsync("query-status")).GetProperty("status").GetString()!;

    public async Task<JsonElement> MigrationAsync() => await ExecuteAsync("query-migrate");

    public Task<JsonElement> GuestAsync() => ExecuteAsync("x-query-guest");

    public async Task<long> IoAsync()
    {
        JsonElement guest = await GuestAsync();
        Assert.False(guest.TryGetProperty("panic", out JsonElement panic), $"the guest panicked: {panic}");
        return guest.GetProperty("reads").GetInt64() + guest.GetProperty("writes").GetInt64();
    }

    /// <summary>Sets parameters by name; values are JSON.</summary>
    public Task SetAsync(params (string Name, string Value)[] parameters) => ExecuteAsync("migrate-set-parameters", writer =>
    {
        foreach ((string name, string value) in parameters)
        {
            writer.WritePropertyName(name);
            writer.WriteRawValue(value);
        }
    });

    public Task MigrateAsync(string uri) => ExecuteAsync("migrate", writer => writer.WriteString("uri", uri));

    /// <summary>Until the guest has done more I/O than it had.</summary>
    public async Task GuestDoesIoAsync()
    {
        long before = await IoAsync();
        await UntilAsync(async () => await IoAsync() > before + 50, "the guest does no I/O");
    }

    /// <summary>Until no migration is going on; returns query-migrate.</summary>
    public async Task<JsonElement> MigratedAsync()
    {
        JsonElement last = default;
        await UntilAsync(
            async () =>
            {
                last = await MigrationAsync();
                return last.GetProperty("status").GetString() is "completed" or "failed" or "cancelled" or "none";
            },
            () => $"the migration does not end: {last}");
        return last;
    }

    public Task InStateAsync(string state) => UntilAsync(async () => await StateAsync() == state, $"the machine does not get into state {state}");

    /// <summary>Asks until it is so. The clock only ends a test that would never end.</summary>
    public static Task UntilAsync(Func<Task<bool>> condition, string otherwise) => UntilAsync(condition, () => otherwise);

    private static async Task UntilAsync(Func<Task<bool>> condition, Func<string> otherwise)
    {
        long start = TimeProvider.System.GetTimestamp();
        using var timer = new PeriodicTimer(Tick);
        while (!await condition())
        {
            Assert.True(TimeProvider.System.GetElapsedTime(start) < GodwitProcess.Guard, otherwise());
            await timer.WaitForNextTickAsync();
        }
    }
}
