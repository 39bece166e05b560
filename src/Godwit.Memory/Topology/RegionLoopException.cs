namespace Godwit.Memory;

/// <summary>A placement that would make a region show itself, through its children and aliases.</summary>
public sealed class RegionLoopException : InvalidOperationException
{
    internal RegionLoopException(MemoryRegion parent, MemoryRegion child)
        : base($"{child} cannot be placed in {parent}: it shows {parent} itself")
    {
        Parent = parent;
        Child = child;
    }

    /// <summary>Where the region was to be placed.</summary>
    public MemoryRegion Parent { get; }

    /// <summary>The region.</summary>
    public MemoryRegion Child { get; }
}
