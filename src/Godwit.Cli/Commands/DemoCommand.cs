using System.CommandLine;

namespace Godwit.Cli;

/// <summary><c>godwit demo</c>: the whole journey by itself, with a proof at the end.</summary>
internal static class DemoCommand
{
    public static Command Create()
    {
        DefaultedOption<ulong> memory = CommonOptions.Memory(1UL << 30);
        DefaultedOption<TimeSpan?> runFor = CommonOptions.Time(
            "--run-for",
            "How long the guest runs: a quarter before the migration, at least half during it, a quarter after it.",
            TimeSpan.FromSeconds(6),
            TimeSpan.FromSeconds(1),
            TimeSpan.FromMilliseconds(400),
            TimeSpan.FromHours(1));
        DefaultedOption<long> dirtyRate = CommonOptions.Number("--dirty-rate", "MiB of memory that the guest's CPU dirties a second.", 64, 0, 1 << 20);
        DefaultedOption<long> churn = CommonOptions.Number("--churn", "Mapped buffers that the guest moves a second, besides its I/O.", 1000, 0, 1_000_000);
        DefaultedOption<long> queueDepth = CommonOptions.Number("--queue-depth", "I/O commands that the guest keeps in flight.", 32, 1, 1023);
        DefaultedOption<TimeSpan?> downtime = MigrateCommand.DowntimeLimitOption(TimeSpan.FromMilliseconds(100));
        DefaultedOption<ulong> bandwidth = MigrateCommand.BandwidthOption();
        DefaultedOption<long> logRanges = LogLimitOptions.RangesOption("--log-ranges");
        DefaultedOption<ulong> logSpan = LogLimitOptions.SpanMaxOption("--log-span-max");
        DefaultedOption<DemoTransport> transport = CommonOptions.Choice(
            "--transport", "How the machines reach each other.", DemoTransport.Unix, ("unix", DemoTransport.Unix), ("tcp", DemoTransport.Tcp));
        DefaultedOption<long> seed = CommonOptions.Number("--seed", "Seed of all that the guest does at random.", 1, 0, long.MaxValue);
        DefaultedOption<long> expectIo = CommonOptions.Number(
            "--expect-io", "Least I/O commands during the migration for the proof to hold.", 1000, 0, long.MaxValue);
        DefaultedOption<long> expectMappings = CommonOptions.Number(
            "--expect-mappings", "Least mapping changes during the migration for the proof to hold, when the guest's DMA is translated.", 10_000, 0, long.MaxValue);
        DefaultedOption<long> domainSwitches = CommonOptions.Number(
            "--domain-switches",
            "Times a second that the guest puts its device into another domain, or into pass-through.",
            0,
            0,
            1000);
        DefaultedOption<string> tables = CommonOptions.Choice(
            "--guest-tables",
            "Page tables that the guest uses with scalable-mode=on.",
            "second",
            ("second", "second"),
            ("first", "first"),
            ("legacy", "legacy"));
        Option<bool> json = CommonOptions.Json();
        Option<bool> parent = CommonOptions.ExitWithParent();
        var command = new DocumentedCommand(
            "demo",
            "Live-migrate a busy machine and prove that nothing was lost.",
            static () =>
            $"""
            Starts four processes with the commands that this program offers (two device servers on one disk image, a source and a
            destination machine), runs a guest that never stops doing I/O and remapping its buffers, migrates it, and compares: every page of
            memory, every block that the guest reads, the disk image at the end. Exit code 0 only if all of that holds.
            Needs no root, no KVM and no hardware. Ctrl-C stops everything and leaves nothing behind.

            Examples:
              godwit demo
              godwit demo --memory 4G --dirty-rate 200 --downtime-limit 50ms
              godwit demo --iommu none --transport tcp --seed 7 --json
              godwit demo --iommu intel,dma-translation=off,intremap=on
              godwit demo --iommu intel,intremap=on,eim=on --vcpus 300
              godwit demo --iommu intel,aw-bits=48,scalable-mode=on --guest-tables first --domain-switches 20
              godwit demo --log-ranges 4 --log-span-max 64M    (devices whose logs take little: coverage follows what the guest maps)

            With several vCPUs the device interrupts the last one, which tells the first.

            Properties of --iommu intel (docs/viommu.md):
            {IommuArgument.Page()}
            """)
        {
            memory, runFor, dirtyRate, churn, queueDepth, downtime, bandwidth, logRanges, logSpan, transport, seed, expectIo, expectMappings,
            domainSwitches, tables, json, parent,
        };
        var iommu = new IommuOptions(command, ("--aw-bits", "aw-bits"));
        command.SetAction(async parsed =>
        {
            var options = new DemoOptions
            {
                Memory = parsed.Value(memory),
                RunFor = parsed.Value(runFor).GetValueOrDefault(),
                DirtyRate = parsed.Value(dirtyRate),
                Churn = parsed.Value(churn),
                QueueDepth = parsed.Value(queueDepth),
                Iommu = iommu.Read(parsed),
                Vcpus = (int)parsed.Value(iommu.Vcpus),
                DomainSwitches = parsed.Value(domainSwitches),
                GuestTables = parsed.Value(tables),
                DowntimeLimit = parsed.Value(downtime).GetValueOrDefault(),
                Bandwidth = parsed.Value(bandwidth),
                LogRanges = parsed.Value(logRanges),
                LogSpanMax = parsed.Value(logSpan),
                Transport = parsed.Value(transport),
                Seed = parsed.Value(seed),
                ExpectIo = parsed.Value(expectIo),
                ExpectMappings = parsed.Value(expectMappings),
            };
            using var signals = new StopSignals(parsed.GetValue(parent));
            return await RunAsync(options, DemoView.Create(parsed.GetValue(json)), signals.Requested);
        });
        return command;
    }

    private static async Task<int> RunAsync(DemoOptions options, DemoView view, CancellationToken stop)
    {
        try
        {
            options.Machine.Validate();
            DemoResult result = await DemoRun.RunAsync(options, view, stop);
            view.Result(result);
            return result.Passed ? ExitCodes.Ok : ExitCodes.Failed;
        }
        catch (OperationCanceledException) when (stop.IsCancellationRequested)
        {
            await Console.Error.WriteLineAsync("godwit: the demo was stopped; nothing of it is left");
            return ExitCodes.Failed;
        }
        catch (Exception e) when (e is CliException or ArgumentException)
        {
            await Console.Error.WriteLineAsync($"godwit: {e.Message}");
            return ExitCodes.Failed;
        }
    }
}
