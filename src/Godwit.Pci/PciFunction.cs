using System.Buffers.Binary;
using Godwit.Memory;
using Godwit.Pci.Spec;

namespace Godwit.Pci;

/// <summary>
/// A PCI function: configuration space with write masks, BARs that appear in system memory where and when the guest programs them,
/// capabilities, bus mastering. Derive for devices. Construction and plugging belong to the thread that builds the machine; the rest may
/// be called from any thread.
/// </summary>
/// <remarks>Lock order: a function's configuration lock comes before the topology lock. Reads of configuration take neither.</remarks>
public abstract partial class PciFunction
{
    private readonly Lock _configWrite = new();
    private PciBus? _bus;
    private DmaSpaces? _spaces;

    /// <summary>Creates a function with 4096 bytes of configuration space.</summary>
    /// <exception cref="ArgumentException">No name.</exception>
    protected PciFunction(string name)
    {
        ArgumentException.ThrowIfNullOrEmpty(name);
        Name = name;
        Config = new ConfigSpace();
        Config.Define(ConfigOffset.Command, 2, 0, ConfigBits.CommandWritable);
        Config.Define(ConfigOffset.Status, 2, 0, 0, ConfigBits.StatusErrors);
        Config.Define(ConfigOffset.CacheLineSize, 1, 0, 0xFF);
        Config.Define(ConfigOffset.InterruptLine, 1, 0, 0xFF);
    }

    /// <summary>Id in the machine, for example <c>nvme0</c>.</summary>
    public string Name { get; }

    /// <summary>The bus it is plugged into. Throws <see cref="InvalidOperationException"/> before.</summary>
    public PciBus Bus => _bus ?? throw new InvalidOperationException($"{Name} is not plugged into a bus");

    internal bool IsPlugged => _bus is not null;

    /// <summary>Its slot.</summary>
    public DevFn DevFn { get; private set; }

    /// <summary>Configuration registers.</summary>
    public ConfigSpace Config { get; }

    /// <summary>Its MSI-X, or null.</summary>
    public MsixTable? Msix { get; private set; }

    /// <summary>Its MSI, or null.</summary>
    public MsiMessages? Msi { get; private set; }

    /// <summary>
    /// The id its DMA carries at the root, computed from the bus numbers now and aliased through conventional bridges
    /// (PCI Express to PCI/PCI-X Bridge 1.0, 2.3).
    /// </summary>
    public RequesterId RequesterId
    {
        get
        {
            (PciBus bus, DevFn devFn) = Bus.FindAlias(DevFn);
            return new RequesterId(bus.Number, devFn);
        }
    }

    /// <summary>
    /// The space its DMA goes through: the vIOMMU's space for it, or system memory. Bus mastering is not considered. The same object for
    /// life; must not be asked for the first time by a memory listener.
    /// </summary>
    public AddressSpace DmaSpace => Spaces.Dma;

    /// <summary>The same behind the Bus Master bit: accesses hit nothing while it is clear (PCI Express 5.0, 7.5.1.1.3).</summary>
    public AddressSpace BusMasterSpace => Spaces.BusMaster;

    /// <summary>Properties of the vIOMMU in front of it, or null when there is none or the root bus bypasses it. Needs no mapping to exist.</summary>
    public IommuAttributes? IommuAttributes
    {
        get
        {
            (IPciIommu? iommu, PciBus bus, DevFn devFn) = Bus.FindIommu(DevFn);
            return iommu?.GetAttributes(bus, devFn);
        }
    }

    /// <summary>Whether the guest lets it send requests.</summary>
    public bool BusMasterEnabled => (Config.Read(ConfigOffset.Command, 2) & ConfigBits.CommandBusMaster) != 0;

    private DmaSpaces Spaces => Volatile.Read(ref _spaces) ?? CreateSpaces();

    /// <summary>Reads configuration (size 1, 2 or 4, offset a multiple of it).</summary>
    public virtual uint ReadConfig(int offset, int size) => Config.Read(offset, size) | InterruptStatus(offset, size);

    /// <summary>Writes configuration through the masks, then applies BAR moves and command bits.</summary>
    public virtual void WriteConfig(int offset, uint value, int size)
    {
        lock (_configWrite)
        {
            Config.Write(offset, value, size);
            ApplyDecoding();
        }

        DrivePin();
        Msix?.ControlWritten();
        Msi?.ControlWritten();
    }

    /// <summary>Power-on values; BARs unmapped, bus mastering off, MSI-X masked.</summary>
    public virtual void Reset()
    {
        lock (_configWrite)
        {
            Config.Reset();
            ApplyDecoding();
        }

        SetInterrupt(false);
        Msix?.Reset();
        Msi?.ControlWritten();
    }

    /// <inheritdoc/>
    public override string ToString() => _bus is null ? Name : $"{Name} ({_bus.Number:x2}:{DevFn})";

    /// <summary>Called when it has been plugged and its bus and slot are known.</summary>
    protected virtual void OnAttached() { }

    /// <summary>
    /// The message, mask or pending state of a vector may have changed: look at <see cref="MsixTable.IsMasked"/>. Called without locks,
    /// possibly by several threads at once.
    /// </summary>
    protected internal virtual void OnMsixVectorChanged(int vector) { }

    /// <summary>MSI-X Enable or Function Mask has changed: look at <see cref="MsixTable.Enabled"/>. Called as <see cref="OnMsixVectorChanged"/>.</summary>
    protected internal virtual void OnMsixControlChanged() { }

    /// <summary>The number of MSI vectors that are enabled has changed: look at <see cref="MsiMessages.EnabledVectors"/>. Called as <see cref="OnMsixVectorChanged"/>.</summary>
    protected internal virtual void OnMsiControlChanged() { }

    /// <summary>Defines ids and class code (base class, sub-class, interface from the high byte down; PCI Express 5.0, 7.5.1.1).</summary>
    protected void SetIdentity(ushort vendor, ushort device, uint classCode, byte revision = 0, ushort subsystemVendor = 0, ushort subsystem = 0)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(classCode, 0xFF_FFFFu);
        Config.Define(ConfigOffset.VendorId, 2, vendor);
        Config.Define(ConfigOffset.DeviceId, 2, device);
        Config.Define(ConfigOffset.RevisionId, 1, revision);
        for (int index = 0; index < 3; index++)
            Config.Define(ConfigOffset.ClassCode + index, 1, (byte)(classCode >> (index * 8)));
        if ((Config.Read(ConfigOffset.HeaderType, 1) & 0x7F) == 0)
        {
            Config.Define(ConfigOffset.SubsystemVendorId, 2, subsystemVendor);
            Config.Define(ConfigOffset.SubsystemId, 2, subsystem);
        }
    }

    /// <summary>Appends a PCI Express capability for a device or port of that type (PCI Express 5.0, 7.5.3); returns its offset.</summary>
    protected int AddExpressCapability(ExpressPortType type, int? at = null)
    {
        int offset = Config.AddCapability(CapabilityId.Express, ExpressCapability.Length, at);
        Config.Define(offset + ExpressCapability.Capabilities, 2, ExpressCapability.Version2 | ((uint)type << 4));
        Config.Define(offset + ExpressCapability.DeviceCapabilities, 4, ExpressCapability.RoleBasedErrors);
        Config.Define(offset + ExpressCapability.DeviceControl, 2, ExpressCapability.DeviceControlReset, ExpressCapability.DeviceControlWritable);
        Config.Define(offset + ExpressCapability.DeviceStatus, 2, 0, 0, ExpressCapability.DeviceStatusErrors);
        if (type != ExpressPortType.RootComplexEndpoint)
        {
            Config.Define(offset + ExpressCapability.LinkCapabilities, 4, ExpressCapability.Link);
            Config.Define(offset + ExpressCapability.LinkControl, 2, 0, ExpressCapability.LinkControlWritable);
            Config.Define(offset + ExpressCapability.LinkStatus, 2, ExpressCapability.Link);
            Config.Define(offset + ExpressCapability.LinkControl2, 2, 1, 0xF);
        }

        if (type == ExpressPortType.RootPort)
            Config.Define(offset + ExpressCapability.RootControl, 2, 0, 0xF);
        return offset;
    }

    /// <summary>Refuses buses that this kind of function cannot be on.</summary>
    internal virtual void CheckBus(PciBus bus) => _ = bus.Host; // throws while the bridge above is not plugged

    internal void Plug(PciBus bus, DevFn devFn)
    {
        if (_bus is not null)
            throw new InvalidOperationException($"{Name} is plugged into {_bus} already");
        _bus = bus;
        DevFn = devFn;
    }

    internal void Plugged()
    {
        if (InterruptPin != 0)
            Bus.Host.AddPin(this);
        OnAttached();
    }

    /// <summary>Sends an interrupt message as a 32-bit write with this function's requester id. One that nothing takes is lost without a trace, as a posted write is.</summary>
    internal void SendMessage(ulong address, uint data)
    {
        Span<byte> message = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(message, data);
        _ = BusMasterSpace.Write(new BusAddress(address), message, new TransactionAttributes(DirtySource.Vmm, RequesterId.Value));
    }

    internal void SetMsi(MsiMessages msi)
    {
        if (Msi is not null)
            throw new InvalidOperationException($"{Name} has MSI already");
        Msi = msi;
    }

    internal void SetMsix(MsixTable msix)
    {
        if (Msix is not null)
            throw new InvalidOperationException($"{Name} has an MSI-X table already");
        Msix = msix;
    }

    private DmaSpaces CreateSpaces()
    {
        MemoryTopology topology = Bus.Host.Topology;
        lock (_configWrite)
        {
            if (_spaces is { } made)
                return made;
            (IPciIommu? iommu, PciBus bus, DevFn devFn) = Bus.FindIommu(DevFn);
            AddressSpace dma = iommu?.GetAddressSpace(bus, devFn) ?? topology.System;
            using TopologyTransaction transaction = topology.Begin();
            var root = new ContainerRegion($"{Name} bus master", MemoryRegion.MaxSize);
            var window = new AliasRegion($"{Name} bus master window", dma.Root, 0, MemoryRegion.MaxSize);
            topology.Add(root, default, window);
            topology.SetEnabled(window, BusMasterEnabled);
            var result = new DmaSpaces(dma, topology.CreateAddressSpace($"{Name} bus master", root), window);
            Volatile.Write(ref _spaces, result);
            return result;
        }
    }

    private sealed record DmaSpaces(AddressSpace Dma, AddressSpace BusMaster, AliasRegion Window);
}
