using System.Collections.Concurrent;
using Godwit.Iommu.Intel;
using Godwit.Memory;
using Godwit.Pci;

namespace Godwit.Iommu.Tests;

/// <summary>Which entries the guest's driver makes.</summary>
public enum TableKind
{
    Legacy,
    ScalableSecond,
    ScalableFirst,
}

/// <summary>
/// A board with RAM, a PCI bus and the unit, and the guest's side of the unit: register accesses, tables in RAM, the invalidation queue.
/// Bits are written out here a second time on purpose, from the specification and not from the model's constants.
/// </summary>
internal sealed class GuestDriver : IDisposable
{
    internal const int Gcmd = 0x18, Gsts = 0x1C, Rtaddr = 0x20, Ccmd = 0x28, Fsts = 0x34, Fectl = 0x38, Fedata = 0x3C, Feaddr = 0x40;
    internal const int Iqh = 0x80, Iqt = 0x88, Iqa = 0x90, Ics = 0x9C, Iectl = 0xA0, Iedata = 0xA4, Ieaddr = 0xA8, Iva = 0xF0, IotlbReg = 0xF8;
    internal const uint Te = 1u << 31, Srtp = 1u << 30, Qie = 1u << 26;
    internal const ulong RamSize = 32 << 20;

    private readonly GuestRam _ram = new();
    private readonly Stack<ulong> _freeTables = new();
    private readonly ConcurrentQueue<Action> _turns = new();
    private ulong _nextTable = 0x10_0000;
    private uint _status;
    private int _tail;

    internal GuestDriver(IntelIommuOptions? options = null, int functions = 1, TableKind kind = TableKind.Legacy, bool ownThreads = false)
    {
        Kind = kind;
        Topology = new MemoryTopology();
        Block = _ram.Add("ram", RamSize);
        Topology.Add(Topology.SystemRoot, default, new RamRegion("ram", Block));
        Topology.Add(Topology.SystemRoot, new BusAddress(0xFEE0_0000), new MmioRegion("messages", 1 << 20, Messages));
        Pci = new PciHostBridge(Topology, new Gpa(0xB000_0000), 256);
        options ??= new IntelIommuOptions();
        Iommu = ownThreads ? new IntelIommu(Topology, options) : new IntelIommu(Topology, options) { Later = _turns.Enqueue };
        Iommu.ConnectEvents(Events);
        Pci.RootBus.SetIommu(Iommu);
        for (int index = 0; index < functions; index++)
        {
            var function = new Endpoint($"f{index}");
            Pci.RootBus.Attach(function, new DevFn(3 + index, 0));
            Functions.Add(function);
        }

        Root = AllocateTable();
        Contexts = AllocateTable();
        Queue = AllocateTable();
        StatusWord = AllocateTable();
        Write64(Root, Contexts | 1);
        if (!Scalable)
            return;
        UpperContexts = AllocateTable();
        Directory = AllocateTable();
        Pasids = AllocateTable();
        Write64(Root + 8, UpperContexts | 1);
        Write64(Directory, Pasids | 1);
    }

    internal TableKind Kind { get; }

    internal bool Scalable => Kind != TableKind.Legacy;

    /// <summary>Context table of devfn 128 to 255, PASID directory and the only PASID table, in scalable mode.</summary>
    internal ulong UpperContexts { get; }

    internal ulong Directory { get; }

    internal ulong Pasids { get; }

    /// <summary>IOVAs of the guest's tables have this many bits.</summary>
    internal int InputBits => Kind == TableKind.ScalableFirst ? Iommu.Options.AddressWidth - 1 : Iommu.Options.AddressWidth;

    private int QueueEntries => Scalable ? 128 : 256;

    private int DescriptorShift => Scalable ? 5 : 4;

    internal MemoryTopology Topology { get; }

    internal GuestRam Ram => _ram;

    internal RamBlock Block { get; }

    internal PciHostBridge Pci { get; }

    internal IntelIommu Iommu { get; }

    internal List<PciFunction> Functions { get; } = [];

    internal Messages Messages { get; } = new();

    internal Events Events { get; } = new();

    internal ulong Root { get; }

    internal ulong Contexts { get; }

    internal ulong Queue { get; }

    internal ulong StatusWord { get; }

    internal int Levels => (Iommu.Options.AddressWidth - 12) / 9;

    /// <summary>The IOMMU region behind a function's space.</summary>
    internal IommuRegion Region(int function = 0) =>
        (IommuRegion)Functions[function].DmaSpace.View.Ranges.First(range => range.Region is IommuRegion).Region;

    public void Dispose()
    {
        Iommu.Pause();
        _ram.Dispose();
    }

    /// <summary>Takes the unit's next turn, if it wants one: what a thread of the pool does otherwise, so that tests say when.</summary>
    internal bool TakeTurn()
    {
        if (!_turns.TryDequeue(out Action? turn))
            return false;
        turn();
        return true;
    }

    /// <summary>Lets the unit do what it has to do.</summary>
    internal void TakeTurns()
    {
        while (TakeTurn())
        {
        }
    }

    // Registers.
    internal uint Read32(int offset)
    {
        Assert.Equal(MemoryResult.Ok, Topology.System.ReadUInt32(Register(offset), out uint value, TransactionAttributes.Vcpu));
        return value;
    }

    internal ulong ReadRegister64(int offset)
    {
        Assert.Equal(MemoryResult.Ok, Topology.System.ReadUInt64(Register(offset), out ulong value, TransactionAttributes.Vcpu));
        return value;
    }

    internal void Write32(int offset, uint value) =>
        Assert.Equal(MemoryResult.Ok, Topology.System.WriteUInt32(Register(offset), value, TransactionAttributes.Vcpu));

    internal void WriteRegister64(int offset, ulong value) =>
        Assert.Equal(MemoryResult.Ok, Topology.System.WriteUInt64(Register(offset), value, TransactionAttributes.Vcpu));

    // Guest RAM.
    internal ulong Read64(ulong gpa)
    {
        Assert.Equal(MemoryResult.Ok, Topology.System.ReadUInt64(new BusAddress(gpa), out ulong value, TransactionAttributes.Vcpu));
        return value;
    }

    internal void Write64(ulong gpa, ulong value) =>
        Assert.Equal(MemoryResult.Ok, Topology.System.WriteUInt64(new BusAddress(gpa), value, TransactionAttributes.Vcpu));

    /// <summary>A zeroed page of RAM.</summary>
    internal ulong AllocateTable()
    {
        if (!_freeTables.TryPop(out ulong page))
        {
            page = _nextTable;
            _nextTable += 0x1000;
            Assert.True(_nextTable <= RamSize);
        }

        Block.Write(page, new byte[0x1000], DirtySource.Vcpu);
        return page;
    }

    internal void FreeTable(ulong page) => _freeTables.Push(page);

    // Commands.
    internal void SetRootAndEnable()
    {
        WriteRegister64(Rtaddr, Root | (Scalable ? 1u << 10 : 0));
        Command(Srtp);
        EnableQueue();
        Command(Te);
    }

    /// <summary>Sets bits of GCMD the way a driver does: with what is on already.</summary>
    internal void Command(uint set, uint clear = 0)
    {
        uint on = Read32(Gsts) & (Te | Qie | (1u << 25) | (1u << 23));
        Write32(Gcmd, (on | set) & ~clear);
        TakeTurns();
        Assert.Equal(set, Read32(Gsts) & set);
        Assert.Equal(0u, Read32(Gsts) & clear);
    }

    internal void EnableQueue()
    {
        _tail = 0;
        WriteRegister64(Iqt, 0);
        WriteRegister64(Iqa, Queue | (Scalable ? 1u << 11 : 0));
        Command(Qie);
    }

    internal void SetContext(ushort sid, ulong table, ushort domain, int levels = 0, int type = 0, bool faultsOff = false, bool present = true)
    {
        Assert.Equal(0, sid >> 8);
        if (Scalable)
        {
            SetPasid(sid, table, domain, levels == 0 ? Levels : levels, type == 2 ? 4 : Kind == TableKind.ScalableFirst ? 1 : 2, faultsOff);
            Write64(ContextOf(sid) + 8, PasidOf(sid));
            Write64(ContextOf(sid), Directory | (present ? 1u : 0) | (faultsOff ? 2u : 0));
            return;
        }

        ulong entry = ContextOf(sid);
        Write64(entry, 0);
        Write64(entry + 8, (uint)((levels == 0 ? Levels : levels) - 2) | ((ulong)domain << 8));
        Write64(entry, table | (present ? 1u : 0) | ((ulong)type << 2) | (faultsOff ? 2u : 0));
    }

    internal void ClearContext(ushort sid) => Write64(ContextOf(sid), 0);

    internal ulong ContextOf(ushort sid) => !Scalable
        ? Contexts + ((ulong)(sid & 0xFF) * 16)
        : ((sid & 0x80) == 0 ? Contexts : UpperContexts) + ((ulong)(sid & 0x7F) * 32);

    /// <summary>RID_PASID of a function: all different on bus 0 up to device 7, which is as many as the tests have.</summary>
    internal static uint PasidOf(ushort sid) => sid & 63u;

    internal ulong PasidEntryOf(ushort sid) => Pasids + (PasidOf(sid) * 64);

    internal void SetPasid(ushort sid, ulong table, ushort domain, int levels, int translation, bool faultsOff = false)
    {
        ulong entry = PasidEntryOf(sid);
        Write64(entry, 0);
        Write64(entry + 8, domain);
        Write64(entry + 16, translation == 1 ? table | (levels == 5 ? 1u << 2 : 0) : 0);
        Write64(entry, (translation == 1 ? 0 : table) | 1 | (faultsOff ? 2u : 0) | ((uint)(levels - 2) << 2) | ((uint)translation << 6));
    }

    /// <summary>The guest-physical address of the entry that maps <paramref name="iova"/> at <paramref name="level"/>, building tables on the way.</summary>
    internal ulong EntryOf(ulong table, ulong iova, int level = 1, int levels = 0)
    {
        for (int at = levels == 0 ? Levels : levels; at > level; at--)
        {
            ulong entry = table + (((iova >> (12 + (9 * (at - 1)))) & 511) * 8);
            ulong value = Read64(entry);
            if ((value & 3) == 0 || (value & 0x80) != 0)
            {
                value = AllocateTable() | (Kind == TableKind.ScalableFirst ? 7u : 3u);
                Write64(entry, value);
            }

            table = value & 0x000F_FFFF_FFFF_F000;
        }

        return table + (((iova >> (12 + (9 * (level - 1)))) & 511) * 8);
    }

    internal void Map(ulong table, ulong iova, ulong gpa, AccessRights rights = AccessRights.ReadWrite, int level = 1) =>
        Write64(EntryOf(table, iova, level), gpa | Bits(rights) | (level > 1 ? 0x80u : 0));

    /// <summary>What the guest's tables can say: a first-stage page that can be written can be read.</summary>
    internal AccessRights Possible(AccessRights rights) =>
        Kind == TableKind.ScalableFirst && rights != AccessRights.Read ? AccessRights.ReadWrite : rights;

    private uint Bits(AccessRights rights) =>
        Kind != TableKind.ScalableFirst ? (uint)rights : rights == AccessRights.Read ? 5u : 7u;

    internal void Unmap(ulong table, ulong iova, int level = 1) => Write64(EntryOf(table, iova, level), 0);

    // Queue.
    internal static (ulong, ulong) ContextDevice(ushort sid, int mask = 0) => (1u | (3u << 4) | ((ulong)sid << 32) | ((ulong)mask << 48), 0);

    internal static (ulong, ulong) ContextDomain(ushort domain) => (1u | (2u << 4) | ((ulong)domain << 16), 0);

    internal static (ulong, ulong) ContextGlobal => (1u | (1u << 4), 0);

    internal static (ulong, ulong) IotlbGlobal => (2u | (1u << 4), 0);

    internal static (ulong, ulong) IotlbDomain(ushort domain) => (2u | (2u << 4) | ((ulong)domain << 16), 0);

    internal static (ulong, ulong) IotlbPages(ushort domain, ulong iova, int mask) => (2u | (3u << 4) | ((ulong)domain << 16), iova | (uint)mask);

    internal static (ulong, ulong) PasidCache(int granularity, ushort domain, uint pasid) =>
        (7u | ((uint)granularity << 4) | ((ulong)domain << 16) | ((ulong)pasid << 32), 0);

    internal static (ulong, ulong) PasidIotlb(ushort domain, uint pasid) => (6u | (2u << 4) | ((ulong)domain << 16) | ((ulong)pasid << 32), 0);

    internal static (ulong, ulong) PasidIotlbPages(ushort domain, uint pasid, ulong iova, int mask) =>
        (6u | (3u << 4) | ((ulong)domain << 16) | ((ulong)pasid << 32), iova | (uint)mask);

    internal (ulong, ulong) Wait(uint status, ulong? at = null) => (5u | (1u << 5) | ((ulong)status << 32), at ?? StatusWord);

    /// <summary>Puts descriptors in the queue without telling the unit.</summary>
    internal void Queued(params ReadOnlySpan<(ulong Low, ulong High)> descriptors)
    {
        foreach ((ulong low, ulong high) in descriptors)
        {
            ulong at = Queue + ((ulong)_tail << DescriptorShift);
            Write64(at, low);
            Write64(at + 8, high);
            if (Scalable)
            {
                Write64(at + 16, 0);
                Write64(at + 24, 0);
            }

            _tail = (_tail + 1) % QueueEntries;
        }
    }

    /// <summary>Tells the unit; returns when it has consumed what it will.</summary>
    internal void Ring()
    {
        Write32(Iqt, (uint)_tail << DescriptorShift);
        TakeTurns();
    }

    /// <summary>Submits with a wait behind and asserts that it completed.</summary>
    internal void Invalidate(params ReadOnlySpan<(ulong Low, ulong High)> descriptors)
    {
        Queued(descriptors);
        Queued(Wait(++_status));
        Ring();
        Assert.Equal(_status, (uint)Read64(StatusWord));
        Assert.Equal((ulong)_tail << DescriptorShift, ReadRegister64(Iqh));
    }

    internal int Tail => _tail;

    /// <summary>DMA of a function, as an emulated device makes it.</summary>
    internal MemoryResult DmaWrite(ulong iova, ulong value, int function = 0) =>
        Functions[function].DmaSpace.WriteUInt64(new BusAddress(iova), value, new TransactionAttributes(DirtySource.Vmm, Sid(function)));

    internal MemoryResult DmaRead(ulong iova, out ulong value, int function = 0) =>
        Functions[function].DmaSpace.ReadUInt64(new BusAddress(iova), out value, new TransactionAttributes(DirtySource.Vmm, Sid(function)));

    internal ushort Sid(int function = 0) => Functions[function].RequesterId.Value;

    private static BusAddress Register(int offset) => new(IntelIommu.RegisterBase.Value + (uint)offset);

    private sealed class Endpoint : PciFunction
    {
        internal Endpoint(string name) : base(name) => SetIdentity(0x1AF4, 0x1000, 0xFF_00_00);
    }
}

/// <summary>The interrupt window's other end: what functions send.</summary>
internal sealed class Messages : IMmioHandler
{
    internal List<(ulong Offset, uint Data, ushort? Requester)> All { get; } = [];

    public ulong Read(ulong offset, int size, in TransactionAttributes attributes) => ulong.MaxValue;

    public void Write(ulong offset, ulong value, int size, in TransactionAttributes attributes)
    {
        lock (All)
            All.Add((offset, (uint)value, attributes.RequesterId));
    }
}

/// <summary>What the unit itself sends to the local APICs.</summary>
internal sealed class Events : IInterruptSink
{
    internal List<InterruptMessage> All { get; } = [];

    public void Deliver(in InterruptMessage message)
    {
        lock (All)
            All.Add(message);
    }
}
