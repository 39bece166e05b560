using System.CommandLine;
using System.Text;
using System.Text.Json;
using Godwit.Migration;
using Godwit.Monitor;
using Spectre.Console;

namespace Godwit.Cli;

/// <summary><c>godwit migrate</c>: starts a migration and stays with it until it has ended.</summary>
internal static class MigrateCommand
{
    private static readonly TimeSpan Refresh = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan CancelTime = TimeSpan.FromSeconds(30);

    public static Command Create()
    {
        Option<string> monitor = CommonOptions.Monitor();
        var uri = new Argument<string>("URI")
        {
            Description = $"Where the destination waits: {MigrationUri.Forms}. Numbers and commands are the machine's process's.",
            Arity = ArgumentArity.ZeroOrOne, // the library's own error does not say what is missing
        };
        var local = new Option<string?>("--local")
        {
            Description = "Instead of URI: hand the machine over to a process of the same user on this host that waits with --incoming local:PATH. "
                + "No page is copied; nothing is compressed, limited or sent over more channels.",
            HelpName = "PATH",
        };
        DefaultedOption<TimeSpan?> downtime = DowntimeLimitOption(null);
        DefaultedOption<ulong> bandwidth = BandwidthOption();
        var verify = new Option<bool>("--verify")
        {
            Description = "Compare checksums of every page of the stopped source with the destination before it runs. Takes time beside the downtime.",
        };
        DefaultedOption<TimeSpan?> precopy = CommonOptions.Time(
            "--min-precopy", "Shortest time of pre-copy.", null, TimeSpan.FromSeconds(1), TimeSpan.Zero, TimeSpan.FromDays(1));
        var channels = new Option<int>("--channels")
        {
            Description = $"Connections for pages, 1 to {StreamFormat.MaxChannels}; needs unix: or tcp:.",
            HelpName = "N",
            DefaultValueFactory = static _ => 1,
        };
        channels.Validators.Add(static result =>
        {
            if (result.GetValueOrDefault<int>() is var count && count is < 1 or > StreamFormat.MaxChannels)
            {
                result.AddError($"--channels must be 1 to {StreamFormat.MaxChannels}, not {count}");
            }
        });
        DefaultedOption<string> compression = CommonOptions.Choice(
            "--compress", "Compress pages where that makes the migration faster; needs Debian's liblz4-1 or libzstd1 on both hosts.", "none",
            ("none", "none"), ("lz4", "lz4"), ("zstd", "zstd"));
        DefaultedOption<string> onStall = CommonOptions.Choice(
            "--on-stall", "What to do when memory is dirtied faster than it is sent: fail, raise the downtime limit, or slow the guest's vCPUs.", "give-up",
            ("give-up", "give-up"), ("raise-downtime", "raise-downtime"), ("throttle", "throttle"));
        DefaultedOption<TimeSpan?> maxDowntime = CommonOptions.Time(
            "--max-downtime", "How far --on-stall raise-downtime goes. A bare number is milliseconds.",
            TimeSpan.FromSeconds(5), TimeSpan.FromMilliseconds(1), TimeSpan.FromMilliseconds(1), TimeSpan.FromSeconds(2000));
        var pause = new Option<bool>("--pause-before-switchover")
        {
            Description = "Stop the guest and then wait for 'godwit migrate-continue'.",
        };
        Option<bool> json = CommonOptions.Json();
        var report = new Option<string?>("--report")
        {
            Description = "Leave a page with the migration's charts, for a browser, however it ends.",
            HelpName = "FILE.html",
        };
        var command = new DocumentedCommand(
            "migrate",
            "Migrate a machine and show how far it is.",
            static () =>
            """
            Ctrl-C cancels the migration: the machine then runs on where it is.
            Exit code 0 when it completed; 1 when it failed or was cancelled.

            Examples:
              godwit migrate --monitor /tmp/src.qmp unix:/tmp/mig.sock
              godwit migrate --monitor /tmp/src.qmp tcp:192.0.2.7:4444 --downtime-limit 50ms --bandwidth 1G
              godwit migrate --monitor /tmp/src.qmp --report migration.html unix:/tmp/mig.sock
              godwit migrate --monitor /tmp/src.qmp --local /tmp/new.sock
              godwit migrate --monitor /tmp/src.qmp "exec:ssh host socat - UNIX-CONNECT:/tmp/mig.sock"
            """)
        {
            monitor, uri, local, downtime, bandwidth, verify, precopy, channels, compression, onStall, maxDowntime, pause, json, report,
        };
        command.Validators.Add(result =>
        {
            bool hasUri = result.GetResult(uri) is { Tokens.Count: > 0 };
            bool hasLocal = result.GetResult(local) is { Tokens.Count: > 0 };
            if (hasUri == hasLocal)
            {
                result.AddError(hasUri
                    ? "give the URI of the destination or --local PATH, not both"
                    : $"the URI of the destination is missing: {MigrationUri.Forms}");
            }
        });
        command.SetAction(async parsed =>
        {
            using var signals = new StopSignals();
            // Opened first, so that a path that cannot be written is known before anything starts.
            await using FileStream? page = parsed.GetValue(report) is { } path ? new FileStream(path, FileMode.Create, FileAccess.Write) : null;
            await using QmpClient client = await QmpClient.ConnectAsync(parsed.GetRequiredValue(monitor), signals.Requested);
            await SetParametersAsync(
                client, parsed.Value(downtime), parsed.Value(bandwidth), parsed.GetValue(verify), parsed.Value(precopy));
            int count = parsed.GetValue(channels);
            string method = parsed.Value(compression);
            string action = parsed.Value(onStall);
            TimeSpan? longest = parsed.Value(maxDowntime);
            await client.ExecuteAsync("migrate-set-parameters", writer =>
            {
                writer.WriteNumber("multifd-channels", count);
                writer.WriteString("multifd-compression", method);
                writer.WriteString("x-on-stall", action);
                if (longest is { } most)
                {
                    writer.WriteNumber("x-max-downtime", (long)most.TotalMilliseconds);
                }
            });
            await SetPauseAsync(client, parsed.GetValue(pause));
            string target = parsed.GetValue(local) is { } place ? $"local:{place}" : parsed.GetRequiredValue(uri);
            await client.ExecuteAsync("migrate", writer => writer.WriteString("uri", target));
            bool quiet = parsed.GetValue(json);
            var trace = new MigrationTrace();
            JsonElement last = await FollowAsync(client, trace, quiet, signals.Requested);
            if (page is not null)
            {
                await page.WriteAsync(Encoding.UTF8.GetBytes(MigrationReport.Create(last, trace, target, TimeProvider.System.GetLocalNow())));
            }

            return Report(last, quiet);
        });
        return command;
    }

    /// <summary>The longest allowed downtime.</summary>
    public static DefaultedOption<TimeSpan?> DowntimeLimitOption(TimeSpan? byDefault) => CommonOptions.Time(
        "--downtime-limit",
        "Longest downtime that is allowed; pre-copy goes on until it can be kept. A bare number is milliseconds.",
        byDefault,
        TimeSpan.FromMilliseconds(1),
        TimeSpan.FromMilliseconds(1),
        TimeSpan.FromSeconds(2000));

    /// <summary>The bandwidth limit.</summary>
    public static DefaultedOption<ulong> BandwidthOption() =>
        CommonOptions.Size("--bandwidth", "Most bytes a second; 0 for no limit.", 0, 0, long.MaxValue, 1);

    /// <summary>Sets what is given, over QMP.</summary>
    public static Task SetParametersAsync(QmpClient client, TimeSpan? downtime, ulong bandwidth, bool verify, TimeSpan? precopy) =>
        client.ExecuteAsync("migrate-set-parameters", writer =>
        {
            if (downtime is { } limit)
            {
                writer.WriteNumber("downtime-limit", (long)limit.TotalMilliseconds);
            }

            writer.WriteNumber("max-bandwidth", bandwidth);
            writer.WriteBoolean("x-verify-pages", verify);
            writer.WriteNumber("x-min-precopy", (long)(precopy ?? TimeSpan.Zero).TotalMilliseconds);
        });

    private static Task<JsonElement> SetPauseAsync(QmpClient client, bool pause) =>
        client.ExecuteAsync("migrate-set-capabilities", writer =>
        {
            writer.WriteStartArray("capabilities");
            writer.WriteStartObject();
            writer.WriteString("capability", "pause-before-switchover");
            writer.WriteBoolean("state", pause);
            writer.WriteEndObject();
            writer.WriteEndArray();
        });

    private static async Task<JsonElement> FollowAsync(QmpClient client, MigrationTrace trace, bool quiet, CancellationToken stop)
    {
        if (quiet || Console.IsOutputRedirected)
        {
            long round = 0;
            return await PollAsync(client, trace, view =>
            {
                if (!quiet && view.Rounds != round)
                {
                    round = view.Rounds;
                    Console.WriteLine(MigrationLines.Progress(view));
                }
            }, stop);
        }

        JsonElement last = default;
        await AnsiConsole.Progress()
            .Columns(new ProgressBarColumn(), new PercentageColumn(), new TaskDescriptionColumn { Alignment = Justify.Left })
            .StartAsync(async context =>
            {
                ProgressTask bar = context.AddTask("migration", maxValue: 1);
                last = await PollAsync(client, trace, view =>
                {
                    bar.Value = MigrationLines.Fraction(view);
                    bar.Description = Markup.Escape(MigrationLines.Progress(view));
                }, stop);
            });
        return last;
    }

    /// <summary>Asks until it has ended. The first stop request cancels the migration, whose end is still waited for.</summary>
    private static async Task<JsonElement> PollAsync(QmpClient client, MigrationTrace trace, Action<MigrationView> show, CancellationToken stop)
    {
        CancellationToken waiting = stop;
        using var patience = new CancellationTokenSource();
        while (true)
        {
            JsonElement reply = await client.ExecuteAsync("query-migrate", cancellation: patience.Token);
            MigrationView view = MigrationView.From(reply);
            trace.Add(view);
            show(view);
            if (view.Ended)
            {
                return reply;
            }

            try
            {
                await Task.Delay(Refresh, waiting);
            }
            catch (OperationCanceledException)
            {
                if (patience.IsCancellationRequested)
                {
                    throw new CliException($"The migration was not cancelled within {CancelTime.TotalSeconds:0} s");
                }

                await client.ExecuteAsync("migrate_cancel", cancellation: patience.Token);
                patience.CancelAfter(CancelTime);
                waiting = patience.Token;
            }
        }
    }

    private static int Report(JsonElement reply, bool json)
    {
        MigrationView view = MigrationView.From(reply);
        if (json)
        {
            Console.WriteLine(reply.GetRawText());
        }
        else if (view.Completed)
        {
            Console.WriteLine($"The migration {MigrationLines.Summary(view)}.");
            if (view.PagesCompared is { } pages)
            {
                Console.WriteLine($"{pages} pages compared, {view.PagesDiffering} differ.");
            }
        }

        if (!view.Completed)
        {
            Console.Error.WriteLine($"godwit: the migration {MigrationLines.Summary(view)}");
        }

        return view.Completed ? ExitCodes.Ok : ExitCodes.Failed;
    }
}
