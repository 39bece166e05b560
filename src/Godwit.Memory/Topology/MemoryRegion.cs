using System.Collections.Immutable;

namespace Godwit.Memory;

/// <summary>A node of the region tree. Topology is changed only inside a <see cref="MemoryTopology"/> transaction.</summary>
public abstract class MemoryRegion
{
    /// <summary>Creates a region of <paramref name="size"/> bytes (1 to 2^64).</summary>
    protected MemoryRegion(string name, UInt128 size) => throw new NotImplementedException();

    /// <summary>Shown in listings and errors.</summary>
    public string Name => throw new NotImplementedException();

    /// <summary>Bytes, up to 2^64.</summary>
    public UInt128 Size => throw new NotImplementedException();
}

/// <summary>A region that only places other regions. Children with a higher priority hide those below; gaps are filled by lower ones.</summary>
public class ContainerRegion : MemoryRegion
{
    /// <inheritdoc cref="MemoryRegion(string, UInt128)"/>
    public ContainerRegion(string name, UInt128 size) : base(name, size) { }
}

/// <summary>A window into a RAM block.</summary>
public sealed class RamRegion : MemoryRegion
{
    /// <summary>All of <paramref name="block"/>.</summary>
    public RamRegion(string name, RamBlock block, bool readOnly = false) : base(name, block.Size) { }

    /// <summary>The backing block; an offset in the region is an offset in the block.</summary>
    public RamBlock Block => throw new NotImplementedException();

    /// <summary>Writes are dropped with <see cref="MemoryResult.AccessError"/>.</summary>
    public bool ReadOnly => throw new NotImplementedException();
}

/// <summary>A window onto another region.</summary>
public sealed class AliasRegion : MemoryRegion
{
    /// <summary>Shows <paramref name="size"/> bytes of <paramref name="target"/> from <paramref name="offset"/>.</summary>
    public AliasRegion(string name, MemoryRegion target, ulong offset, UInt128 size) : base(name, size) { }
}

/// <summary>What a device's registers do when accessed. Offsets are within the region.</summary>
public interface IMmioHandler
{
    /// <summary>Reads <paramref name="size"/> (1, 2, 4 or 8) bytes, little endian in the low bytes of the result.</summary>
    ulong Read(ulong offset, int size, in TransactionAttributes attributes);

    /// <summary>Writes the low <paramref name="size"/> bytes of <paramref name="value"/>.</summary>
    void Write(ulong offset, ulong value, int size, in TransactionAttributes attributes);
}

/// <summary>Access sizes a handler takes; wider accesses are split, narrower ones refused unless in range.</summary>
public readonly record struct MmioAccessRules(int MinSize, int MaxSize, bool AllowUnaligned)
{
    /// <summary>1 to 8 bytes, aligned.</summary>
    public static MmioAccessRules Default => new(1, 8, false);
}

/// <summary>A region whose accesses are calls.</summary>
public sealed class MmioRegion : MemoryRegion
{
    /// <summary>Creates the region.</summary>
    public MmioRegion(string name, ulong size, IMmioHandler handler, MmioAccessRules? rules = null) : base(name, size) { }
}

/// <summary>One contiguous piece of a flat view.</summary>
/// <param name="Range">Where it appears.</param>
/// <param name="Region">The terminating region: RAM, MMIO or IOMMU, never a container or alias.</param>
/// <param name="OffsetInRegion">Byte of <paramref name="Region"/> at <c>Range.First</c>.</param>
/// <param name="ReadOnly">Writes are refused.</param>
public readonly record struct FlatRange(BusRange Range, MemoryRegion Region, ulong OffsetInRegion, bool ReadOnly);

/// <summary>An immutable, sorted, disjoint rendering of a region tree. Shared by all spaces whose roots reduce to the same region.</summary>
public sealed class FlatView
{
    internal FlatView() { }

    /// <summary>The pieces, ascending.</summary>
    public ImmutableArray<FlatRange> Ranges => throw new NotImplementedException();

    /// <summary>The piece that holds <paramref name="address"/>.</summary>
    public bool TryFind(BusAddress address, out FlatRange range) => throw new NotImplementedException();
}
