using Godwit.Iommu.Intel;
using Godwit.Machine.Guests.Drivers;
using Godwit.Machine.Guests.Drivers.Spec;
using Godwit.Machine.Managed;
using Godwit.Memory;
using Godwit.Pci;

namespace Godwit.Machine.Tests;

/// <summary>The guest's VT-d driver against the real unit: what it maps is what the unit translates and announces.</summary>
public sealed class VtdDriverTests : IDisposable
{
    private const ushort Domain = 5;
    private static readonly Gpa Memory = new(0x20_0000);
    private static readonly Gpa Tables = new(0x40_0000);

    private readonly RamFixture _ram = new();
    private readonly TestCpu _cpu;
    private readonly TestFunction _function = new();
    private readonly Recorder _announced = new();
    private IntelIommu? _iommu;
    private VtdUnit _unit;
    private IoPageTable _table;

    public VtdDriverTests() => _cpu = new TestCpu(_ram.Bus);

    public void Dispose()
    {
        _iommu?.Pause(); // it works by itself, in the RAM
        _ram.Dispose();
    }

    [Theory]
    [InlineData(39, 3, false, TableKind.SecondStage)]
    [InlineData(48, 4, false, TableKind.SecondStage)]
    [InlineData(57, 5, false, TableKind.SecondStage)]
    [InlineData(48, 4, true, TableKind.SecondStage)]
    [InlineData(57, 5, true, TableKind.SecondStage)]
    [InlineData(48, 4, true, TableKind.FirstStage)]
    [InlineData(57, 5, true, TableKind.FirstStage)]
    [InlineData(48, 4, true, TableKind.Legacy)]
    public void The_unit_sees_exactly_what_the_driver_maps(int bits, int levels, bool scalable, object kind)
    {
        Start(bits, scalable, (TableKind)kind);
        Assert.Equal(bits, _unit.AddressBits);
        Assert.Equal((uint)levels, _table.Levels);
        _unit.Attach(_cpu, Bdf, Domain, _table, Pasids);
        int seed = Random.Shared.Next();
        var random = new Random(seed);
        var model = new Dictionary<ulong, ulong>();

        // Pages of RAM, low and high, each with its own address in it.
        ulong[] pages = [.. Enumerable.Range(0, 64).Select(i => i % 2 == 0 ? 0x100_0000UL + ((ulong)i << 12) : 0x1_0000_0000UL + ((ulong)i << 12))];
        foreach (ulong page in pages)
            _ram.Bus.Store(new Gpa(page), page);

        for (int step = 0; step < 3000; step++)
        {
            // Around the top of 32 bits, around the top of the aperture, and around a border between tables.
            ulong center = random.Next(3) switch { 0 => 0xFFFF_0000, 1 => (1UL << _table.UsableBits) - 0x1_0000, _ => 0x4000_0000UL - 0x8000 };
            ulong iova = center + ((ulong)random.Next(16) << 12);
            var batch = new VtdUnit.InvalidationBatch(_cpu);
            if (model.Remove(iova))
            {
                _table.Unmap(_ram.Bus, new Iova(iova));
            }
            else
            {
                ulong page = pages[random.Next(pages.Length)];
                _table.Map(_ram.Bus, new Iova(iova), new Gpa(page), VtdRegisters.EntryRead | VtdRegisters.EntryWrite);
                model[iova] = page;
            }

            batch.AddPages(ref _unit, Domain, new Iova(iova), 0);
            batch.Submit(ref _unit);
            Assert.True(model.Count == _announced.Live.Count && model.All(m => _announced.Live.TryGetValue(m.Key, out ulong target) && target == m.Value),
                $"seed {seed}, step {step}: the unit announced something else than is mapped");
            ulong found = 0;
            bool mapped = model.TryGetValue(iova, out ulong expected);
            MemoryResult result = ReadDma(iova, ref found);
            Assert.True(mapped ? result == MemoryResult.Ok && found == expected : result != MemoryResult.Ok, $"seed {seed}, step {step}: 0x{iova:x}");
        }
    }

    [Fact]
    public void A_fault_is_taken_once_with_its_address_and_source()
    {
        Start(39);
        _unit.Attach(_cpu, Bdf, Domain, _table, Pasids);
        Assert.False(_unit.TryTakeFault(_cpu, out _, out _));

        ulong unused = 0;
        Assert.NotEqual(MemoryResult.Ok, ReadDma(0x1234_5000, ref unused));
        Assert.True(_unit.TryTakeFault(_cpu, out ulong address, out ulong details));
        Assert.Equal(0x1234_5000UL, address & ~0xFFFUL);
        Assert.Equal(Bdf, (ushort)details);
        Assert.False(_unit.TryTakeFault(_cpu, out _, out _));
    }

    [Fact]
    public void A_device_without_a_context_reaches_nothing_and_one_in_pass_through_everything()
    {
        Start(39);
        ulong found = 0;
        Assert.NotEqual(MemoryResult.Ok, ReadDma(0x100_0000, ref found));
        _unit.Attach(_cpu, Bdf, Domain, null, Pasids);
        _ram.Bus.Store(new Gpa(0x100_0000), 0xABCDUL);
        Assert.Equal(MemoryResult.Ok, ReadDma(0x100_0000, ref found));
        Assert.Equal(0xABCDUL, found);
    }

    [Fact]
    public void More_invalidations_than_the_queue_holds_go_through_in_pieces()
    {
        Start(48);
        _unit.Attach(_cpu, Bdf, Domain, _table, Pasids);
        var batch = new VtdUnit.InvalidationBatch(_cpu);
        for (int i = 0; i < 1000; i++)
        {
            var iova = new Iova(0xF000_0000 + ((ulong)i << 12));
            _table.Map(_ram.Bus, iova, new Gpa(0x100_0000), VtdRegisters.EntryRead);
            batch.AddPages(ref _unit, Domain, iova, 0);
            batch.AddWait(ref _unit);
        }

        batch.Submit(ref _unit);
        Assert.Equal(1000, _announced.Live.Count);
    }

    [Fact]
    public void Unmapping_twice_and_addresses_outside_the_table_are_panics()
    {
        Start(39);
        _table.Map(_ram.Bus, new Iova(0x1000), new Gpa(0x100_0000), VtdRegisters.EntryRead);
        _table.Unmap(_ram.Bus, new Iova(0x1000));
        Assert.Throws<GuestPanicException>(() => _table.Unmap(_ram.Bus, new Iova(0x1000)));
        Assert.Throws<GuestPanicException>(() => _table.Map(_ram.Bus, new Iova(1UL << 39), default, VtdRegisters.EntryRead));
    }

    private static Gpa Pasids => Memory + 0x8000;

    private static ushort Bdf => 0x18; // 00:03.0

    private void Start(int bits, bool scalable = false, TableKind tables = TableKind.SecondStage)
    {
        var host = new PciHostBridge(_ram.Topology, BoardLayout.EcamBase, BoardLayout.EcamBuses);
        _iommu = new IntelIommu(_ram.Topology, new IntelIommuOptions { AddressWidth = bits, ScalableMode = scalable });
        host.RootBus.SetIommu(_iommu);
        host.RootBus.Attach(_function, new DevFn(3, 0));
        _function.DmaSpace.AddListener(new RegionWatcher(_announced));

        _unit = new VtdUnit
        {
            Registers = IntelIommu.RegisterBase,
            RootTable = Memory,
            ContextTable = Memory + 0x1000,
            Queue = Memory + 0x3000,
            WaitStatus = Memory + 0x4000,
        };
        _unit.Start(_cpu, tables);
        _unit.EnableTranslation(_cpu);
        Assert.True(_unit.CachingMode);
        _table = IoPageTable.Create(_ram.Bus, _unit.AddressBits, _unit.FirstStage, Tables, 64);
    }

    private unsafe MemoryResult ReadDma(ulong iova, ref ulong value)
    {
        fixed (ulong* p = &value)
            return _function.DmaSpace.Read(new BusAddress(iova), new Span<byte>(p, 8), new TransactionAttributes(DirtySource.Device, Bdf));
    }

    private sealed class TestFunction : PciFunction
    {
        public TestFunction() : base("test") => SetIdentity(0x1234, 0x5678, 0xFF_00_00);
    }

    /// <summary>Registers the recorder with whatever IOMMU region shows, as a passthrough device does.</summary>
    private sealed class RegionWatcher(Recorder recorder) : IMemoryListener
    {
        public void RegionAdded(in FlatRange range)
        {
            if (range.Region is IommuRegion region)
                region.AddListener(recorder, BusRange.Of(new BusAddress(range.OffsetInRegion), range.Range.Length));
        }

        public void RegionRemoved(in FlatRange range)
        {
            if (range.Region is not IommuRegion region)
                return;
            region.RemoveListener(recorder);
            recorder.Live.Clear();
        }
    }

    private sealed class Recorder : IIommuListener
    {
        public Dictionary<ulong, ulong> Live { get; } = [];

        public void Mapped(Iova iova, ulong length, Gpa target, AccessRights rights)
        {
            for (ulong i = 0; i < length; i += 4096)
                Live.Add(iova.Value + i, target.Value + i);
        }

        public void Unmapped(Iova iova, ulong length)
        {
            for (ulong i = 0; i < length; i += 4096)
                Assert.True(Live.Remove(iova.Value + i));
        }
    }
}
