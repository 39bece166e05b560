namespace Godwit.Memory;

/// <summary>Who wrote a page. Kept apart only to show rates; the bits land in one bitmap.</summary>
public enum DirtySource
{
    /// <summary>A guest CPU.</summary>
    Vcpu,

    /// <summary>A passthrough device, by its own DMA.</summary>
    Device,

    /// <summary>The VMM on behalf of the guest: emulated devices, status writes, messages.</summary>
    Vmm,
}
