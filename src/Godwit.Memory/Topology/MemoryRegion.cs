namespace Godwit.Memory;

/// <summary>
/// A node of the region tree. Topology is changed only inside a <see cref="MemoryTopology"/> transaction; the properties that such a
/// change alters are stable while the caller holds one open, and a snapshot otherwise.
/// </summary>
public abstract class MemoryRegion
{
    /// <summary>Largest size: the whole 64-bit space.</summary>
    public static readonly UInt128 MaxSize = (UInt128)ulong.MaxValue + 1;

    /// <summary>Creates a region of <paramref name="size"/> bytes (1 to 2^64), enabled.</summary>
    /// <exception cref="ArgumentException">No name.</exception>
    /// <exception cref="ArgumentOutOfRangeException">The size is 0 or above 2^64.</exception>
    protected MemoryRegion(string name, UInt128 size)
    {
        ArgumentException.ThrowIfNullOrEmpty(name);
        if (size == 0 || size > MaxSize)
            throw new ArgumentOutOfRangeException(nameof(size), size, $"Region {name}: the size must be 1 to 2^64 bytes");
        Name = name;
        Size = size;
    }

    /// <summary>Shown in listings and errors.</summary>
    public string Name { get; }

    /// <summary>Bytes, up to 2^64.</summary>
    public UInt128 Size { get; }

    /// <summary>Whether it shows, with everything below it.</summary>
    public bool Enabled { get; internal set; } = true;

    /// <summary>Where it is placed, or null. A region has one parent at most; aliases show it elsewhere.</summary>
    public ContainerRegion? Parent { get; internal set; }

    /// <summary>Byte of <see cref="Parent"/> at which it begins.</summary>
    public BusAddress Offset { get; internal set; }

    /// <summary>Hides siblings of a lower one.</summary>
    public int Priority { get; internal set; }

    /// <summary>A word for listings.</summary>
    internal abstract string Kind { get; }

    /// <inheritdoc/>
    public override string ToString() => $"{Kind} {Name}";
}

/// <summary>
/// A region that only places other regions. Children with a higher priority hide those below; among equals the one added last hides.
/// Gaps are filled by lower ones; what sticks out of the container is cut off.
/// </summary>
public class ContainerRegion : MemoryRegion
{
    private readonly List<MemoryRegion> _children = [];

    /// <inheritdoc cref="MemoryRegion(string, UInt128)"/>
    public ContainerRegion(string name, UInt128 size) : base(name, size)
    {
    }

    internal override string Kind => "container";

    /// <summary>The children, topmost first.</summary>
    internal IReadOnlyList<MemoryRegion> Children => _children;

    /// <summary>Inserts above those of equal priority.</summary>
    internal void Insert(MemoryRegion child)
    {
        int index = _children.FindIndex(other => other.Priority <= child.Priority);
        _children.Insert(index < 0 ? _children.Count : index, child);
    }

    internal void Take(MemoryRegion child) => _children.Remove(child);
}

/// <summary>A window into a RAM block.</summary>
public sealed class RamRegion : MemoryRegion
{
    /// <summary>All of <paramref name="block"/>.</summary>
    public RamRegion(string name, RamBlock block, bool readOnly = false) : base(name, block.Size)
    {
        Block = block;
        ReadOnly = readOnly;
    }

    /// <summary>The backing block; an offset in the region is an offset in the block.</summary>
    public RamBlock Block { get; }

    /// <summary>Writes are dropped with <see cref="MemoryResult.AccessError"/>.</summary>
    public bool ReadOnly { get; }

    internal override string Kind => ReadOnly ? "rom" : "ram";
}

/// <summary>A window onto another region, wherever that one is placed. Shows nothing while the target is disabled.</summary>
public sealed class AliasRegion : MemoryRegion
{
    /// <summary>Shows <paramref name="size"/> bytes of <paramref name="target"/> from <paramref name="offset"/>.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The window leaves the target.</exception>
    public AliasRegion(string name, MemoryRegion target, ulong offset, UInt128 size) : base(name, size)
    {
        if (offset >= target.Size || size > target.Size - offset)
        {
            throw new ArgumentOutOfRangeException(nameof(offset), offset,
                $"Alias {name}: {size} bytes from {offset} leave {target} of {target.Size} bytes");
        }

        Target = target;
        TargetOffset = offset;
    }

    /// <summary>The region shown.</summary>
    public MemoryRegion Target { get; }

    /// <summary>Byte of <see cref="Target"/> that appears first.</summary>
    public ulong TargetOffset { get; }

    internal override string Kind => "alias";
}
