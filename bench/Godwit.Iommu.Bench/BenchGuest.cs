using Godwit.Iommu.Intel;
using Godwit.Memory;
using Godwit.Pci;

namespace Godwit.Iommu.Bench;

/// <summary>Which tables a guest uses.</summary>
public enum BenchTables
{
    /// <summary>Legacy contexts, second stage.</summary>
    SecondStage,

    /// <summary>Scalable mode, first stage.</summary>
    FirstStage,
}

/// <summary>The least guest that a VT-d unit needs: a root, a context, a table and a queue in its RAM.</summary>
internal sealed class BenchGuest : IDisposable
{
    private const ulong Root = 0x1000, Contexts = 0x2000, Queue = 0x3000, Status = 0x4000, Directory = 0x5000, Pasids = 0x6000, Tables = 0x10_0000;
    private readonly GuestRam _ram = new();
    private readonly MemoryTopology _topology = new();
    private readonly RamBlock _block;
    private readonly BenchTables _tables;
    private readonly int _levels;
    private ulong _nextTable = Tables;
    private readonly IntelIommu _iommu;
    private uint _tail;
    private uint _waits;

    internal BenchGuest(BenchTables tables = BenchTables.SecondStage, int levels = 3)
    {
        _tables = tables;
        _levels = levels;
        _block = _ram.Add("ram", 2UL << 30); // touched only in part; a device may have so many mappings live as RAM allows
        _topology.Add(_topology.SystemRoot, default, new RamRegion("ram", _block));
        var pci = new PciHostBridge(_topology, new Gpa(0xB000_0000), 256);
        _iommu = new IntelIommu(
            _topology, new IntelIommuOptions { AddressWidth = 12 + (9 * levels), ScalableMode = tables == BenchTables.FirstStage });
        pci.RootBus.SetIommu(_iommu);
        var function = new Endpoint();
        pci.RootBus.Attach(function, new DevFn(3, 0));
        Space = function.DmaSpace;

        Table = AllocateTable();
        Write(Root, Contexts | 1);
        SetDomain(Table, 1);
        Register(0x20, Root | (Wide ? 1u << 10 : 0));
        Command(1u << 30);
        Register(0x90, Queue | (Wide ? 1u << 11 : 0));
        Command(1u << 26);
        Command((1u << 26) | (1u << 31));
        Region = (IommuRegion)Space.View.Ranges[0].Region;
    }

    internal AddressSpace Space { get; }

    internal IommuRegion Region { get; }

    internal ulong Table { get; }

    private bool Wide => _tables == BenchTables.FirstStage;

    public void Dispose()
    {
        _iommu.Pause();
        _ram.Dispose();
    }

    /// <summary>Gives the function a table; what <see cref="SwitchDomain"/> does before it tells the unit.</summary>
    internal void SetDomain(ulong table, ushort domain)
    {
        ulong devFn = new DevFn(3, 0).Value;
        if (Wide)
        {
            Write(Pasids, 0);
            Write(Pasids + 8, domain);
            Write(Pasids + 16, table | (_levels == 5 ? 1u << 2 : 0));
            Write(Pasids, 1 | (1u << 6));
            Write(Directory, Pasids | 1);
            Write(Contexts + (devFn * 32), Directory | 1);
            return;
        }

        Write(Contexts + (devFn * 16), 0);
        Write(Contexts + (devFn * 16) + 8, (uint)(_levels - 2) | ((ulong)domain << 8));
        Write(Contexts + (devFn * 16), table | 1);
    }

    /// <summary>Moves the function to another table, as a driver does: context invalidation, domain invalidation, wait.</summary>
    internal void SwitchDomain(ulong table, ushort domain)
    {
        SetDomain(table, domain);
        Push(1u | (3u << 4) | ((ulong)new DevFn(3, 0).Value << 32), 0);
        Push(2u | (2u << 4) | ((uint)domain << 16), 0);
        Wait();
    }

    internal ulong AllocateTable()
    {
        ulong table = _nextTable;
        _nextTable += 0x1000;
        return table;
    }

    internal void Write(ulong gpa, ulong value)
    {
        Span<byte> data = stackalloc byte[8];
        System.Buffers.Binary.BinaryPrimitives.WriteUInt64LittleEndian(data, value);
        _block.Write(gpa, data, DirtySource.Vcpu);
    }

    /// <summary>Maps pages from 0 on to pages of the lower 128 MiB.</summary>
    internal void Fill(ulong table, int pages)
    {
        for (ulong page = 0; page < (ulong)pages; page++)
            Write(EntryOf(page << 12, table), ((page << 12) % 0x800_0000) | Rights);
    }

    /// <summary>Bits of an entry that may be read and written.</summary>
    internal uint Rights => Wide ? 7u : 3u;

    /// <summary>Where the leaf entry of <paramref name="iova"/> is, with the tables above it.</summary>
    internal ulong EntryOf(ulong iova, ulong table = 0)
    {
        table = table == 0 ? Table : table;
        for (int level = _levels; level > 1; level--)
        {
            ulong entry = table + (((iova >> (12 + (9 * (level - 1)))) & 511) * 8);
            _topology.System.ReadUInt64(new BusAddress(entry), out ulong value, TransactionAttributes.Vcpu);
            if (value == 0)
            {
                value = AllocateTable() | Rights;
                Write(entry, value);
            }

            table = value & 0x000F_FFFF_FFFF_F000;
        }

        return table + (((iova >> 12) & 511) * 8);
    }

    /// <summary>One page-selective invalidation of 2^<paramref name="mask"/> pages and a wait, in one run of the queue.</summary>
    internal void Invalidate(ulong iova, int mask)
    {
        Push((Wide ? 6u : 2u) | (3u << 4) | (1u << 16), iova | (uint)mask);
        Wait();
    }

    private void Wait()
    {
        Push(5u | (1u << 5) | ((ulong)++_waits << 32), Status);
        Register32(0x88, _tail << (Wide ? 5 : 4));
        var spin = new SpinWait();
        while (Read(Status) != _waits)
            spin.SpinOnce();
    }

    private void Command(uint bits)
    {
        Register32(0x18, bits);
        var spin = new SpinWait();
        while ((Read(IntelIommu.RegisterBase.Value + 0x1C) & bits) != bits)
            spin.SpinOnce();
    }

    private uint Read(ulong gpa)
    {
        _topology.System.ReadUInt32(new BusAddress(gpa), out uint value, TransactionAttributes.Vcpu);
        return value;
    }

    private void Push(ulong low, ulong high)
    {
        ulong at = Queue + (_tail << (Wide ? 5 : 4));
        Write(at, low);
        Write(at + 8, high);
        _tail = (_tail + 1) % (Wide ? 128u : 256u);
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
