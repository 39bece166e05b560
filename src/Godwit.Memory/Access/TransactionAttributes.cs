namespace Godwit.Memory;

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
