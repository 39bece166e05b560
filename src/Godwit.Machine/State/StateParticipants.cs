using System.Buffers;
using Godwit.Iommu.Intel;
using Godwit.Migration;
using Godwit.Pci;

namespace Godwit.Machine.State;

/// <summary>Names of the pieces of machine state in the migration stream, and their order.</summary>
internal static class StateParticipants
{
    /// <summary>
    /// In load order: bridges, because the vIOMMU finds its tables by their bus numbers; then the vIOMMU, whose load maps the devices' memory
    /// from tables in RAM; then functions; then vCPUs; and the I/O APIC last, which until then is as after reset and sends nothing: a message to
    /// a vCPU whose state comes afterwards would be lost, and its end never be told.
    /// </summary>
    public static IReadOnlyList<IStateParticipant> For(Board board, IReadOnlyList<IVcpu> vcpus)
    {
        var result = new List<IStateParticipant>();
        PciFunction[] functions = [.. board.Pci.AllFunctions()];
        result.AddRange(functions.Where(f => f is PciBridge).Select(f => new PciFunctionState(f)));
        if (board.Iommu is { } iommu)
            result.Add(new IommuState(iommu));
        result.AddRange(functions.Where(f => f is not PciBridge).Select(f => new PciFunctionState(f)));
        result.Add(new PlatformState("power", board.Power.Save, board.Power.Load));
        result.AddRange(vcpus.Select(v => new VcpuState(v)));
        result.Add(new PlatformState("ioapic", board.IoApic.Save, state => LoadIoApic(board, state)));
        return result;
    }

    /// <summary>A pin that was high on the source, and is not here, falls when its interrupt has been handled.</summary>
    private static void LoadIoApic(Board board, ReadOnlySpan<byte> state)
    {
        board.IoApic.Load(state);
        board.Pci.RaiseInputs();
    }

    /// <summary>
    /// Where a function is plugged, by slots from the root: bus numbers are the guest's to change, and the destination does not know them
    /// before it has loaded them.
    /// </summary>
    private static string PathOf(PciFunction function) => function.Bus.ParentBridge is { } bridge
        ? $"{PathOf(bridge)}/{function.DevFn}"
        : $"{function.Bus.Number:x2}/{function.DevFn}";

    /// <summary>Refuses versions of a format that has had one only.</summary>
    private static void RequireFirst(string id, int version)
    {
        if (version != 1)
            throw new InvalidDataException($"State '{id}' has version {version}; this build reads version 1.");
    }

    private sealed class PciFunctionState(PciFunction function) : IStateParticipant
    {
        public string Id { get; } = $"pci/{PathOf(function)}";

        public int Version => 1;

        // A bridge is the VMM's own, and the vIOMMU needs its bus numbers. Other functions may have a device behind them, which is not to be
        // told of another's configuration before its state has come.
        public bool LoadsAhead => function is PciBridge;

        public void Save(IBufferWriter<byte> writer) => function.SaveState(writer);

        public void Load(int version, ReadOnlySpan<byte> state)
        {
            RequireFirst(Id, version);
            function.LoadState(state);
        }
    }

    private sealed class PlatformState(string id, Action<IBufferWriter<byte>> save, Action<ReadOnlySpan<byte>> load) : IStateParticipant
    {
        public string Id => id;

        public int Version => 1;

        public void Save(IBufferWriter<byte> writer) => save(writer);

        public void Load(int version, ReadOnlySpan<byte> state)
        {
            RequireFirst(Id, version);
            load(state);
        }
    }

    private sealed class IommuState(IntelIommu iommu) : IStateParticipant
    {
        public string Id => "iommu";

        public int Version => 1;

        // What takes time is to walk the guest's tables and to install their mappings in the devices; a load compares with what is installed.
        // Within a round the destination has pages of different times: what marks table entries would write into what is no table any more.
        public bool LoadsAhead => !iommu.Options.HasFirstStage;

        public void Save(IBufferWriter<byte> writer) => iommu.SaveState(writer);

        public void Load(int version, ReadOnlySpan<byte> state)
        {
            RequireFirst(Id, version);
            iommu.LoadState(state);
        }
    }

    private sealed class VcpuState(IVcpu vcpu) : IStateParticipant
    {
        public string Id { get; } = $"cpu/{vcpu.ApicId}";

        public int Version => vcpu.StateVersion;

        public void Save(IBufferWriter<byte> writer) => vcpu.Save(writer);

        public void Load(int version, ReadOnlySpan<byte> state) => vcpu.Load(version, state);
    }
}
