using System.Buffers.Binary;
using Godwit.Memory;

namespace Godwit.Pci.Tests;

/// <summary>A board with ECAM, driven as a vCPU would drive it.</summary>
internal sealed class Board
{
    internal static readonly Gpa Ecam = new(0xB000_0000);

    internal MemoryTopology Topology { get; } = new();

    internal PciHostBridge Host { get; }

    internal Board(bool bypass = false) => Host = new PciHostBridge(Topology, Ecam, 256, bypass);

    internal static BusAddress Register(int bus, int device, int function, int offset) =>
        new(Ecam.Value + ((ulong)bus << 20) + ((ulong)device << 15) + ((ulong)function << 12) + (ulong)offset);

    internal uint Read(BusAddress address, int size = 4)
    {
        Span<byte> data = stackalloc byte[4];
        Assert.Equal(MemoryResult.Ok, Topology.System.Read(address, data[..size], TransactionAttributes.Vcpu));
        return BinaryPrimitives.ReadUInt32LittleEndian(data);
    }

    internal void Write(BusAddress address, uint value, int size = 4)
    {
        Span<byte> data = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(data, value);
        Assert.Equal(MemoryResult.Ok, Topology.System.Write(address, data[..size], TransactionAttributes.Vcpu));
    }

    /// <summary>The region that answers at an address of system memory.</summary>
    internal MemoryRegion? At(ulong address) => Topology.System.View.TryFind(new BusAddress(address), out FlatRange range) ? range.Region : null;

    internal void Number(PciBridge bridge, byte primary, byte secondary, byte subordinate)
    {
        bridge.WriteConfig(0x18, primary | ((uint)secondary << 8) | ((uint)subordinate << 16), 4);
    }
}

/// <summary>A register file in a BAR.</summary>
internal sealed class Registers : IMmioHandler
{
    internal List<(ulong Offset, ulong Value, ushort? Requester)> Writes { get; } = [];

    public ulong Read(ulong offset, int size, in TransactionAttributes attributes) => 0x5A;

    public void Write(ulong offset, ulong value, int size, in TransactionAttributes attributes)
    {
        lock (Writes)
            Writes.Add((offset, value, attributes.RequesterId));
    }
}

internal sealed class TestFunction : PciFunction
{
    internal TestFunction(string name, int vectors = 0, ushort device = 0x1234, bool withBars = true) : base(name)
    {
        SetIdentity(0x1AF4, device, 0x01_08_02, 7, 0xAAAA, 0xBBBB);
        AddExpressCapability(ExpressPortType.Endpoint);
        Bar32 = new MmioRegion(name + " bar0", 0x1000, Registers);
        Bar64 = new MmioRegion(name + " bar2", 1UL << 33, Registers);
        if (withBars)
        {
            SetBar(0, BarKind.Memory32, prefetchable: false, Bar32);
            SetBar(2, BarKind.Memory64, prefetchable: true, Bar64);
        }

        if (vectors != 0)
        {
            Table = new MsixTable(this, vectors);
            Table.AddCapability(0, 0x800, 0, 0xC00);
        }
    }

    internal Registers Registers { get; } = new();

    internal MmioRegion Bar32 { get; }

    internal MmioRegion Bar64 { get; }

    internal MsixTable? Table { get; }

    internal List<int> VectorChanges { get; } = [];

    internal int ControlChanges { get; private set; }

    internal void DeclareBar(int index, BarKind kind, MemoryRegion region) => SetBar(index, kind, false, region);

    protected internal override void OnMsixVectorChanged(int vector) => VectorChanges.Add(vector);

    protected internal override void OnMsixControlChanged() => ControlChanges++;
}

/// <summary>An IOMMU that gives each (bus, devfn) a space of its own and remembers who asked.</summary>
internal sealed class TestIommu(MemoryTopology topology) : IPciIommu
{
    internal Dictionary<(PciBus, DevFn), AddressSpace> Spaces { get; } = [];

    public AddressSpace GetAddressSpace(PciBus bus, DevFn devFn)
    {
        if (!Spaces.TryGetValue((bus, devFn), out AddressSpace? space))
        {
            space = topology.CreateAddressSpace($"{bus} {devFn}", new ContainerRegion($"{bus} {devFn}", MemoryRegion.MaxSize));
            Spaces.Add((bus, devFn), space);
        }

        return space;
    }

    public IommuAttributes GetAttributes(PciBus bus, DevFn devFn) => new(true, new Iova((1UL << 39) - 1));
}
