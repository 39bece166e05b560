namespace Godwit.Memory;

/// <summary>
/// The writer side of memory: one lock for all topology changes, made in transactions. The outermost commit renders the roots that
/// may have changed (equal reduced roots share one view), swaps the views, then tells each space's listeners: all removals first.
/// </summary>
public sealed class MemoryTopology
{
    /// <summary>Creates an empty topology whose system memory is an empty 2^64 container.</summary>
    public MemoryTopology() => throw new NotImplementedException();

    /// <summary>Root of system memory.</summary>
    public ContainerRegion SystemRoot => throw new NotImplementedException();

    /// <summary>The space that CPUs access, and devices behind no IOMMU.</summary>
    public AddressSpace System => throw new NotImplementedException();

    /// <summary>Creates a space over <paramref name="root"/>.</summary>
    public AddressSpace CreateAddressSpace(string name, MemoryRegion root) => throw new NotImplementedException();

    /// <summary>
    /// Opens a transaction; nests. Holds the writer lock until the returned value is disposed, which commits. Changes made outside
    /// one open their own.
    /// </summary>
    public TopologyTransaction Begin() => throw new NotImplementedException();

    /// <summary>Places <paramref name="child"/> at <paramref name="offset"/> of <paramref name="parent"/>; higher priority hides lower.</summary>
    public void Add(ContainerRegion parent, BusAddress offset, MemoryRegion child, int priority = 0) => throw new NotImplementedException();

    /// <summary>Takes <paramref name="child"/> out of its parent.</summary>
    public void Remove(MemoryRegion child) => throw new NotImplementedException();

    /// <summary>Moves <paramref name="child"/> within its parent.</summary>
    public void Move(MemoryRegion child, BusAddress offset) => throw new NotImplementedException();

    /// <summary>Shows or hides <paramref name="region"/> with everything below it.</summary>
    public void SetEnabled(MemoryRegion region, bool enabled) => throw new NotImplementedException();

    /// <summary>
    /// Waits until every access that began before this call has ended. An IOMMU calls it after dropping a translation and before it
    /// tells the guest so: translate and use happen under one guard.
    /// </summary>
    public void WaitForAccesses() => throw new NotImplementedException();
}

/// <summary>An open transaction; disposing commits.</summary>
public readonly struct TopologyTransaction : IDisposable
{
    /// <inheritdoc/>
    public void Dispose() => throw new NotImplementedException();
}
