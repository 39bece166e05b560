using Godwit.Memory;

namespace Godwit.Pci;

/// <summary>Kinds of base address register (PCI Local Bus 3.0, 6.2.5.1).</summary>
public enum BarKind
{
    /// <summary>32-bit memory.</summary>
    Memory32,

    /// <summary>64-bit memory, takes two registers.</summary>
    Memory64,
}

/// <summary>
/// A PCI function: configuration space with write masks, BARs that appear in system memory where and when the guest programs them,
/// capabilities, bus mastering. Derive for devices.
/// </summary>
public abstract class PciFunction
{
    /// <summary>Creates a function with 4096 bytes of configuration space.</summary>
    protected PciFunction(string name) => throw new NotImplementedException();

    /// <summary>Id in the machine, for example <c>nvme0</c>.</summary>
    public string Name => throw new NotImplementedException();

    /// <summary>The bus it is plugged into. Throws <see cref="InvalidOperationException"/> before.</summary>
    public PciBus Bus => throw new NotImplementedException();

    /// <summary>Its slot.</summary>
    public DevFn DevFn => throw new NotImplementedException();

    /// <summary>Configuration registers.</summary>
    public ConfigSpace Config => throw new NotImplementedException();

    /// <summary>
    /// The id its DMA carries at the root, computed from the bus numbers now and aliased through conventional bridges
    /// (PCI Express to PCI/PCI-X Bridge 1.0, 2.3).
    /// </summary>
    public RequesterId RequesterId => throw new NotImplementedException();

    /// <summary>The space its DMA goes through: the vIOMMU's space for it, or system memory. Bus mastering is not considered.</summary>
    public AddressSpace DmaSpace => throw new NotImplementedException();

    /// <summary>The same behind the Bus Master bit: accesses hit nothing while it is clear.</summary>
    public AddressSpace BusMasterSpace => throw new NotImplementedException();

    /// <summary>Properties of the vIOMMU in front of it, or null when there is none or the root bus bypasses it.</summary>
    public IommuAttributes? IommuAttributes => throw new NotImplementedException();

    /// <summary>Called when it has been plugged and its bus, IOMMU and slot are known.</summary>
    protected virtual void OnAttached() { }

    /// <summary>Reads configuration (size 1, 2 or 4, offset aligned).</summary>
    public virtual uint ReadConfig(int offset, int size) => throw new NotImplementedException();

    /// <summary>Writes configuration through the masks, then applies BAR moves and command bits.</summary>
    public virtual void WriteConfig(int offset, uint value, int size) => throw new NotImplementedException();

    /// <summary>Declares BAR <paramref name="index"/> (0-5). The region appears while Memory Space is enabled and the BAR is programmed.</summary>
    protected void SetBar(int index, BarKind kind, bool prefetchable, MemoryRegion region) => throw new NotImplementedException();

    /// <summary>Power-on values; BARs unmapped, bus mastering off.</summary>
    public virtual void Reset() => throw new NotImplementedException();

    /// <summary>Saves configuration space (and MSI-X) for the migration stream.</summary>
    public virtual void SaveState(IBufferWriterState writer) => throw new NotImplementedException();

    /// <summary>Loads it: read-only bytes must be equal, then BARs, command and MSI-X take effect.</summary>
    public virtual void LoadState(ReadOnlySpan<byte> state) => throw new NotImplementedException();
}

/// <summary>Placeholder removed by the PCI room: use <see cref="System.Buffers.IBufferWriter{T}"/> of byte.</summary>
public interface IBufferWriterState;

/// <summary>4096 bytes of registers with a write mask and a write-1-to-clear mask each.</summary>
public sealed class ConfigSpace
{
    internal ConfigSpace() { }

    /// <summary>Sets the value and masks of <paramref name="size"/> bytes at <paramref name="offset"/>.</summary>
    public void Define(int offset, int size, uint value, uint writable = 0, uint clearOnOne = 0) => throw new NotImplementedException();

    /// <summary>Appends a capability to the list at 0x34; returns its offset (PCI Local Bus 3.0, 6.7).</summary>
    public int AddCapability(byte id, int length, int? at = null) => throw new NotImplementedException();

    /// <summary>Raw bytes now.</summary>
    public ReadOnlySpan<byte> Bytes => throw new NotImplementedException();
}

/// <summary>A PCI-PCI bridge: type 1 header, bus numbers, a secondary bus.</summary>
public class PciBridge : PciFunction
{
    /// <summary>Creates a root port (PCI Express) or a PCIe-to-PCI bridge (conventional below).</summary>
    public PciBridge(string name, bool conventionalSecondary) : base(name) { }

    /// <summary>The bus below.</summary>
    public PciBus Secondary => throw new NotImplementedException();
}

/// <summary>The host bridge: root bus 0, ECAM window (PCI Express 5.0, 7.2.2), MMIO windows for BARs.</summary>
public sealed class PciHostBridge
{
    /// <summary>Creates the root complex. <paramref name="ecamBuses"/> x 1 MiB of ECAM.</summary>
    public PciHostBridge(MemoryTopology topology, Gpa ecamBase, int ecamBuses, bool bypassIommu = false) => throw new NotImplementedException();

    /// <summary>Bus 0.</summary>
    public PciBus RootBus => throw new NotImplementedException();

    /// <summary>Every function below, depth first.</summary>
    public IEnumerable<PciFunction> AllFunctions() => throw new NotImplementedException();
}

/// <summary>
/// MSI-X of a function: table and PBA in VMM memory, masks, pending bits. Sends by a 32-bit write to the message address in the
/// function's bus-master space with its requester id, so that a vIOMMU sees it (PCI Local Bus 3.0, 6.8.2).
/// </summary>
public sealed class MsixTable
{
    /// <summary>Creates <paramref name="vectors"/> masked entries.</summary>
    public MsixTable(PciFunction function, int vectors) => throw new NotImplementedException();

    /// <summary>Table registers, 16 bytes a vector, to be placed in a BAR.</summary>
    public MmioRegion TableRegion => throw new NotImplementedException();

    /// <summary>Pending bits, to be placed in a BAR.</summary>
    public MmioRegion PendingRegion => throw new NotImplementedException();

    /// <summary>MSI-X Enable of the capability, as last written.</summary>
    public bool Enabled => throw new NotImplementedException();

    /// <summary>Raises <paramref name="vector"/>: sent now, or pending while masked. Any thread.</summary>
    public void Raise(int vector) => throw new NotImplementedException();
}
