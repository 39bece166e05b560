using BenchmarkDotNet.Attributes;

namespace Godwit.Memory.Bench;

/// <summary>Single accesses as devices and table walks make them. Allocated must be 0 everywhere.</summary>
public class AddressSpaceBenchmarks
{
    private readonly byte[] _eight = new byte[8];
    private readonly byte[] _page = new byte[4096];
    private GuestRam _ram = null!;
    private MemoryTopology _topology = null!;
    private AddressSpace _space = null!;
    private AddressSpace _device = null!;
    private BusAddress _address;

    /// <summary>Whether writes are recorded.</summary>
    [Params(false, true)]
    public bool Recording { get; set; }

    [GlobalSetup]
    public void Setup()
    {
        _ram = new GuestRam();
        _topology = new MemoryTopology();
        _space = _topology.System;
        var low = new RamRegion("low", _ram.Add("low", 64 << 20));
        var high = new RamRegion("high", _ram.Add("high", 64 << 20));
        using (_topology.Begin())
        {
            _topology.Add(_topology.SystemRoot, default, low);
            _topology.Add(_topology.SystemRoot, new BusAddress(1UL << 32), high);
            for (uint i = 0; i < 16; i++)
                _topology.Add(_topology.SystemRoot, new BusAddress(0xE000_0000 + i * 0x10000), new MmioRegion($"bar{i}", 0x1000, new Zeros()));
        }

        _device = _topology.CreateAddressSpace("device", new Identity());
        _address = new BusAddress((1UL << 32) + 0x1230);
        if (Recording)
            _ram.Dirty.Start();
    }

    [GlobalCleanup]
    public void Cleanup() => _ram.Dispose();

    [Benchmark]
    public MemoryResult Read_8() => _space.Read(_address, _eight, TransactionAttributes.Vcpu);

    [Benchmark]
    public MemoryResult ReadUInt64() => _space.ReadUInt64(_address, out _, TransactionAttributes.Vcpu);

    [Benchmark]
    public MemoryResult Write_8() => _space.Write(_address, _eight, TransactionAttributes.Vcpu);

    [Benchmark]
    public MemoryResult Read_4096() => _space.Read(_address, _page, TransactionAttributes.Vcpu);

    [Benchmark]
    public MemoryResult Read_8_alternating_ranges()
    {
        _address = new BusAddress(_address.Value ^ (1UL << 32));
        return _space.Read(_address, _eight, TransactionAttributes.Vcpu);
    }

    [Benchmark]
    public MemoryResult Read_8_through_IOMMU() => _device.Read(_address, _eight, TransactionAttributes.Vmm);

    [Benchmark]
    public MemoryResult Read_4_register() => _space.Read(new BusAddress(0xE005_0000), _eight.AsSpan(0, 4), TransactionAttributes.Vcpu);

    [Benchmark]
    public void WaitForAccesses() => _topology.WaitForAccesses();

    private sealed class Zeros : IMmioHandler
    {
        public ulong Read(ulong offset, int size, in TransactionAttributes attributes) => 0;

        public void Write(ulong offset, ulong value, int size, in TransactionAttributes attributes)
        {
        }
    }

    private sealed class Identity() : IommuRegion("identity", MaxSize)
    {
        public override IommuAttributes Attributes => new(true, null);

        public override IommuTranslation Translate(Iova iova, AccessRights wanted, in TransactionAttributes attributes) =>
            new(new Iova(iova.Value & ~0xFFFUL), new Gpa(iova.Value & ~0xFFFUL), 0xFFF, AccessRights.ReadWrite);

        public override void AddListener(IIommuListener listener, BusRange range) => throw new NotSupportedException();

        public override void RemoveListener(IIommuListener listener) => throw new NotSupportedException();
    }
}
