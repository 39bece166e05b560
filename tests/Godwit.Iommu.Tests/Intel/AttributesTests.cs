using Godwit.Iommu.Intel;
using Godwit.Memory;
using Godwit.Pci;

namespace Godwit.Iommu.Tests;

/// <summary>What can be asked of the unit through the bus operations before the guest has done anything, wherever the function is.</summary>
public sealed class AttributesTests
{
    private readonly MemoryTopology _topology = new();
    private readonly PciHostBridge _host;

    public AttributesTests() => _host = new PciHostBridge(_topology, new Gpa(0xB000_0000), 256);

    public static TheoryData<IntelIommuOptions, ulong?> Units() => new()
    {
        { new() { AddressWidth = 39 }, (1UL << 39) - 1 },
        { new() { AddressWidth = 48 }, (1UL << 48) - 1 },
        { new() { AddressWidth = 57 }, (1UL << 57) - 1 },
        { new() { AddressWidth = 48, ScalableMode = true, PassThrough = false }, (1UL << 48) - 1 },
        { new() { AddressWidth = 57, CachingMode = false }, (1UL << 57) - 1 },
        { new() { InterruptRemapping = true, DmaTranslation = false }, null },
        { new() { AddressWidth = 57, InterruptRemapping = true, ExtendedInterruptMode = true, DmaTranslation = false }, null },
    };

    [Theory]
    [MemberData(nameof(Units))]
    public void A_function_anywhere_below_the_unit_has_its_attributes(IntelIommuOptions options, ulong? last)
    {
        _host.RootBus.SetIommu(new IntelIommu(_topology, options));
        var expected = new IommuAttributes(options.DmaTranslation, last is { } value ? new Iova(value) : null);
        PciBridge port = Bridge(_host.RootBus, "port", PciBridgeKind.RootPort, new DevFn(1, 0));
        PciBridge toPci = Bridge(_host.RootBus, "to-pci", PciBridgeKind.ExpressToPci, new DevFn(2, 0));
        PciBridge below = Bridge(toPci.Secondary, "pci-to-pci", PciBridgeKind.Conventional, new DevFn(3, 0));
        PciFunction[] functions =
        [
            Function(_host.RootBus, new DevFn(4, 0)), Function(_host.RootBus, new DevFn(4, 7)), Function(port.Secondary, default),
            Function(toPci.Secondary, new DevFn(5, 1)), Function(below.Secondary, new DevFn(31, 7)), port, toPci, below,
        ];
        Assert.All(functions, function => Assert.Equal(expected, function.IommuAttributes));

        // The guest may number buses as it likes; it changes nothing.
        foreach (PciBridge bridge in (PciBridge[])[port, toPci, below])
            bridge.WriteConfig(0x18, 0x0F_0F_00, 4);
        Assert.All(functions, function => Assert.Equal(expected, function.IommuAttributes));
    }

    [Theory]
    [MemberData(nameof(Units))]
    public void A_function_on_a_bus_that_bypasses_the_unit_has_none_also_behind_bridges(IntelIommuOptions options, ulong? _)
    {
        PciBus root = _host.AddRootBus(0x40, bypassIommu: true);
        root.SetIommu(new IntelIommu(_topology, options));
        PciBridge port = Bridge(root, "port", PciBridgeKind.RootPort, new DevFn(1, 0));
        PciBridge toPci = Bridge(root, "to-pci", PciBridgeKind.ExpressToPci, new DevFn(2, 0));
        PciFunction[] functions = [Function(root, new DevFn(4, 0)), Function(port.Secondary, default), Function(toPci.Secondary, new DevFn(5, 1))];
        Assert.All(functions, function => Assert.Null(function.IommuAttributes));
        Assert.All(functions, function => Assert.Same(_topology.System, function.DmaSpace));
        Assert.True(_host.BypassesIommu(new RequesterId(0x40, new DevFn(4, 0))));
        Assert.True(_host.BypassesIommu(new RequesterId(0xFF, default)));
        Assert.False(_host.BypassesIommu(new RequesterId(0x3F, default)));
    }

    [Fact]
    public void A_unit_for_interrupts_only_leaves_DMA_alone_whatever_the_guest_switches()
    {
        var unit = new IntelIommu(_topology, new IntelIommuOptions { InterruptRemapping = true, DmaTranslation = false });
        _host.RootBus.SetIommu(unit);
        PciFunction function = Function(_host.RootBus, new DevFn(4, 0));
        var watcher = new RangeCounter();
        function.DmaSpace.AddListener(watcher); // which tells it of what is there
        watcher.Changes = 0;
        BusAddress command = BusAddress.FromGpa(IntelIommu.RegisterBase + 0x18);
        foreach (uint bits in (uint[])[1u << 30, 1u << 31, (1u << 31) | (1u << 26), uint.MaxValue])
            _topology.System.WriteUInt32(command, bits, TransactionAttributes.Vcpu);
        Assert.Equal(MemoryResult.Ok, _topology.System.ReadUInt32(BusAddress.FromGpa(IntelIommu.RegisterBase + 0x1C), out uint status, TransactionAttributes.Vcpu));
        Assert.Equal(0u, status & (1u << 31));
        Assert.Equal(0, watcher.Changes);
        function.DmaSpace.RemoveListener(watcher);
    }

    private static PciBridge Bridge(PciBus bus, string name, PciBridgeKind kind, DevFn at)
    {
        var bridge = new PciBridge(name, kind);
        bus.Attach(bridge, at);
        return bridge;
    }

    private static PlainFunction Function(PciBus bus, DevFn at)
    {
        var function = new PlainFunction($"at-{bus}-{at}");
        bus.Attach(function, at);
        return function;
    }

    private sealed class PlainFunction : PciFunction
    {
        public PlainFunction(string name) : base(name) => SetIdentity(0x1234, 0x5678, 0xFF_00_00);
    }

    /// <summary>Counts what appears and goes.</summary>
    private sealed class RangeCounter : IMemoryListener
    {
        public int Changes { get; set; }

        public void RegionAdded(in FlatRange range) => Changes++;

        public void RegionRemoved(in FlatRange range) => Changes++;
    }
}
