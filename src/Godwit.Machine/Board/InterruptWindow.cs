using Godwit.Memory;

namespace Godwit.Machine;

/// <summary>
/// The interrupt message window at 0xFEE0_0000 in system memory: a compatibility-format MSI (Intel SDM vol. 3, 11.11) becomes a vector
/// at the local APIC that the address names. A vIOMMU that remaps interrupts sits in front of it.
/// </summary>
internal sealed class InterruptWindow(IReadOnlyList<IVcpu> vcpus) : IMmioHandler
{
    private const int DestinationShift = 12;     // address bits 19:12: APIC id
    private const ulong RedirectionHint = 1 << 3; // address bit 3
    private const ulong LogicalDestination = 1 << 2; // address bit 2
    private const int DeliveryModeShift = 8;     // data bits 10:8
    private const byte FirstLegalVector = 16;    // vectors 0-15 are reserved (SDM vol. 3, 11.5.2)
    private const byte Broadcast = 0xFF;

    private long _dropped;

    /// <summary>Messages that named no vCPU, an illegal vector or a delivery mode other than fixed and lowest priority.</summary>
    public long Dropped => Interlocked.Read(ref _dropped);

    public ulong Read(ulong offset, int size, in TransactionAttributes attributes) => ulong.MaxValue;

    public void Write(ulong offset, ulong value, int size, in TransactionAttributes attributes)
    {
        // A CPU's own stores here address its APIC registers, which managed guests do not have; they are no messages.
        if (attributes.Source == DirtySource.Vcpu)
            return;

        byte destination = (byte)(offset >> DestinationShift);
        byte vector = (byte)value;
        uint deliveryMode = (uint)(value >> DeliveryModeShift) & 7;
        bool logical = (offset & (RedirectionHint | LogicalDestination)) == (RedirectionHint | LogicalDestination);
        if (vector < FirstLegalVector || deliveryMode > 1)
        {
            Interlocked.Increment(ref _dropped);
            return;
        }

        bool delivered = false;
        for (int i = 0; i < vcpus.Count; i++)
        {
            // Flat logical mode: bit n of the destination is the CPU with APIC id n (SDM vol. 3, 11.6.2.2).
            bool match = destination == Broadcast
                || (logical ? i < 8 && (destination & (1 << i)) != 0 : destination == vcpus[i].ApicId);
            if (!match)
                continue;
            vcpus[i].Interrupt(vector);
            delivered = true;
            if (deliveryMode == 1)
                break; // lowest priority: one of them
        }

        if (!delivered)
            Interlocked.Increment(ref _dropped);
    }
}
