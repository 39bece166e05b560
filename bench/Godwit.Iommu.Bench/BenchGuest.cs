using Godwit.Iommu.Intel;
using Godwit.Memory;
using Godwit.Pci;

namespace Godwit.Iommu.Bench;

/// <summary>The least guest that a VT-d unit needs: a root, a context, a second-stage table and a queue in its RAM.</summary>
internal sealed class BenchGuest : IDisposable
{
    private const ulong Root = 0x1000, Contexts = 0x2000, Queue = 0x3000, Status = 0x4000, Tables = 0x10_0000;
    private const int Levels = 3;
    private readonly GuestRam _ram = new();
    private readonly MemoryTopology _topology = new();
    private readonly RamBlock _block;
    private ulong _nextTable = Tables;
    private uint _tail;

    internal BenchGuest()
    {
        _block = _ram.Add("ram", 2UL << 30); // touched only in part; a device may have so many mappings live as RAM allows
        _topology.Add(_topology.SystemRoot, default, new RamRegion("ram", _block));
        var pci = new PciHostBridge(_topology, new Gpa(0xB000_0000), 256);
        var iommu = new IntelIommu(_topology, new IntelIommuOptions());
        pci.RootBus.SetIommu(iommu);
        var function = new Endpoint();
        pci.RootBus.Attach(function, new DevFn(3, 0));
        Space = function.DmaSpace;

        Table = AllocateTable();
        Write(Root, Contexts | 1);
        Write(Contexts + (new DevFn(3, 0).Value * 16UL) + 8, (Levels - 2) | (1 << 8));
        Write(Contexts + (new DevFn(3, 0).Value * 16UL), Table | 1);
        Register(0x20, Root);
        Register32(0x18, 1u << 30);
        Register(0x90, Queue);
        Register32(0x18, 1u << 26);
        Register32(0x18, (1u << 26) | (1u << 31));
        Region = (IommuRegion)Space.View.Ranges[0].Region;
    }

    internal AddressSpace Space { get; }

    internal IommuRegion Region { get; }

    internal ulong Table { get; }

    public void Dispose() => _ram.Dispose();

    internal void Write(ulong gpa, ulong value)
    {
        Span<byte> data = stackalloc byte[8];
        System.Buffers.Binary.BinaryPrimitives.WriteUInt64LittleEndian(data, value);
        _block.Write(gpa, data, DirtySource.Vcpu);
    }

    /// <summary>Where the leaf entry of <paramref name="iova"/> is, with the tables above it.</summary>
    internal ulong EntryOf(ulong iova)
    {
        ulong table = Table;
        for (int level = Levels; level > 1; level--)
        {
            ulong entry = table + (((iova >> (12 + (9 * (level - 1)))) & 511) * 8);
            _topology.System.ReadUInt64(new BusAddress(entry), out ulong value, TransactionAttributes.Vcpu);
            if (value == 0)
            {
                value = AllocateTable() | 3;
                Write(entry, value);
            }

            table = value & ~0xFFFUL;
        }

        return table + (((iova >> 12) & 511) * 8);
    }

    /// <summary>One page-selective invalidation of 2^<paramref name="mask"/> pages and a wait, in one run of the queue.</summary>
    internal void Invalidate(ulong iova, int mask)
    {
        Push(2u | (3u << 4) | (1u << 16), iova | (uint)mask);
        Push(5u | (1u << 5) | (1UL << 32), Status);
        Register32(0x88, _tail << 4);
    }

    private void Push(ulong low, ulong high)
    {
        Write(Queue + (_tail * 16), low);
        Write(Queue + (_tail * 16) + 8, high);
        _tail = (_tail + 1) % 256;
    }

    private ulong AllocateTable()
    {
        ulong table = _nextTable;
        _nextTable += 0x1000;
        return table;
    }

    private void Register(int offset, ulong value) =>
        _topology.System.WriteUInt64(new BusAddress(IntelIommu.RegisterBase.Value + (uint)offset), value, TransactionAttributes.Vcpu);

    private void Register32(int offset, uint value) =>
        _topology.System.WriteUInt32(new BusAddress(IntelIommu.RegisterBase.Value + (uint)offset), value, TransactionAttributes.Vcpu);

    private sealed class Endpoint : PciFunction
    {
        internal Endpoint() : base("endpoint") => SetIdentity(0x1AF4, 0x1000, 0xFF_00_00);
    }
}
