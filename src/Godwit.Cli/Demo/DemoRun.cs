using System.Text.Json;
using Godwit.Machine;
using Godwit.Monitor;

namespace Godwit.Cli;

/// <summary>The demo's course: boot, run, migrate, run on, stop, look at what is left. Machines are driven over QMP only.</summary>
internal static class DemoRun
{
    private static readonly TimeSpan Refresh = TimeSpan.FromMilliseconds(100);

    /// <summary>Runs it. Leaves no process, socket or file behind, however it ends.</summary>
    public static async Task<DemoResult> RunAsync(DemoOptions options, DemoView view, CancellationToken stop)
    {
        view.Step("Starting two device servers and two machines");
        await using DemoStage stage = await DemoStage.OpenAsync(options, stop);
        try
        {
            return await RunAsync(options, view, stage);
        }
        catch (Exception e) when (e is QmpException or QmpConnectionException)
        {
            throw new CliException($"{e.Message}{string.Concat(stage.LastLines.Select(line => $"\n    {line}"))}", e);
        }
    }

    private static async Task<DemoResult> RunAsync(DemoOptions options, DemoView view, DemoStage stage)
    {
        view.Step("Booting the guest on the source");
        await BootAsync(stage);
        view.Step($"Letting it run for {Duration.Rounded(options.Around)}");
        await stage.PauseAsync(options.Around);

        await stage.WatchAsync(SetUpAsync(options, stage));
        DemoSample begin = await SampleAsync(stage, stage.Source);
        view.Step($"Migrating to {stage.MigrationUri} while it runs");
        await stage.WatchAsync(stage.Source.ExecuteAsync("migrate", writer => writer.WriteString("uri", stage.MigrationUri)));
        DemoSample switched = await view.FollowAsync(show => FollowAsync(stage, begin, show));
        string sourceState = await StateAsync(stage, stage.Source);
        IReadOnlyList<DirtyView> tracking = DirtyView.From(await stage.WatchAsync(stage.Source.ExecuteAsync("x-godwit-query-dirty")));
        var result = new DemoResult
        {
            Options = options,
            CommandLines = [.. stage.CommandLines],
            Begin = begin,
            Switch = switched,
            SourceState = sourceState,
            Tracking = tracking,
        };
        if (!switched.Migration.Completed)
        {
            view.Lines(stage.LastLines);
            return result;
        }

        view.Step($"Letting it run on the destination for {Duration.Rounded(options.Around)}");
        await stage.PauseAsync(options.Around);
        string destinationState = await StateAsync(stage, stage.Destination);
        await stage.WatchAsync(stage.Destination.ExecuteAsync("stop"));
        DemoSample end = await SampleAsync(stage, stage.Destination);

        view.Step("Stopping everything and reading the disk image");
        await stage.CloseAsync();
        return result with { End = end, DestinationState = destinationState, Image = ReadImage(stage.Image, options.Seed) };
    }

    private static StressImageReport ReadImage(string path, long seed)
    {
        using FileStream image = File.OpenRead(path);
        return StressImage.Check(image, (ulong)seed);
    }

    private static async Task<JsonElement> SetUpAsync(DemoOptions options, DemoStage stage)
    {
        await MigrateCommand.SetParametersAsync(stage.Source, options.DowntimeLimit, options.Bandwidth, verify: true, options.Precopy);
        return default;
    }

    /// <summary>Until the guest has done its first I/O, or given up.</summary>
    private static async Task BootAsync(DemoStage stage)
    {
        while (true)
        {
            GuestView guest = GuestView.From(await stage.WatchAsync(stage.Source.ExecuteAsync("x-query-guest")));
            if (guest.Panic is not null)
            {
                throw new CliException($"The guest panicked while it booted: {guest.Panic}");
            }

            if (guest.Io > 0)
            {
                return;
            }

            await stage.PauseAsync(Refresh);
        }
    }

    /// <summary>Shows the migration until it has ended; returns the source as it then is.</summary>
    private static async Task<DemoSample> FollowAsync(DemoStage stage, DemoSample begin, Action<DemoSample, DemoSample> show)
    {
        while (true)
        {
            DemoSample now = await SampleAsync(stage, stage.Source);
            show(begin, now);
            if (now.Migration.Ended)
            {
                // Once more: the guest may have been looked at before it stopped.
                return now with { Guest = GuestView.From(await stage.WatchAsync(stage.Source.ExecuteAsync("x-query-guest"))) };
            }

            await stage.PauseAsync(Refresh);
        }
    }

    private static async Task<DemoSample> SampleAsync(DemoStage stage, QmpClient monitor) => new(
        GuestView.From(await stage.WatchAsync(monitor.ExecuteAsync("x-query-guest"))),
        MigrationView.From(await stage.WatchAsync(monitor.ExecuteAsync("query-migrate"))));

    private static async Task<string> StateAsync(DemoStage stage, QmpClient monitor) =>
        (await stage.WatchAsync(monitor.ExecuteAsync("query-status"))).Text("status") ?? "unknown";
}
