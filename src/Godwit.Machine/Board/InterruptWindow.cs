using Godwit.Iommu.Intel;
using Godwit.Memory;

namespace Godwit.Machine;

/// <summary>
/// The interrupt message window at 0xFEE0_0000 in system memory: a message (Intel SDM vol. 3, 11.11) becomes a vector at the local APICs
/// that it names. A request of a function below the vIOMMU goes through its interrupt remapping first; not so those of functions on buses that
/// bypass the unit, which no scope of the DMAR table names, so that a guest's driver finds no remapping hardware for them and sends
/// compatibility format (VT-d 8.3). The unit's own messages do not come here (<see cref="IntelIommu.ConnectEvents"/>).
/// </summary>
/// <param name="apics">Where messages end.</param>
/// <param name="unit">The vIOMMU, or null.</param>
/// <param name="bypasses">Whether the function with a requester id is on a bus that bypasses the unit.</param>
internal sealed class InterruptWindow(IInterruptSink apics, IntelIommu? unit, Func<ushort, bool> bypasses) : IMmioHandler
{
    /// <summary>
    /// A message is a write of one aligned doubleword (VT-d 3.15, SDM vol. 3, 11.11.1). A longer write is one request of another kind, not
    /// several messages: it is refused, and a fault of the unit. So is what reaches in here of a write that begins below, though no device may
    /// send one across a page's end (VT-d 3.13).
    /// </summary>
    public static MmioAccessRules Rules => new(4, 4, AllowUnaligned: false) { Splits = false };

    /// <summary>All ones; that of a function below the unit is a fault too (VT-d 3.15).</summary>
    public ulong Read(ulong offset, int size, in TransactionAttributes attributes)
    {
        Refused(offset, size, write: false, attributes);
        return ulong.MaxValue;
    }

    public void Refused(ulong offset, int length, bool write, in TransactionAttributes attributes)
    {
        if (attributes.RequesterId is { } requester && !bypasses(requester))
            unit?.RejectInterruptRangeRequest(requester, write);
    }

    public void Write(ulong offset, ulong value, int size, in TransactionAttributes attributes)
    {
        // Only functions send messages. A CPU's own stores here address its APIC registers, which managed guests do not have.
        if (attributes.RequesterId is not { } requester)
            return;
        ulong address = BoardLayout.InterruptBase.Value + offset;
        if (!bypasses(requester))
            Send(requester, address, (uint)value);
        else
            apics.Deliver(InterruptMessage.FromCompatibility(address, (uint)value));
    }

    /// <summary>A message of <paramref name="requester"/>, which is under the unit, if there is one.</summary>
    public void Send(ushort requester, ulong address, uint data)
    {
        if (unit?.Interrupts is { } remapper)
            remapper.Deliver(requester, address, data, apics);
        else
            apics.Deliver(InterruptMessage.FromCompatibility(address, data));
    }
}
