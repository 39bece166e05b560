namespace Godwit.Memory.Tests.Topology;

public sealed class FlatViewTests : IDisposable
{
    private readonly GuestRam _ram = new();
    private readonly MemoryTopology _topology = new();

    public void Dispose() => _ram.Dispose();

    [Fact]
    public void Random_graphs_render_to_what_each_byte_says() => Seeded.Run(150, random =>
    {
        var tree = new RandomTree(random);
        for (int step = 0; step < 40; step++)
        {
            tree.Step();
            if (step % 4 == 3)
                tree.Check();
        }
    });

    [Fact]
    public void Random_graphs_changed_in_transactions_render_the_same() => Seeded.Run(50, random =>
    {
        var tree = new RandomTree(random);
        for (int round = 0; round < 6; round++)
        {
            using (tree.Topology.Begin())
            {
                for (int step = 0; step < 8; step++)
                    tree.Step();
            }

            tree.Check();
        }
    });

    [Fact]
    public void The_whole_64_bit_space_is_one_range()
    {
        var iommu = new TestIommu();
        AddressSpace space = _topology.CreateAddressSpace("device", iommu);
        FlatRange range = Assert.Single(space.View.Ranges);
        Assert.Equal(BusRange.All, range.Range);
        Assert.True(space.View.TryFind(new BusAddress(ulong.MaxValue), out _));
    }

    [Fact]
    public void A_hole_in_the_whole_space_leaves_both_sides()
    {
        var root = new ContainerRegion("root", MemoryRegion.MaxSize);
        var iommu = new TestIommu();
        MmioRegion msi = Mmio("msi", 0x10_0000);
        _topology.Add(root, default, iommu);
        _topology.Add(root, new BusAddress(0xFEE0_0000), msi, priority: 1);
        AddressSpace space = _topology.CreateAddressSpace("device", root);
        Assert.Equal(
            [
                new FlatRange(Range(0, 0xFEDF_FFFF), iommu, 0, false),
                new FlatRange(Range(0xFEE0_0000, 0xFEEF_FFFF), msi, 0, false),
                new FlatRange(Range(0xFEF0_0000, ulong.MaxValue), iommu, 0xFEF0_0000, false),
            ],
            space.View.Ranges);
    }

    [Fact]
    public void The_last_byte_of_the_space_can_be_covered_and_what_sticks_out_is_cut()
    {
        MmioRegion top = Mmio("top", 0x2000);
        _topology.Add(_topology.SystemRoot, new BusAddress(ulong.MaxValue - 0xFFF), top);
        FlatRange range = Assert.Single(_topology.System.View.Ranges);
        Assert.Equal(Range(ulong.MaxValue - 0xFFF, ulong.MaxValue), range.Range);
    }

    [Fact]
    public void Split_RAM_becomes_one_range_again_and_different_attributes_stay_apart()
    {
        RamBlock block = _ram.Add("ram", 1 << 21);
        var ram = new RamRegion("ram", block);
        var low = new AliasRegion("low", ram, 0, 0x1000);
        var high = new AliasRegion("high", ram, 0x1000, 0x1000);
        _topology.Add(_topology.SystemRoot, new BusAddress(0), low);
        _topology.Add(_topology.SystemRoot, new BusAddress(0x1000), high);
        Assert.Equal([new FlatRange(Range(0, 0x1FFF), ram, 0, false)], _topology.System.View.Ranges);

        // The same RAM, but not contiguous in the region.
        _topology.Move(high, new BusAddress(0x2000));
        Assert.Equal(2, _topology.System.View.Ranges.Length);

        // Contiguous in the block, but another region with another attribute.
        var rom = new RamRegion("rom", block, readOnly: true);
        var shadow = new AliasRegion("shadow", rom, 0x1000, 0x1000);
        _topology.Add(_topology.SystemRoot, new BusAddress(0x1000), shadow);
        Assert.Equal([false, true, false], _topology.System.View.Ranges.Select(range => range.ReadOnly));
    }

    [Fact]
    public void Of_equal_priority_the_one_added_last_shows()
    {
        MmioRegion first = Mmio("first", 0x1000);
        MmioRegion second = Mmio("second", 0x1000);
        _topology.Add(_topology.SystemRoot, default, first);
        _topology.Add(_topology.SystemRoot, default, second);
        Assert.Same(second, Assert.Single(_topology.System.View.Ranges).Region);
        _topology.Remove(second);
        Assert.Same(first, Assert.Single(_topology.System.View.Ranges).Region);
    }

    [Fact]
    public void Passthrough_devices_share_the_system_view()
    {
        _topology.Add(_topology.SystemRoot, default, Mmio("a", 0x1000));
        _topology.Add(_topology.SystemRoot, new BusAddress(0x10000), Mmio("b", 0x1000));
        var alias = new AliasRegion("all", _topology.SystemRoot, 0, MemoryRegion.MaxSize);
        var iommu = new TestIommu();
        var root = new ContainerRegion("device root", MemoryRegion.MaxSize);
        _topology.Add(root, default, alias);
        _topology.Add(root, default, iommu);
        _topology.SetEnabled(iommu, false);
        AddressSpace device = _topology.CreateAddressSpace("device", root);
        AddressSpace other = _topology.CreateAddressSpace("other", _topology.SystemRoot);
        Assert.Same(_topology.System.View, device.View);
        Assert.Same(_topology.System.View, other.View);
        Assert.True(device.IsSystemMemory);

        using (_topology.Begin())
        {
            _topology.SetEnabled(alias, false);
            _topology.SetEnabled(iommu, true);
        }

        Assert.False(device.IsSystemMemory);
        Assert.Same(iommu, Assert.Single(device.View.Ranges).Region);
        Assert.True(other.IsSystemMemory);

        _topology.SetEnabled(root, false);
        Assert.False(device.IsSystemMemory);
        Assert.Empty(device.View.Ranges);

        _topology.SetEnabled(root, true);
        _topology.SetEnabled(iommu, false);
        _topology.SetEnabled(alias, true);
        Assert.Same(_topology.System.View, device.View);
        // A later change of system memory reaches all of them, rendered once.
        _topology.Add(_topology.SystemRoot, new BusAddress(0x20000), Mmio("c", 0x1000));
        Assert.Same(_topology.System.View, device.View);
        Assert.Equal(3, device.View.Ranges.Length);
    }

    [Fact]
    public void System_memory_with_one_child_still_counts_as_system_memory()
    {
        AddressSpace device = _topology.CreateAddressSpace("device", _topology.SystemRoot);
        Assert.True(device.IsSystemMemory);
        _topology.Add(_topology.SystemRoot, default, Mmio("only", 0x1000));
        Assert.True(device.IsSystemMemory);
    }

    [Fact]
    public void Partial_aliases_and_masked_system_memory_do_not_share()
    {
        _topology.Add(_topology.SystemRoot, default, Mmio("a", 0x1000));
        _topology.Add(_topology.SystemRoot, new BusAddress(0x2000), Mmio("b", 0x1000));
        var partial = new AliasRegion("most", _topology.SystemRoot, 0, MemoryRegion.MaxSize - 1);
        Assert.False(_topology.CreateAddressSpace("partial", partial).IsSystemMemory);

        var root = new ContainerRegion("root", MemoryRegion.MaxSize);
        _topology.Add(root, default, new AliasRegion("all", _topology.SystemRoot, 0, MemoryRegion.MaxSize));
        AddressSpace space = _topology.CreateAddressSpace("masked", root);
        Assert.True(space.IsSystemMemory);
        _topology.Add(root, new BusAddress(0xFEE0_0000), Mmio("window", 0x1000), 1);
        Assert.False(space.IsSystemMemory);
    }

    [Fact]
    public void A_commit_that_changes_nothing_visible_keeps_the_view()
    {
        MmioRegion hidden = Mmio("hidden", 0x1000);
        _topology.Add(_topology.SystemRoot, default, Mmio("cover", 0x10000), 1);
        _topology.Add(_topology.SystemRoot, new BusAddress(0x100), hidden);
        FlatView view = _topology.System.View;
        _topology.Move(hidden, new BusAddress(0x200));
        Assert.Same(view, _topology.System.View);
    }

    [Fact]
    public void Loops_are_refused_by_type()
    {
        var inner = new ContainerRegion("inner", 0x1000);
        var outer = new ContainerRegion("outer", 0x1000);
        var alias = new AliasRegion("alias", outer, 0, 0x1000);
        _topology.Add(outer, default, inner);
        var error = Assert.Throws<RegionLoopException>(() => _topology.Add(inner, default, alias));
        Assert.Same(inner, error.Parent);
        Assert.Same(alias, error.Child);
        Assert.Throws<RegionLoopException>(() => _topology.Add(inner, default, outer));
        Assert.Throws<RegionLoopException>(() => _topology.Add(inner, default, new AliasRegion("self", inner, 0, 1)));
        Assert.Null(alias.Parent);

        // A disabled alias would loop as soon as it is enabled.
        _topology.SetEnabled(alias, false);
        Assert.Throws<RegionLoopException>(() => _topology.Add(inner, default, alias));
    }

    [Fact]
    public void Impossible_regions_are_refused()
    {
        Assert.Throws<ArgumentOutOfRangeException>(() => new ContainerRegion("empty", 0));
        Assert.Throws<ArgumentOutOfRangeException>(() => new ContainerRegion("huge", MemoryRegion.MaxSize + 1));
        Assert.Throws<ArgumentException>(() => new ContainerRegion("", 1));
        MmioRegion target = Mmio("target", 0x1000);
        Assert.Throws<ArgumentOutOfRangeException>(() => new AliasRegion("off", target, 0x1000, 1));
        Assert.Throws<ArgumentOutOfRangeException>(() => new AliasRegion("long", target, 0xFFF, 2));
        Assert.Throws<ArgumentOutOfRangeException>(() => new AliasRegion("wraps", target, 1, MemoryRegion.MaxSize));
        Assert.Throws<ArgumentOutOfRangeException>(() => new MmioRegion("rules", 8, new Registers(), new MmioAccessRules(3, 8, false)));
        Assert.Throws<ArgumentOutOfRangeException>(() => new MmioRegion("rules", 8, new Registers(), new MmioAccessRules(4, 2, false)));
        Assert.Throws<ArgumentOutOfRangeException>(() => new MmioRegion("rules", 8, new Registers(), new MmioAccessRules(1, 16, false)));
    }

    [Fact]
    public void A_region_is_placed_once()
    {
        MmioRegion region = Mmio("region", 0x1000);
        Assert.Throws<InvalidOperationException>(() => _topology.Remove(region));
        Assert.Throws<InvalidOperationException>(() => _topology.Move(region, default));
        _topology.Add(_topology.SystemRoot, new BusAddress(0x3000), region, 7);
        Assert.Same(_topology.SystemRoot, region.Parent);
        Assert.Equal(new BusAddress(0x3000), region.Offset);
        Assert.Equal(7, region.Priority);
        Assert.Throws<InvalidOperationException>(() => _topology.Add(_topology.SystemRoot, default, region));
        _topology.Remove(region);
        Assert.Null(region.Parent);
        _topology.Add(_topology.SystemRoot, default, region);
    }

    [Fact]
    public void The_listing_names_every_region_and_shared_view()
    {
        var ram = new RamRegion("dimm", _ram.Add("ram", 1 << 21));
        var window = new ContainerRegion("pci window", 0x10000);
        _topology.Add(window, new BusAddress(0x100), Mmio("bar", 0x100));
        _topology.Add(_topology.SystemRoot, default, new AliasRegion("low memory", ram, 0, 1 << 20));
        _topology.Add(_topology.SystemRoot, new BusAddress(0xE000_0000), new AliasRegion("hole", window, 0, 0x10000));
        _topology.CreateAddressSpace("nic", _topology.SystemRoot);
        _topology.SetEnabled(window.Children[0], false);
        string text = _topology.Describe();
        Assert.Contains("flat view of memory, nic, root container system", text, StringComparison.Ordinal);
        Assert.Contains("mmio bar [disabled]", text, StringComparison.Ordinal);
        Assert.Contains("0000000000000000-00000000000fffff ram dimm @0x0", text, StringComparison.Ordinal);
        Assert.Contains("alias hole of container pci window @0x0", text, StringComparison.Ordinal);
        Assert.Contains("tree: pci window", text, StringComparison.Ordinal);
    }

    private static MmioRegion Mmio(string name, ulong size) => new(name, size, new Registers());

    private static BusRange Range(ulong first, ulong last) => new(new BusAddress(first), new BusAddress(last));
}
