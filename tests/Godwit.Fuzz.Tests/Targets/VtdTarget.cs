using System.Buffers;
using Godwit.Iommu.Intel;
using Godwit.Memory;
using Godwit.Pci;

namespace Godwit.Fuzz.Tests;

/// <summary>
/// A guest that programs VT-d at random: registers, tables, descriptors and queues anywhere in its RAM, DMA and translations of several devices at
/// any address, one of them behind a bridge that is renumbered; the unit's own turns, pauses, and state saved and loaded half way. The first byte
/// chooses the unit. Besides not breaking, the unit must never announce a mapping twice nor withdraw one that it has not announced; after each
/// step devices were told no more than it has recorded, the step has cost no more than a register write may, and the queue's head is one; and now
/// and then a device that comes new is told just what the others know.
/// </summary>
public sealed class VtdTarget : IFuzzTarget
{
    private const ulong RamSize = RamBlock.SizeUnit;
    private const ulong Root = 0x1000;
    private const ulong Context = 0x2000;
    private const ulong Table = 0x3000;
    private const ulong Queue = 0x8000;
    private const byte RegisterWrite = 0, RamWrite = 1, Dma = 2, SaveAndLoad = 3, RegisterRead = 4;
    private const byte Translate = 5, Renumber = 6, Turn = 7, Pause = 8, Descriptor = 9, Operations = 10;
    private const ulong HeadRegister = 0x80, TailRegister = 0x88;
    private const ulong WindowGigabyte = 0xC000_0000; // the interrupt window is in it

    private static readonly IntelIommuOptions[] Units =
    [
        new(),
        new() { AddressWidth = 48, ScalableMode = true },
        new() { AddressWidth = 57, ScalableMode = true, DeviceIotlb = true, SnoopControl = true },
        new() { AddressWidth = 57, PassThrough = false },
    ];

    /// <inheritdoc/>
    public static string Name => "vt-d";

    /// <inheritdoc/>
    public static IEnumerable<byte[]> Seeds()
    {
        const ulong Present = 1;
        const ulong Rights = 3;
        InputBuilder enable = new InputBuilder()
            .Op(0)
            .Op(RamWrite, Root, Context | Present)
            .Op(RamWrite, Context + (0x18 * 16) + 8, 1 | (7 << 8))
            .Op(RamWrite, Context + (0x18 * 16), Table | Present)
            .Op(RamWrite, Table, (Table + 0x1000) | Rights)
            .Op(RamWrite, Table + 0x1000, (Table + 0x2000) | Rights)
            .Op(RamWrite, Table + 0x2000, 0x10_0000 | Rights)
            .Op(RegisterWrite, 0x20, Root)
            .Op(RegisterWrite, 0x90, Queue)
            .Op(RegisterWrite, 0x18, 1UL << 30)
            .Op(RegisterWrite, 0x18, 1UL << 26)
            .Op(RegisterWrite, 0x18, (1UL << 31) | (1UL << 26));
        yield return enable.Build();
        yield return enable
            .Op(RamWrite, Queue, 0x11).Op(RamWrite, Queue + 8, 0)                      // context, global
            .Op(RamWrite, Queue + 16, 0x32 | (7 << 16)).Op(RamWrite, Queue + 24, 0)    // one page
            .Op(RamWrite, Queue + 32, 0x25 | (1UL << 32)).Op(RamWrite, Queue + 40, 0x9000) // wait
            .Op(RegisterWrite, 0x88, 0x30)
            .Op(Dma, 0x10).Op(Dma, 0x5000)
            .Op(RamWrite, Table + 0x2000, 0)
            .Op(RamWrite, Queue + 48, 0x12).Op(RamWrite, Queue + 56, 0)
            .Op(RegisterWrite, 0x88, 0x40)
            .Op(SaveAndLoad)
            .Op(RegisterRead, 0x34).Op(RegisterRead, 0x220)
            .Build();
        // Two more devices, one of them renumbered into the domain and out of it; work that is paused and goes on.
        yield return enable
            .Op(RamWrite, Context + (0x20 * 16) + 8, 1 | (7 << 8)).Op(RamWrite, Context + (0x20 * 16), Table | Present)
            .Op(RamWrite, Root + 16, Context | Present)
            .Op(RamWrite, Context + 8, 1 | (8 << 8)).Op(RamWrite, Context, Table | Present)
            .Op(Descriptor, 0x10).Op(0, 0).Op(Turn).Op(Renumber, 0x01_01_00).Op(Turn).Op(Renumber, 0x02_02_00).Op(Renumber, 0x01_01_00)
            .Op(Translate, 0x8).Op(Dma, 0x9).Op(Dma, 0xA)
            .Op(RamWrite, Table + 0x2000, 0x18_0000 | Rights)
            .Op(Pause, 0x88).Op(Turn).Op(SaveAndLoad).Op(Turn)
            .Build();
        // Tables that share their subtables, walked as a whole.
        yield return enable
            .Op(RamWrite, Table, Table | Rights).Op(RamWrite, Table + 8, Table | Rights).Op(RamWrite, Table + 16, Table | Rights)
            .Op(RegisterWrite, 0x18, 1UL << 31)
            .Op(RegisterWrite, 0xF8, (1UL << 63) | (1UL << 60))
            .Build();
    }

    /// <inheritdoc/>
    public static void Run(ReadOnlySpan<byte> input) => Run(input, null);

    /// <summary>What an input gets the unit to do, so that a file of the corpus is known to do what it is there for.</summary>
    internal static VtdReach Observe(ReadOnlySpan<byte> input)
    {
        var reach = new VtdReach();
        Run(input, reach);
        return reach;
    }

    private static void Run(ReadOnlySpan<byte> input, VtdReach? reach)
    {
        var reader = new InputReader(input);
        using var rig = new Rig(Units[reader.Byte() % Units.Length]);
        for (int steps = 0; steps < 200 && !reader.AtEnd; steps++)
        {
            rig.Step(ref reader);
            rig.Check();
            if (reach is not null)
                rig.Note(reach);
            if (steps % 16 == 15)
                rig.CheckReplay();
        }

        rig.End();
    }

    private sealed class Rig : IDisposable
    {
        private readonly MemoryTopology _topology = new();
        private readonly GuestRam _ram = new();
        private readonly Queue<Action> _turns = new();
        private readonly IntelIommu _iommu;
        private readonly PciBridge _bridge = new("port", PciBridgeKind.RootPort);
        private readonly AddressSpace[] _spaces;
        private readonly ShadowUser[] _users = [new(), new(), new()];
        private int _writes, _turnsTaken;

        internal Rig(IntelIommuOptions options)
        {
            _topology.Add(_topology.SystemRoot, default, new RamRegion("ram", _ram.Add("ram", RamSize)));
            _iommu = new IntelIommu(_topology, options) { Later = _turns.Enqueue };
            var host = new PciHostBridge(_topology, new Gpa(0xB000_0000), 1);
            host.RootBus.SetIommu(_iommu);
            host.RootBus.Attach(_bridge, new DevFn(1, 0));
            _spaces =
            [
                _iommu.GetAddressSpace(host.RootBus, new DevFn(3, 0)),
                _iommu.GetAddressSpace(host.RootBus, new DevFn(4, 0)),
                _iommu.GetAddressSpace(_bridge.Secondary, default),
            ];
            for (int device = 0; device < _spaces.Length; device++)
                _spaces[device].AddListener(_users[device]);
        }

        public void Dispose()
        {
            _iommu.Pause();
            _ram.Dispose();
        }

        internal void Step(ref InputReader reader)
        {
            long before = _iommu.Spent;
            switch (reader.Byte() % Operations)
            {
                case RegisterWrite:
                    ulong offset = reader.UInt64() & 0xFF8;
                    Write(IntelIommu.RegisterBase.Value + offset, reader.UInt64());
                    CheckCost(before);
                    break;
                case RamWrite:
                    ulong address = reader.UInt64() % RamSize & ~7UL;
                    Write(address, reader.UInt64());
                    break;
                case Dma:
                    ulong iova = reader.UInt64();
                    MemoryResult result = _spaces[iova % 3].WriteUInt64(new BusAddress(iova & ~7UL), 1, new TransactionAttributes(DirtySource.Device, 0x18));
                    _writes += result == MemoryResult.Ok ? 1 : 0;
                    break;
                case SaveAndLoad:
                    var state = new ArrayBufferWriter<byte>();
                    _iommu.SaveState(state);
                    byte[] saved = state.WrittenSpan.ToArray();
                    _iommu.LoadState(saved);
                    _iommu.Resume();
                    break;
                case Translate:
                    ulong at = reader.UInt64();
                    if (_spaces[at % 3].View.Ranges.FirstOrDefault(range => range.Region is IommuRegion).Region is IommuRegion region)
                        region.Translate(new Iova(at), (AccessRights)(at >> 3 & 3), default);
                    break;
                case Renumber:
                    _bridge.WriteConfig(0x18, (uint)reader.UInt64(), 4);
                    CheckCost(before);
                    break;
                case Turn:
                    TakeTurn();
                    CheckCost(before);
                    break;
                case Pause:
                    if ((reader.Byte() & 1) == 0)
                        _iommu.RequestPause();
                    else
                        _iommu.Pause();
                    Write(IntelIommu.RegisterBase.Value + TailRegister, reader.UInt64());
                    CheckCost(before);
                    _iommu.Resume();
                    break;
                case Descriptor:
                    // Type and granularity that are some, at the tail of the queue of the seeds.
                    ulong tail = Read(TailRegister) & 0xFF0;
                    Write(Queue + tail, (reader.UInt64() & ~0xFUL) | ((reader.Byte() % 8u) + 1));
                    Write(Queue + tail + 8, reader.UInt64());
                    Write(IntelIommu.RegisterBase.Value + TailRegister, (tail + 16) & 0xFFF);
                    CheckCost(before);
                    break;
                default:
                    Read(reader.UInt64() & 0xFFC);
                    break;
            }
        }

        internal void Check()
        {
            // A page over an end of the interrupt window is two to those who listen on both sides, and one within it none.
            Assert.InRange(_users.Sum(user => (long)user.Live.Count(part => part.First < WindowGigabyte)), 0, _iommu.Churn.Live);
            Assert.InRange(Read(HeadRegister) >> 4, 0UL, 0x7FFFUL);
        }

        internal void Note(VtdReach reach)
        {
            reach.Mapped = _iommu.Churn.Mapped;
            reach.Live = _iommu.Churn.Live;
            reach.Writes = _writes;
            reach.Turns = _turnsTaken;
            reach.Status |= Read(0x34);
            reach.PassesThrough |= (Read(0x1C) & (1u << 31)) != 0 && _spaces[0].IsSystemMemory;
            for (uint record = 0; record < 8; record++)
            {
                uint fault = Read(0x220 + (record * 16) + 12);
                if (fault >> 31 != 0)
                    reach.Faults.Add((int)(fault & 0xFF));
            }
        }

        internal void End()
        {
            while (TakeTurn())
            {
            }

            CheckReplay();
            for (int device = 0; device < _spaces.Length; device++)
                _spaces[device].RemoveListener(_users[device]);
            Assert.Equal(0, _iommu.Churn.Live);
        }

        internal void CheckReplay()
        {
            for (int device = 0; device < _spaces.Length; device++)
            {
                var late = new ShadowUser();
                _spaces[device].AddListener(late);
                Assert.True(late.Live.SetEquals(_users[device].Live), "a device that comes new is told something else");
                _spaces[device].RemoveListener(late);
            }
        }

        // What one write may cost, the step that it was in, and a memory transaction, contexts and drains.
        private void CheckCost(long before) => Assert.InRange(_iommu.Spent - before, 0, IntelIommu.UnitsPerWrite + IntelIommu.UnitsPerStep + 2048);

        private bool TakeTurn()
        {
            if (!_turns.TryDequeue(out Action? turn))
                return false;
            turn();
            _turnsTaken++;
            return true;
        }

        private void Write(ulong address, ulong value) => _topology.System.WriteUInt64(new BusAddress(address), value, TransactionAttributes.Vcpu);

        // A failure in a turn of the unit's own is thrown here.
        private uint Read(ulong register)
        {
            _topology.System.ReadUInt32(new BusAddress(IntelIommu.RegisterBase.Value + register), out uint value, TransactionAttributes.Vcpu);
            return value;
        }
    }

    /// <summary>Holds the unit to its word.</summary>
    private sealed class ShadowUser : IMemoryListener, IIommuListener
    {
        internal SortedSet<(ulong First, ulong Last)> Live { get; } = [];

        public void RegionAdded(in FlatRange range)
        {
            if (range.Region is IommuRegion region)
                region.AddListener(this, range.Range);
        }

        public void RegionRemoved(in FlatRange range)
        {
            if (range.Region is not IommuRegion region)
                return;
            region.RemoveListener(this);
            (ulong first, ulong last) = (range.Range.First.Value, range.Range.Last.Value);
            Live.RemoveWhere(part => part.First >= first && part.Last <= last);
        }

        public void Mapped(Iova iova, ulong length, Gpa target, AccessRights rights)
        {
            Assert.NotEqual(AccessRights.None, rights);
            ulong last = iova.Value + (length - 1);
            (ulong First, ulong Last) below = Live.GetViewBetween((0, 0), (last, ulong.MaxValue)).Max;
            Assert.True(below.Last < iova.Value || below == default, $"{iova} + 0x{length:x} is announced over 0x{below.First:x}");
            Live.Add((iova.Value, last));
        }

        public void Unmapped(Iova iova, ulong length)
        {
            ulong last = iova.Value + (length - 1);
            ulong covered = 0;
            foreach ((ulong First, ulong Last) part in Live.GetViewBetween((iova.Value, 0), (last, ulong.MaxValue)).ToArray())
            {
                Assert.True(part.Last <= last, $"{iova} + 0x{length:x} withdraws part of 0x{part.First:x}");
                covered += part.Last - part.First + 1;
                Live.Remove(part);
            }

            Assert.True(covered == length, $"{iova} + 0x{length:x} is withdrawn and was not announced");
        }
    }
}

/// <summary>What an input got the unit to do.</summary>
internal sealed class VtdReach
{
    /// <summary>Mappings announced.</summary>
    internal long Mapped { get; set; }

    /// <summary>Of those, not withdrawn in the end.</summary>
    internal long Live { get; set; }

    /// <summary>Writes of devices that arrived.</summary>
    internal int Writes { get; set; }

    /// <summary>Turns of the unit's own.</summary>
    internal int Turns { get; set; }

    /// <summary>All bits that FSTS had at some time (VT-d 11.4.7.1).</summary>
    internal uint Status { get; set; }

    /// <summary>The first device once was in pass-through.</summary>
    internal bool PassesThrough { get; set; }

    /// <summary>Reasons recorded.</summary>
    internal SortedSet<int> Faults { get; } = [];
}

/// <summary>A peer's idea of a VT-d state.</summary>
public sealed class VtdStateTarget : IFuzzTarget
{
    /// <inheritdoc/>
    public static string Name => "vt-d-state";

    /// <inheritdoc/>
    public static IEnumerable<byte[]> Seeds()
    {
        var writer = new ArrayBufferWriter<byte>();
        New(out GuestRam ram).SaveState(writer);
        ram.Dispose();
        yield return writer.WrittenSpan.ToArray();
    }

    /// <inheritdoc/>
    public static void Run(ReadOnlySpan<byte> input)
    {
        IntelIommu iommu = New(out GuestRam ram);
        using GuestRam owned = ram;
        try
        {
            iommu.LoadState(input);
        }
        catch (InvalidDataException refused)
        {
            Assert.Contains("VT-d state", refused.Message, StringComparison.Ordinal);
        }
    }

    private static IntelIommu New(out GuestRam ram)
    {
        var topology = new MemoryTopology();
        ram = new GuestRam();
        topology.Add(topology.SystemRoot, default, new RamRegion("ram", ram.Add("ram", RamBlock.SizeUnit)));
        return new IntelIommu(topology, new IntelIommuOptions());
    }
}
