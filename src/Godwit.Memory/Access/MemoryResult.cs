namespace Godwit.Memory;

/// <summary>Outcome of an access.</summary>
public enum MemoryResult
{
    /// <summary>Done.</summary>
    Ok,

    /// <summary>Nothing answers at that address (bus error).</summary>
    DecodeError,

    /// <summary>Something answers but refuses: read-only memory, wrong access size, IOMMU rights, registers that access themselves without end.</summary>
    AccessError,
}
