using System.Text.Json;
using Godwit.Iommu.Intel;
using Godwit.Migration;

namespace Godwit.Monitor;

/// <summary>
/// Writes the result of <c>query-migrate</c>: QEMU's members with QEMU's units (qapi MigrationInfo, MigrationStats, VfioStats), and what
/// only Godwit knows under <c>x-godwit</c>.
/// </summary>
internal static class MigrationStatusWriter
{
    private const int PageSize = 4096;

    /// <summary>Rounds listed: the first, which sends all of RAM, and the latest. A long minimum of pre-copy makes hundreds of small ones.</summary>
    private const int RoundsListed = 32;

    public static void Write(
        Utf8JsonWriter writer,
        MigrationStatus status,
        string? listeningAt,
        IReadOnlyList<MigrationBlocker> blockers,
        IReadOnlyList<MigrationBlocker> handoverBlockers,
        int devices,
        IommuChurn? churn)
    {
        writer.WriteStartObject();
        writer.WriteString("status", QmpNames.Of(status.State));
        if (status.State != MigrationState.None)
        {
            WriteTimes(writer, status);
            WriteRam(writer, status);
            if (devices > 0 && blockers.Count == 0)
            {
                writer.WriteStartObject("vfio");
                writer.WriteNumber("transferred", status.DeviceStateBytes);
                writer.WriteEndObject();
            }
        }

        if (status.Error is not null)
        {
            writer.WriteString("error-desc", status.Error);
        }

        WriteListening(writer, listeningAt);
        writer.WriteStartArray("blocked-reasons");
        foreach (MigrationBlocker blocker in blockers)
        {
            writer.WriteStringValue(blocker.ToString());
        }

        writer.WriteEndArray();
        WriteExtras(writer, status, listeningAt, blockers, handoverBlockers, churn);
        writer.WriteEndObject();
    }

    private static void WriteTimes(Utf8JsonWriter writer, MigrationStatus status)
    {
        writer.WriteNumber("total-time", Milliseconds(status.TotalTime));
        writer.WriteNumber("setup-time", Milliseconds(status.SetupTime));
        if (status.State is MigrationState.Active or MigrationState.Device && status.ExpectedDowntime is { } expected)
        {
            writer.WriteNumber("expected-downtime", Milliseconds(expected));
        }

        if (status.ThrottlePercent > 0)
        {
            writer.WriteNumber("cpu-throttle-percentage", status.ThrottlePercent);
        }

        if (status.Downtime is { } downtime)
        {
            writer.WriteNumber("downtime", Milliseconds(downtime.Total));
        }
    }

    private static void WriteRam(Utf8JsonWriter writer, MigrationStatus status)
    {
        writer.WriteStartObject("ram");
        writer.WriteNumber("transferred", status.RamTransferredBytes);
        writer.WriteNumber("remaining", status.RamRemainingBytes);
        writer.WriteNumber("total", status.RamTotalBytes);
        writer.WriteNumber("duplicate", status.ZeroPages);
        writer.WriteNumber("normal", status.NormalPages);
        writer.WriteNumber("normal-bytes", status.NormalPages * PageSize);
        writer.WriteNumber(
            "dirty-pages-rate",
            (long)(status.DirtyPagesPerSecondVcpu + status.DirtyPagesPerSecondDevice + status.DirtyPagesPerSecondVmm));
        writer.WriteNumber("mbps", Number(status.BytesPerSecond * 8 / 1_000_000));
        writer.WriteNumber("dirty-sync-count", status.Rounds.Count == 0 ? 0 : status.Rounds[^1].Number);
        writer.WriteNumber("page-size", PageSize);
        writer.WriteNumber("pages-per-second", (long)(status.BytesPerSecond / PageSize));
        writer.WriteEndObject();
    }

    /// <summary>Where a destination listens, in the shape of qapi SocketAddress.</summary>
    private static void WriteListening(Utf8JsonWriter writer, string? listeningAt)
    {
        // Only sockets have an address there; exec: and fd: are connections that exist already.
        bool unix = listeningAt?.StartsWith("unix:", StringComparison.Ordinal) == true;
        if (listeningAt is null || (!unix && !listeningAt.StartsWith("tcp:", StringComparison.Ordinal)))
        {
            return;
        }

        writer.WriteStartArray("socket-address");
        writer.WriteStartObject();
        if (unix)
        {
            writer.WriteString("type", "unix");
            writer.WriteString("path", listeningAt["unix:".Length..]);
        }
        else
        {
            string address = listeningAt["tcp:".Length..];
            int colon = address.LastIndexOf(':');
            writer.WriteString("type", "inet");
            writer.WriteString("host", address[..colon].Trim('[', ']'));
            writer.WriteString("port", address[(colon + 1)..]);
        }

        writer.WriteEndObject();
        writer.WriteEndArray();
    }

    private static void WriteExtras(
        Utf8JsonWriter writer,
        MigrationStatus status,
        string? listeningAt,
        IReadOnlyList<MigrationBlocker> blockers,
        IReadOnlyList<MigrationBlocker> handoverBlockers,
        IommuChurn? churn)
    {
        writer.WriteStartObject("x-godwit");
        writer.WriteBoolean("incoming", status.Incoming);
        if (listeningAt is not null)
        {
            writer.WriteString("listening-at", listeningAt);
        }

        writer.WriteNumber("downtime-limit", Milliseconds(status.DowntimeLimit));
        writer.WriteNumber("bytes-per-second", Number(status.BytesPerSecond));
        writer.WriteStartObject("dirty-pages-per-second");
        writer.WriteNumber("vcpu", Number(status.DirtyPagesPerSecondVcpu));
        writer.WriteNumber("device", Number(status.DirtyPagesPerSecondDevice));
        writer.WriteNumber("vmm", Number(status.DirtyPagesPerSecondVmm));
        writer.WriteEndObject();
        writer.WriteStartObject("convergence");
        writer.WriteBoolean("outpaced", status.Outlook.Outpaced);
        writer.WriteNumber("rounds-without-progress", status.Outlook.OutpacedRounds);
        writer.WriteString("obstacle", QmpNames.Of(status.Outlook.Obstacle));
        writer.WriteEndObject();
        writer.WriteStartObject("bytes");
        writer.WriteNumber("ram", status.RamTransferredBytes);
        writer.WriteNumber("ram-by-file", status.RamByFileBytes);
        writer.WriteNumber("device-state", status.DeviceStateBytes);
        writer.WriteNumber("machine-state", status.MachineStateBytes);
        writer.WriteNumber("overhead", status.OverheadBytes);
        writer.WriteEndObject();
        writer.WriteNumber("log-reports", status.LogReports);
        WriteMappings(writer, status, churn);
        writer.WriteStartObject("device-states");
        foreach ((string device, string state) in status.DeviceStates)
        {
            writer.WriteString(device, state);
        }

        writer.WriteEndObject();
        WriteExpected(writer, status.Expected);
        WriteDowntime(writer, status.Downtime);
        WriteVerification(writer, status.Verification);
        WriteRounds(writer, status.Rounds);
        WriteBlockers(writer, "blockers", blockers);
        WriteBlockers(writer, "handover-blockers", handoverBlockers);
        writer.WriteEndObject();
    }

    private static void WriteMappings(Utf8JsonWriter writer, MigrationStatus status, IommuChurn? churn)
    {
        writer.WriteStartObject("mappings");
        writer.WriteNumber("live", churn?.Live ?? status.MappingsLive);
        if (churn is { } counters)
        {
            writer.WriteNumber("mapped", counters.Mapped);
            writer.WriteNumber("unmapped", counters.Unmapped);
        }

        writer.WriteEndObject();
    }

    private static void WriteDowntime(Utf8JsonWriter writer, DowntimeParts? parts)
    {
        if (parts is null)
        {
            return;
        }

        writer.WriteStartObject("downtime-microseconds");
        writer.WriteNumber("stop-vcpus", Microseconds(parts.StopVcpus));
        writer.WriteNumber("stop-devices", Microseconds(parts.StopDevices));
        writer.WriteNumber("final-sync", Microseconds(parts.FinalSync));
        writer.WriteNumber("final-pages", Microseconds(parts.FinalPages));
        writer.WriteNumber("device-state", Microseconds(parts.DeviceState));
        writer.WriteNumber("machine-state", Microseconds(parts.MachineState));
        writer.WriteNumber("load", Microseconds(parts.Load));
        writer.WriteNumber("commit", Microseconds(parts.Commit));
        writer.WriteNumber("start", Microseconds(parts.Start));
        writer.WriteNumber("total", Microseconds(parts.Total));
        writer.WriteEndObject();
        writer.WriteNumber("verification-microseconds", Microseconds(parts.Verification));
        writer.WriteNumber("pause-microseconds", Microseconds(parts.Pause));
    }

    /// <summary>The parts of the downtime as they were expected last, also when it is over.</summary>
    private static void WriteExpected(Utf8JsonWriter writer, in DowntimeEstimate expected)
    {
        if (expected.Total == TimeSpan.Zero)
        {
            return;
        }

        writer.WriteStartObject("expected-downtime-microseconds");
        writer.WriteNumber("stop", Microseconds(expected.Stop));
        writer.WriteNumber("last-report", Microseconds(expected.LastReport));
        writer.WriteNumber("pages", Microseconds(expected.Pages));
        writer.WriteNumber("state", Microseconds(expected.State));
        writer.WriteNumber("load", Microseconds(expected.Load));
        writer.WriteNumber("commit", Microseconds(expected.Commit));
        writer.WriteNumber("start", Microseconds(expected.Start));
        writer.WriteNumber("total", Microseconds(expected.Total));
        writer.WriteEndObject();
    }

    private static void WriteVerification(Utf8JsonWriter writer, PageVerification? verification)
    {
        if (verification is null)
        {
            return;
        }

        writer.WriteStartObject("verification");
        writer.WriteNumber("pages-compared", verification.PagesCompared);
        writer.WriteNumber("pages-differing", verification.PagesDiffering);
        writer.WriteStartArray("first-differences");
        foreach (string page in verification.FirstDifferences)
        {
            writer.WriteStringValue(page);
        }

        writer.WriteEndArray();
        writer.WriteEndObject();
    }

    private static void WriteRounds(Utf8JsonWriter writer, IReadOnlyList<MigrationRound> rounds)
    {
        writer.WriteStartArray("rounds");
        foreach (MigrationRound round in rounds.Take(1).Concat(rounds.Skip(1).TakeLast(RoundsListed - 1)))
        {
            writer.WriteStartObject();
            writer.WriteNumber("number", round.Number);
            writer.WriteNumber("duration-microseconds", Microseconds(round.Duration));
            writer.WriteNumber("pages", round.PagesSent);
            writer.WriteNumber("zero-pages", round.ZeroPages);
            writer.WriteNumber("bytes", round.BytesSent);
            writer.WriteNumber("dirty-vcpu", round.DirtyPagesVcpu);
            writer.WriteNumber("dirty-device", round.DirtyPagesDevice);
            writer.WriteNumber("dirty-vmm", round.DirtyPagesVmm);
            writer.WriteNumber("log-reports", round.LogReports);
            writer.WriteNumber("remaining-pages", round.RemainingPages);
            writer.WriteNumber("uncovered-pages", round.UncoveredPages);
            writer.WriteNumber("unharvested-pages", round.UnharvestedPages);
            writer.WriteNumber("device-bytes", round.DeviceBytes);
            writer.WriteNumber("switchover-microseconds", Microseconds(round.SwitchoverTime));
            writer.WriteNumber("load-microseconds", Microseconds(round.DestinationLoadTime));
            writer.WriteNumber("start-microseconds", Microseconds(round.DestinationStartTime));
            writer.WriteNumber("bytes-per-second", Number(round.BytesPerSecond));
            writer.WriteNumber("link-bytes-per-second", Number(round.LinkBytesPerSecond));
            writer.WriteNumber("expected-downtime-microseconds", Microseconds(round.ExpectedDowntime));
            writer.WriteNumber("downtime-limit", Milliseconds(round.DowntimeLimit));
            writer.WriteNumber("cpu-throttle-percentage", round.ThrottlePercent);
            writer.WriteEndObject();
        }

        writer.WriteEndArray();
    }

    private static void WriteBlockers(Utf8JsonWriter writer, string name, IReadOnlyList<MigrationBlocker> blockers)
    {
        writer.WriteStartArray(name);
        foreach (MigrationBlocker blocker in blockers)
        {
            writer.WriteStartObject();
            writer.WriteString("code", blocker.Code);
            writer.WriteString("subject", blocker.Subject);
            writer.WriteString("reason", blocker.Reason);
            writer.WriteString("way-out", blocker.WayOut);
            writer.WriteEndObject();
        }

        writer.WriteEndArray();
    }

    /// <summary>JSON has no infinities, which a rate over no time would be.</summary>
    private static double Number(double value) => double.IsFinite(value) ? Math.Round(value, 3) : 0;

    private static long Milliseconds(TimeSpan time) => (long)Math.Min(time.TotalMilliseconds, long.MaxValue);

    private static long Microseconds(TimeSpan time) => time.Ticks / TimeSpan.TicksPerMicrosecond;
}
