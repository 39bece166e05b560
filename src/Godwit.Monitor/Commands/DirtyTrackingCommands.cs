using System.Text.Json;
using Godwit.Machine;
using Godwit.Vfio;

namespace Godwit.Monitor;

/// <summary>The command that explains how devices' writes are followed.</summary>
internal sealed class DirtyTrackingCommands(VirtualMachine machine)
{
    public void AddTo(QmpCommandTable commands) => commands.Add("x-godwit-query-dirty", QueryDirty);

    private void QueryDirty(QmpArguments arguments, Utf8JsonWriter result)
    {
        result.WriteStartArray();
        foreach (VfioPciFunction device in machine.Devices)
        {
            Write(device.DirtyTracking, result);
        }

        result.WriteEndArray();
    }

    private static void Write(DirtyTrackingReport report, Utf8JsonWriter result)
    {
        result.WriteStartObject();
        result.WriteString("device", report.Device);
        result.WriteString("mode", QmpNames.Of(report.Mode));
        result.WriteString("source", QmpNames.Of(report.Source));
        result.WriteBoolean("active", report.Active);
        WriteCoverage(report, result);
        if (report.Limits is { } limits)
        {
            WriteLimits(limits, result);
        }

        result.WriteNumber("uncovered-pages", report.UncoveredPages);
        result.WriteNumber("rearms", report.Rearms);
        result.WriteNumber("syncs", report.Syncs);
        result.WriteNumber("sync-microseconds", (long)report.TimeInSyncs.TotalMicroseconds);
        result.WriteNumber("reports", report.Reports);
        result.WriteNumber("bits-asked", report.BitsAsked);
        result.WriteNumber("pages-reported", report.PagesReported);
        result.WriteNumber("harvests", report.Harvests);
        result.WriteNumber("harvests-pending", report.HarvestsPending);
        result.WriteEndObject();
    }

    private static void WriteCoverage(DirtyTrackingReport report, Utf8JsonWriter result)
    {
        result.WriteStartObject("coverage");
        result.WriteString("text", report.Coverage);
        result.WriteBoolean("by-use", report.ByUse);
        result.WriteNumber("ranges", report.CoveredRanges);
        result.WriteNumber("bytes", report.CoveredBytes);
        if (report.BudgetUsed is { } used)
        {
            result.WriteNumber("budget-used", Math.Round(used, 4));
        }

        result.WriteEndObject();
    }

    private static void WriteLimits(DeviceLogLimits limits, Utf8JsonWriter result)
    {
        result.WriteStartObject("limits");
        result.WriteString("text", limits.ToString());
        result.WriteBoolean("takes-anything", limits.TakesAnything);
        result.WriteBoolean("takes-whole-aperture", limits.TakesWholeAperture);
        result.WriteNumber("page-bytes", limits.PageBytes);
        if (limits is { TakesAnything: true, TakesWholeAperture: false })
        {
            result.WriteNumber("max-ranges", limits.MaxRanges);
            result.WriteNumber("min-span", limits.MinSpanBytes);
            result.WriteNumber("max-span", limits.MaxSpanBytes);
            result.WriteBoolean("span-includes-gaps", limits.SpanIncludesGaps);
        }

        if (limits.Refusal is not null)
        {
            result.WriteString("refusal", limits.Refusal);
        }

        result.WriteEndObject();
    }
}
