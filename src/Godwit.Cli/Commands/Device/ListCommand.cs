using System.CommandLine;
using System.Text;
using System.Text.Json;
using Godwit.Vfio;
using Godwit.VfioUser;

namespace Godwit.Cli;

/// <summary><c>godwit device list</c>: PCI devices of this host, and what stands between them and a machine.</summary>
internal static class ListCommand
{
    public static DocumentedCommand Create()
    {
        Option<bool> json = CommonOptions.Json();
        var command = new DocumentedCommand(
            "list",
            "Show the PCI devices of this host, what they offer a machine, and what to do next to use one.",
            static () =>
            """
            A device that is bound to vfio-pci or a variant of it, and that nobody uses, is opened for a moment to ask it, which resets it.

            migration  what the driver offers to save the device's state: stop-copy, p2p, pre-copy
            dma log    the device logs the memory it writes; 'host' when the host's IOMMU does it instead
            vIOMMU     widest --aw-bits that the host's IOMMU can follow for this device

            Example: godwit device list
            """)
        {
            json,
        };
        command.SetAction(parsed =>
        {
            IReadOnlyList<HostDeviceReport> devices = HostDeviceSurvey.All();
            Console.Write(parsed.GetValue(json) ? Json(devices) : Text(devices));
            return ExitCodes.Ok;
        });
        return command;
    }

    /// <summary>A table, and below it what to do for each device.</summary>
    internal static string Text(IReadOnlyList<HostDeviceReport> devices)
    {
        if (devices.Count == 0)
            return "This host shows no PCI devices.\n";
        var text = new StringBuilder();
        List<string[]> rows = [["device", "id", "class", "driver", "group", "migration", "dma log", "vIOMMU"], .. devices.Select(Row)];
        int[] widths = [.. Enumerable.Range(0, rows[0].Length).Select(column => rows.Max(row => row[column].Length))];
        foreach (string[] row in rows)
            text.AppendLine(string.Join("  ", row.Select((cell, column) => cell.PadRight(widths[column]))).TrimEnd());
        text.AppendLine();
        foreach (HostDeviceReport device in devices)
        {
            text.AppendLine($"{device.Device.Address}:");
            foreach (string line in device.Next)
                text.AppendLine($"  {line}");
        }

        return text.ToString();
    }

    /// <summary>The same as one JSON object.</summary>
    internal static string Json(IReadOnlyList<HostDeviceReport> devices)
    {
        using var stream = new MemoryStream();
        using (var writer = new Utf8JsonWriter(stream))
        {
            writer.WriteStartObject();
            writer.WriteStartArray("devices");
            foreach (HostDeviceReport device in devices)
                Write(writer, device);
            writer.WriteEndArray();
            writer.WriteEndObject();
        }

        return Encoding.UTF8.GetString(stream.ToArray()) + "\n";
    }

    private static string[] Row(HostDeviceReport device) =>
    [
        device.Device.Address.ToString(),
        $"{device.Device.Vendor:x4}:{device.Device.Device:x4}",
        $"{device.Device.ClassCode:x6}",
        device.Device.Driver ?? "-",
        device.Device.IommuGroup is { } group ? $"{group}{(device.InTheWay.Count > 0 ? " (shared)" : "")}" : "-",
        device.Facts is { } facts ? Migration(facts.Migration) : "?",
        device.Facts is { } log ? log.LogsDma ? "device" : log.HostTracksDirty ? "host" : "no" : "?",
        device.Facts is { } reach ? reach.WidestIommu is { } bits ? $"{bits} bits" : "none" : "?",
    ];

    private static string Migration(MigrationSupport support)
    {
        List<string> offered = [];
        if (support.HasFlag(MigrationSupport.StopCopy))
            offered.Add("stop-copy");
        if (support.HasFlag(MigrationSupport.P2P))
            offered.Add("p2p");
        if (support.HasFlag(MigrationSupport.PreCopy))
            offered.Add("pre-copy");
        return offered.Count == 0 ? "no" : string.Join('+', offered);
    }

    private static void Write(Utf8JsonWriter writer, HostDeviceReport report)
    {
        writer.WriteStartObject();
        writer.WriteString("address", report.Device.Address.ToString());
        writer.WriteString("id", $"{report.Device.Vendor:x4}:{report.Device.Device:x4}");
        writer.WriteString("class", $"{report.Device.ClassCode:x6}");
        writer.WriteString("driver", report.Device.Driver);
        if (report.Device.IommuGroup is { } group)
            writer.WriteNumber("iommu-group", group);
        if (report.Facts is { } facts)
        {
            writer.WriteString("host-iommu", facts.Interface == HostIommuKind.Iommufd ? "iommufd" : "type1");
            writer.WriteString("migration", Migration(facts.Migration));
            writer.WriteBoolean("dma-log", facts.LogsDma);
            writer.WriteBoolean("host-dirty-tracking", facts.HostTracksDirty);
            writer.WriteBoolean("reset", facts.CanReset);
            if (facts.WidestIommu is { } bits)
                writer.WriteNumber("widest-viommu-bits", bits);
        }
        else
        {
            writer.WriteString("not-opened", report.NotOpened);
        }

        writer.WriteStartArray("next");
        foreach (string line in report.Next)
            writer.WriteStringValue(line);
        writer.WriteEndArray();
        writer.WriteEndObject();
    }
}
