using System.Globalization;
using Godwit.Migration;
using Godwit.Pci;
using Godwit.Vfio;

namespace Godwit.Machine.State;

/// <summary>What both sides of a migration must share, as text.</summary>
internal static class MachineDescriber
{
    public static MachineDescription Describe(Board board, IReadOnlyList<IVcpu> vcpus)
    {
        MachineConfig config = board.Config;
        var entries = new List<KeyValuePair<string, string>>();
        void Add(string name, string value) => entries.Add(new(name, value));
        void AddNumber(string name, ulong value) => Add(name, value.ToString(CultureInfo.InvariantCulture));

        Add("board.model", "godwit-1");
        AddNumber("board.ram.low", board.Layout.LowRamSize);
        AddNumber("board.ram.high", board.Layout.HighRamSize);
        Add("board.ecam", $"0x{BoardLayout.EcamBase.Value:x}");
        Add("board.mmio", $"0x{BoardLayout.MmioBase.Value:x}+0x{BoardLayout.MmioSize:x}");
        foreach (Memory.RamBlock block in board.Ram.Blocks)
            AddNumber($"ram.{block.Name}.size", block.Size);
        AddNumber("cpu.count", (ulong)vcpus.Count);
        Add("cpu.model", "managed-1");

        Add("guest.name", config.Guest);
        foreach ((string name, string value) in GuestPrograms.Resolve(config.Guest, config.GuestOptions))
            Add($"guest.{name}", value);

        Add("iommu", config.Iommu == IommuKind.Intel ? "intel" : "none");
        if (config.Iommu == IommuKind.Intel)
        {
            AddNumber("iommu.aw-bits", (ulong)config.Intel.AddressWidth);
            void AddSwitch(string name, bool on) => Add($"iommu.{name}", on ? "on" : "off");
            AddSwitch("caching-mode", config.Intel.CachingMode);
            AddSwitch("intremap", config.Intel.InterruptRemapping);
            AddSwitch("eim", config.Intel.ExtendedInterruptMode);
            AddSwitch("dma-translation", config.Intel.DmaTranslation);
            AddSwitch("pt", config.Intel.PassThrough);
            AddSwitch("device-iotlb", config.Intel.DeviceIotlb);
            AddSwitch("scalable-mode", config.Intel.ScalableMode);
            AddSwitch("first-stage", config.Intel.FirstStage);
            AddSwitch("snoop-control", config.Intel.SnoopControl);
        }

        foreach (PciBusInfo bus in board.Pci.Describe())
            AddFunctions(entries, bus);
        foreach (VfioPciFunction device in board.Devices)
            entries.AddRange(device.Describe());
        return new MachineDescription(entries);
    }

    /// <summary>By <see cref="PciFunctionInfo.Path"/>: bus numbers are the guest's, and not known on the other side yet.</summary>
    private static void AddFunctions(List<KeyValuePair<string, string>> entries, PciBusInfo bus)
    {
        foreach (PciFunctionInfo function in bus.Functions)
        {
            string name = $"pci.{function.Path}";
            entries.Add(new($"{name}.name", function.Name));
            entries.Add(new($"{name}.id", $"{function.VendorId:x4}:{function.DeviceId:x4}"));
            entries.Add(new($"{name}.subsystem", $"{function.SubsystemVendorId:x4}:{function.SubsystemId:x4}"));
            entries.Add(new($"{name}.class", $"{function.ClassCode:x6}"));
            foreach (PciBarInfo bar in function.Bars)
                entries.Add(new($"{name}.bar{bar.Index}", $"{bar.Kind} 0x{bar.Size:x}"));
            if (function.Bridge is { } bridge)
                AddFunctions(entries, bridge.Below);
        }
    }
}
