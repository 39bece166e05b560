using System.Buffers.Binary;
using System.Text.Json;
using Godwit.Machine;
using Godwit.Migration;
using Godwit.Pci;
using Godwit.Vfio;

namespace Godwit.Monitor;

/// <summary>Commands that show what is plugged in.</summary>
internal sealed class DeviceCommands(VirtualMachine machine)
{
    // Offsets in the type 0 and type 1 configuration headers (PCI Local Bus 3.0, 6.1; PCI-PCI Bridge 1.2, 3.2).
    private const int VendorId = 0x00;
    private const int DeviceId = 0x02;
    private const int ClassCode = 0x0a;
    private const int HeaderType = 0x0e;
    private const int FirstBar = 0x10;
    private const int SubsystemVendorId = 0x2c;
    private const int SubsystemId = 0x2e;
    private const int InterruptLine = 0x3c;
    private const int InterruptPin = 0x3d;
    private const int Bars = 6;

    public void AddTo(QmpCommandTable commands)
    {
        commands.Add("query-pci", QueryPci);

        // Blocking: it asks each device how much state it has.
        commands.AddBlocking("x-query-devices", QueryDevices);
    }

    private void QueryPci(QmpArguments arguments, Utf8JsonWriter result)
    {
        result.WriteStartArray();
        foreach (IGrouping<byte, PciFunction> bus in machine.Pci.AllFunctions().GroupBy(function => function.Bus.Number).OrderBy(bus => bus.Key))
        {
            result.WriteStartObject();
            result.WriteNumber("bus", bus.Key);
            result.WriteStartArray("devices");
            foreach (PciFunction function in bus.OrderBy(function => function.DevFn.Value))
            {
                WriteFunction(function, result);
            }

            result.WriteEndArray();
            result.WriteEndObject();
        }

        result.WriteEndArray();
    }

    private static void WriteFunction(PciFunction function, Utf8JsonWriter result)
    {
        // A copy: the guest may write configuration space while it is printed.
        byte[] config = function.Config.Bytes[..64].ToArray();
        bool bridge = (config[HeaderType] & 0x7f) == 1;
        result.WriteStartObject();
        result.WriteNumber("bus", function.Bus.Number);
        result.WriteNumber("slot", function.DevFn.Device);
        result.WriteNumber("function", function.DevFn.Function);
        result.WriteStartObject("class_info");
        result.WriteNumber("class", Word(config, ClassCode));
        result.WriteEndObject();
        result.WriteStartObject("id");
        result.WriteNumber("vendor", Word(config, VendorId));
        result.WriteNumber("device", Word(config, DeviceId));
        if (!bridge)
        {
            result.WriteNumber("subsystem-vendor", Word(config, SubsystemVendorId));
            result.WriteNumber("subsystem", Word(config, SubsystemId));
        }

        result.WriteEndObject();
        result.WriteNumber("irq", config[InterruptLine]);
        result.WriteNumber("irq_pin", config[InterruptPin]);
        result.WriteString("qdev_id", function.Name);
        WriteRegions(config, bridge ? 2 : Bars, result);
        result.WriteEndObject();
    }

    private static void WriteRegions(ReadOnlySpan<byte> config, int bars, Utf8JsonWriter result)
    {
        result.WriteStartArray("regions");
        for (int bar = 0; bar < bars; bar++)
        {
            // Memory BARs: bit 0 clear, bits 2:1 = 2 for 64-bit, bit 3 prefetchable (PCI Local Bus 3.0, 6.2.5.1).
            uint low = BinaryPrimitives.ReadUInt32LittleEndian(config[(FirstBar + (bar * 4))..]);
            bool wide = (low & 0x7) == 0x4 && bar + 1 < bars;
            ulong address = low & ~0xFu;
            if (wide)
            {
                address |= (ulong)BinaryPrimitives.ReadUInt32LittleEndian(config[(FirstBar + (bar * 4) + 4)..]) << 32;
            }

            if (low != 0 || address != 0)
            {
                result.WriteStartObject();
                result.WriteNumber("bar", bar);
                result.WriteString("type", "memory");
                result.WriteNumber("address", address);
                result.WriteBoolean("prefetch", (low & 8) != 0);
                result.WriteBoolean("mem_type_64", wide);
                result.WriteEndObject();
            }

            bar += wide ? 1 : 0;
        }

        result.WriteEndArray();
    }

    private void QueryDevices(QmpArguments arguments, Utf8JsonWriter result)
    {
        result.WriteStartArray();
        foreach (VfioPciFunction device in machine.Devices)
        {
            WriteDevice(device, machine.Devices.Count, result);
        }

        result.WriteEndArray();
    }

    private static void WriteDevice(VfioPciFunction device, int devices, Utf8JsonWriter result)
    {
        VfioDeviceStatistics counters = device.Statistics;
        result.WriteStartObject();
        result.WriteString("id", device.Id);
        result.WriteString("address", $"{device.Bus.Number:x2}:{device.DevFn}");
        result.WriteString("state", device.StateName);
        if (device.Lost.IsCompletedSuccessfully)
        {
            result.WriteString("lost", device.Lost.Result);
        }
        else if (device.PendingBytes is { } pending)
        {
            result.WriteNumber("pending-bytes", pending);
        }

        result.WriteNumber("mappings-live", counters.MappingsLive);
        result.WriteNumber("mapped", counters.Mapped);
        result.WriteNumber("unmapped", counters.Unmapped);
        result.WriteNumber("log-reports", counters.LogReports);
        result.WriteNumber("pages-reported", counters.PagesReported);
        result.WriteNumber("unmap-harvests", counters.UnmapHarvests);
        result.WriteNumber("interrupts", counters.Interrupts);
        result.WriteStartArray("blockers");
        foreach (MigrationBlocker blocker in device.QueryBlockers(devices))
        {
            result.WriteStringValue(blocker.ToString());
        }

        result.WriteEndArray();
        result.WriteEndObject();
    }

    private static ushort Word(ReadOnlySpan<byte> config, int offset) => BinaryPrimitives.ReadUInt16LittleEndian(config[offset..]);
}
