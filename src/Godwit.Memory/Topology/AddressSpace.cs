namespace Godwit.Memory;

/// <summary>Outcome of an access.</summary>
public enum MemoryResult
{
    /// <summary>Done.</summary>
    Ok,

    /// <summary>Nothing answers at that address (bus error).</summary>
    DecodeError,

    /// <summary>Something answers but refuses: read-only memory, wrong access size, IOMMU rights.</summary>
    AccessError,
}

/// <summary>What an initiator says of itself with each access.</summary>
/// <param name="Source">To whom a write to RAM is booked.</param>
/// <param name="RequesterId">Bus, device and function of a PCI initiator (bus &lt;&lt; 8 | devfn), or null for a CPU.</param>
public readonly record struct TransactionAttributes(DirtySource Source, ushort? RequesterId = null)
{
    /// <summary>An access by a guest CPU.</summary>
    public static TransactionAttributes Vcpu => new(DirtySource.Vcpu);

    /// <summary>An access by the VMM itself.</summary>
    public static TransactionAttributes Vmm => new(DirtySource.Vmm);
}

/// <summary>What changed between two flat views. Offset and block are those of the range as the listener saw it added.</summary>
public interface IMemoryListener
{
    /// <summary>Lower numbers are called first for additions and last for removals.</summary>
    int Priority => 0;

    /// <summary>A commit that may change this space begins.</summary>
    void TransactionBegin() { }

    /// <summary>A range went. All removals of a commit come before its first addition.</summary>
    void RegionRemoved(in FlatRange range);

    /// <summary>A range came.</summary>
    void RegionAdded(in FlatRange range);

    /// <summary>The commit is complete.</summary>
    void TransactionCommit() { }
}

/// <summary>
/// A view over one root region: system memory, or what one device sees. Reads take no lock: the view is immutable and swapped.
/// Created by <see cref="MemoryTopology"/>.
/// </summary>
public sealed class AddressSpace
{
    internal AddressSpace() { }

    /// <summary>Shown in listings.</summary>
    public string Name => throw new NotImplementedException();

    /// <summary>The view now.</summary>
    public FlatView View => throw new NotImplementedException();

    /// <summary>Whether this space shows system memory itself, with no IOMMU region in it (a device whose IOVA is GPA).</summary>
    public bool IsSystemMemory => throw new NotImplementedException();

    /// <summary>Reads, through IOMMU regions if need be. Splits at range borders; stops at the first failing piece.</summary>
    public MemoryResult Read(BusAddress address, Span<byte> destination, in TransactionAttributes attributes) => throw new NotImplementedException();

    /// <summary>Writes likewise; RAM pages are marked after the write.</summary>
    public MemoryResult Write(BusAddress address, ReadOnlySpan<byte> data, in TransactionAttributes attributes) => throw new NotImplementedException();

    /// <summary>Compare-and-exchange of an aligned 64-bit word in RAM, for table entries that the guest also changes.</summary>
    public MemoryResult CompareExchange(BusAddress address, ulong expected, ulong desired, out ulong previous, in TransactionAttributes attributes) => throw new NotImplementedException();

    /// <summary>Resolves an address of plain RAM without IOMMU: block, offset, and how many bytes follow contiguously in the same block.</summary>
    public bool TryResolveRam(BusAddress address, out RamBlock block, out ulong offset, out ulong contiguous, out bool readOnly) => throw new NotImplementedException();

    /// <summary>Adds a listener and replays the current view to it as additions, inside a transaction.</summary>
    public void AddListener(IMemoryListener listener) => throw new NotImplementedException();

    /// <summary>Replays the current view as removals and removes the listener.</summary>
    public void RemoveListener(IMemoryListener listener) => throw new NotImplementedException();
}
