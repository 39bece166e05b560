using System.Text.Json;

namespace Godwit.Cli;

/// <summary>A demo for programs: one JSON object at the end, nothing before.</summary>
internal sealed class JsonDemoView : DemoView
{
    public override void Step(string text)
    {
        // Programs wait for the result.
    }

    public override Task<T> FollowAsync<T>(Func<Action<DemoSample, DemoSample>, Task<T>> work) => work(static (_, _) => { });

    public override void Result(DemoResult result)
    {
        using var stream = new MemoryStream();
        using (var writer = new Utf8JsonWriter(stream, new JsonWriterOptions { Indented = true }))
        {
            Write(writer, result);
        }

        Console.WriteLine(System.Text.Encoding.UTF8.GetString(stream.ToArray()));
    }

    private static void Write(Utf8JsonWriter writer, DemoResult result)
    {
        writer.WriteStartObject();
        writer.WriteBoolean("passed", result.Passed);
        WriteOptions(writer, result.Options);
        WriteMigration(writer, result);
        writer.WriteStartObject("guest");
        WriteGuest(writer, "before", result.Before);
        WriteGuest(writer, "during", result.During);
        if (result.After is { } after)
        {
            WriteGuest(writer, "after", after);
        }

        if (result.End is { } end)
        {
            WriteGuest(writer, "total", end.Guest);
        }

        writer.WriteEndObject();
        if (result.Image is { } image)
        {
            writer.WriteStartObject("image");
            writer.WriteNumber("blocks", image.Blocks);
            writer.WriteNumber("written", image.Written);
            writer.WriteNumber("empty", image.Empty);
            writer.WriteNumber("wrong", image.Wrong);
            WriteTexts(writer, "first-wrong", image.FirstWrong);
            writer.WriteEndObject();
        }

        writer.WriteStartArray("checks");
        foreach (DemoCheck check in result.Checks)
        {
            writer.WriteStartObject();
            writer.WriteString("name", check.Name);
            writer.WriteBoolean("passed", check.Passed);
            writer.WriteString("detail", check.Detail);
            writer.WriteEndObject();
        }

        writer.WriteEndArray();
        WriteTexts(writer, "commands", result.CommandLines);
        writer.WriteEndObject();
    }

    private static void WriteOptions(Utf8JsonWriter writer, DemoOptions options)
    {
        writer.WriteStartObject("options");
        writer.WriteNumber("memory", options.Memory);
        writer.WriteNumber("run-for-ms", (long)options.RunFor.TotalMilliseconds);
        writer.WriteNumber("dirty-rate", options.DirtyRate);
        writer.WriteNumber("churn", options.Churn);
        writer.WriteNumber("queue-depth", options.QueueDepth);
        writer.WriteString("iommu", options.Iommu.ToString());
        writer.WriteNumber("aw-bits", options.Iommu.Intel.AddressWidth);
        writer.WriteNumber("vcpus", options.Vcpus);
        writer.WriteNumber("domain-switches", options.DomainSwitches);
        writer.WriteString("guest-tables", options.GuestTables);
        writer.WriteNumber("downtime-limit-ms", (long)options.DowntimeLimit.TotalMilliseconds);
        writer.WriteNumber("bandwidth", options.Bandwidth);
        writer.WriteNumber("log-ranges", options.LogRanges);
        writer.WriteNumber("log-span-max", options.LogSpanMax);
        writer.WriteString("transport", options.Transport.ToString().ToLowerInvariant());
        writer.WriteNumber("seed", options.Seed);
        writer.WriteEndObject();
    }

    private static void WriteParts(Utf8JsonWriter writer, string name, IReadOnlyList<KeyValuePair<string, TimeSpan>> parts)
    {
        writer.WriteStartObject(name);
        foreach ((string part, TimeSpan time) in parts)
        {
            writer.WriteNumber(part, Microseconds(time));
        }

        writer.WriteEndObject();
    }

    private static void WriteMigration(Utf8JsonWriter writer, DemoResult result)
    {
        MigrationView migration = result.Switch.Migration;
        writer.WriteStartObject("migration");
        writer.WriteString("status", migration.Status);
        if (migration.Error is not null)
        {
            writer.WriteString("error", migration.Error);
        }

        writer.WriteNumber("total-time-ms", (long)migration.TotalTime.TotalMilliseconds);
        writer.WriteNumber("downtime-us", Microseconds(migration.Downtime ?? default));
        WriteParts(writer, "downtime-parts-us", migration.DowntimeParts);
        WriteParts(writer, "expected-downtime-parts-us", migration.ExpectedParts);
        writer.WriteNumber("verification-us", Microseconds(migration.Verification));
        writer.WriteStartObject("bytes");
        writer.WriteNumber("ram", migration.RamTransferred);
        writer.WriteNumber("device-state", migration.DeviceStateBytes);
        writer.WriteNumber("machine-state", migration.MachineStateBytes);
        writer.WriteNumber("overhead", migration.OverheadBytes);
        writer.WriteEndObject();
        writer.WriteNumber("normal-pages", migration.NormalPages);
        writer.WriteNumber("zero-pages", migration.ZeroPages);
        writer.WriteNumber("rounds", migration.Rounds);
        writer.WriteNumber("log-reports", migration.LogReports);
        writer.WriteNumber("log-rearms", result.Tracking.Sum(device => device.Rearms));
        writer.WriteNumber("uncovered-pages-at-worst", migration.UncoveredPages);
        writer.WriteNumber("mappings-live", migration.MappingsLive);
        writer.WriteNumber("mapping-changes", result.MappingChanges);
        writer.WriteNumber("pages-compared", migration.PagesCompared ?? 0);
        writer.WriteNumber("pages-differing", migration.PagesDiffering);
        WriteTexts(writer, "first-differences", migration.FirstDifferences);
        writer.WriteEndObject();
    }

    private static void WriteGuest(Utf8JsonWriter writer, string name, GuestView guest)
    {
        writer.WriteStartObject(name);
        writer.WriteNumber("io", guest.Io);
        writer.WriteNumber("reads", guest.Reads);
        writer.WriteNumber("writes", guest.Writes);
        writer.WriteNumber("other", guest.OtherCommands);
        writer.WriteNumber("blocks-verified", guest.BlocksVerified);
        writer.WriteNumber("mismatches", guest.Mismatches);
        writer.WriteNumber("maps", guest.Maps);
        writer.WriteNumber("unmaps", guest.Unmaps);
        writer.WriteNumber("interrupts", guest.Interrupts);
        writer.WriteNumber("remote-interrupts", guest.RemoteInterrupts);
        writer.WriteNumber("cpu-pages-dirtied", guest.CpuPagesDirtied);
        writer.WriteNumber("iommu-faults", guest.IommuFaults);
        writer.WriteNumber("domain-switches", guest.DomainSwitches);
        writer.WriteEndObject();
    }

    private static void WriteTexts(Utf8JsonWriter writer, string name, IReadOnlyList<string> texts)
    {
        writer.WriteStartArray(name);
        foreach (string text in texts)
        {
            writer.WriteStringValue(text);
        }

        writer.WriteEndArray();
    }

    private static long Microseconds(TimeSpan time) => time.Ticks / TimeSpan.TicksPerMicrosecond;
}
