namespace Godwit.Memory.Tests.Topology;

/// <summary>
/// A random region graph over a small space, changed step by step, and the naive answer to what appears at an address: asks every region
/// for one byte at a time, by recursion, and never renders anything.
/// </summary>
internal sealed class RandomTree
{
    internal const ulong Bytes = 256;
    private readonly Random _random;
    private readonly List<MemoryRegion> _regions = [];
    private int _named;

    internal RandomTree(Random random)
    {
        _random = random;
        Topology = new MemoryTopology();
        _regions.Add(Topology.SystemRoot);
        for (int i = 0; i < 3; i++)
            Create();
        Spaces = [Topology.System];
    }

    internal MemoryTopology Topology { get; }

    internal List<AddressSpace> Spaces { get; }

    /// <summary>Makes one random change; refused ones count as made.</summary>
    internal void Step()
    {
        MemoryRegion region = Any();
        switch (_random.Next(10))
        {
            case 0:
                Create();
                break;
            case 1 or 2 or 3 or 4:
                if (region.Parent is null)
                    Place(region);
                break;
            case 5:
                if (region.Parent is not null)
                    Topology.Remove(region);
                break;
            case 6 or 7:
                if (region.Parent is not null)
                    Topology.Move(region, RandomOffset());
                break;
            case 8:
                Topology.SetEnabled(region, _random.Next(3) != 0);
                break;
            default:
                if (Spaces.Count < 4)
                    Spaces.Add(Topology.CreateAddressSpace($"space{Spaces.Count}", region));
                break;
        }
    }

    /// <summary>What appears at one byte: the terminating region and the offset in it.</summary>
    internal static (MemoryRegion Region, ulong Offset)? Ask(MemoryRegion region, Int128 offset)
    {
        if (!region.Enabled || offset < 0 || offset >= (Int128)region.Size)
            return null;
        if (region is AliasRegion alias)
            return Ask(alias.Target, offset + alias.TargetOffset);
        if (region is not ContainerRegion container)
            return (region, (ulong)offset);
        foreach (MemoryRegion child in container.Children)
        {
            if (Ask(child, offset - child.Offset.Value) is { } found)
                return found;
        }

        return null;
    }

    /// <summary>Fails unless every space's view says of each byte what <see cref="Ask"/> says, and is sorted, disjoint and merged.</summary>
    internal void Check()
    {
        foreach (AddressSpace space in Spaces)
        {
            for (ulong address = 0; address < 2 * Bytes; address++)
            {
                (MemoryRegion, ulong)? expected = Ask(space.Root, address);
                (MemoryRegion, ulong)? actual = space.View.TryFind(new BusAddress(address), out FlatRange range)
                    ? (range.Region, range.OffsetInRegion + (address - range.Range.First.Value))
                    : null;
                if (expected != actual)
                    Assert.Fail($"{space} at {address}: expected {expected}, found {actual}\n{Topology.Describe()}");
            }

            for (int i = 1; i < space.View.Ranges.Length; i++)
            {
                FlatRange left = space.View.Ranges[i - 1];
                FlatRange right = space.View.Ranges[i];
                Assert.True(left.Range.Last < right.Range.First);
                bool continues = ReferenceEquals(left.Region, right.Region)
                    && left.Range.Last.Value + 1 == right.Range.First.Value
                    && left.OffsetInRegion + (ulong)left.Range.Length == right.OffsetInRegion;
                Assert.False(continues, $"{left} and {right} should be one");
            }
        }
    }

    private MemoryRegion Any() => _regions[_random.Next(_regions.Count)];

    private BusAddress RandomOffset() => new((ulong)_random.Next((int)Bytes) & (_random.Next(2) == 0 ? ulong.MaxValue : ~15UL));

    private void Place(MemoryRegion region)
    {
        if (Any() is not ContainerRegion parent)
            return;
        try
        {
            Topology.Add(parent, RandomOffset(), region, _random.Next(-1, 3));
        }
        catch (RegionLoopException)
        {
            // Right for a graph like this; RegionGraph has tests of its own.
            Assert.True(RegionGraph.Reaches(region, parent));
        }
    }

    private void Create()
    {
        string name = $"r{_named++}";
        int size = _random.Next(1, (int)Bytes);
        MemoryRegion region;
        switch (_random.Next(4))
        {
            case 0:
                region = new ContainerRegion(name, _random.Next(4) == 0 ? Bytes : (ulong)size);
                break;
            case 1:
                MemoryRegion target = Any();
                ulong offset = (ulong)_random.NextInt64((long)UInt128.Min(target.Size, Bytes));
                UInt128 most = UInt128.Min(target.Size - offset, Bytes);
                UInt128 length = _random.Next(3) == 0 ? target.Size - offset : 1 + (ulong)_random.NextInt64((long)most);
                region = new AliasRegion(name, target, offset, length);
                break;
            case 2:
                region = new TestIommu(name, (ulong)size);
                break;
            default:
                region = new MmioRegion(name, (ulong)size, new Registers());
                break;
        }

        _regions.Add(region);
    }
}
