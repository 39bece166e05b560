using Godwit.Iommu.Intel;
using Godwit.Memory;
using Godwit.Pci;

namespace Godwit.Vfio.Tests;

/// <summary>RAM that begins at 1 MiB, a PCI bus and the real VT-d unit, with the guest's side of it: entries in RAM and registers.</summary>
internal sealed class UnitBoard : IDisposable
{
    public const ulong RamBase = 0x10_0000;
    public const ulong RamPages = 1024;
    public const ulong Root = RamBase, Contexts = RamBase + 0x1000, Table = RamBase + 0x2000, Middle = RamBase + 0x3000, Leaves = RamBase + 0x4000;
    public const uint TranslationEnable = 1u << 31, SetRoot = 1u << 30, QueueEnable = 1u << 26; // VT-d 11.4.4.1
    public const ushort DeviceId = 3 << 3; // 00:03.0

    public UnitBoard()
    {
        Block = Ram.Add("ram", RamPages << RamPage.Shift);
        Topology.Add(Topology.SystemRoot, new BusAddress(RamBase), new RamRegion("ram", Block));
        Unit = new IntelIommu(Topology, new IntelIommuOptions());
        Bus = new PciHostBridge(Topology, new Gpa(0xB000_0000), 16);
        Bus.RootBus.SetIommu(Unit);
    }

    public MemoryTopology Topology { get; } = new();

    public GuestRam Ram { get; } = new();

    public RamBlock Block { get; }

    public IntelIommu Unit { get; }

    public PciHostBridge Bus { get; }

    /// <summary>A context with a table of three levels, in domain 1.</summary>
    public void BuildTables()
    {
        Write(Root, Contexts | 1);
        Write(Contexts + (DeviceId * 16ul) + 8, 1 | (1 << 8));
        Write(Contexts + (DeviceId * 16ul), Table | 1);
        Write(Table, Middle | 3);
        Write(Middle, Leaves | 3);
    }

    public void Map(ulong page, ulong target) => Write(Leaves + (page * 8), target | 3);

    public void SwitchOn()
    {
        Register(0x20, Root);
        Register(0x18, SetRoot);
        Register(0x18, TranslationEnable);
    }

    public void Write(ulong address, ulong value) =>
        Assert.Equal(MemoryResult.Ok, Topology.System.WriteUInt64(new BusAddress(address), value, TransactionAttributes.Vcpu));

    public void Register(ulong offset, ulong value) =>
        Topology.System.WriteUInt64(new BusAddress(IntelIommu.RegisterBase.Value + offset), value, TransactionAttributes.Vcpu);

    public void CopyRamTo(UnitBoard other)
    {
        byte[] memory = new byte[RamPages << RamPage.Shift];
        Block.Read(0, memory);
        other.Block.Write(0, memory, DirtySource.Vmm);
    }

    public void Dispose()
    {
        Unit.Pause();
        Ram.Dispose();
    }
}
