using Godwit.Iommu.Intel;
using Godwit.Memory;

namespace Godwit.Machine;

/// <summary>
/// The interrupt message window at 0xFEE0_0000 in system memory: a message (Intel SDM vol. 3, 11.11) becomes a vector at the local APICs
/// that it names. A request of a PCI function goes through the vIOMMU's interrupt remapping first, if there is one; messages of the unit
/// itself bear no requester id and do not (VT-d 5.1.6).
/// </summary>
internal sealed class InterruptWindow(IReadOnlyList<IVcpu> vcpus, InterruptRemapper? remapper) : IMmioHandler, IInterruptSink
{
    private const byte FirstLegalVector = 16;    // vectors 0-15 are reserved (SDM vol. 3, 11.5.2)
    private const int LowestPriority = 1;
    private const int FlatModeCpus = 8;

    private long _dropped;

    /// <summary>Messages that named no vCPU, an illegal vector or a delivery mode other than fixed and lowest priority.</summary>
    public long Dropped => Interlocked.Read(ref _dropped);

    public ulong Read(ulong offset, int size, in TransactionAttributes attributes) => ulong.MaxValue;

    public void Write(ulong offset, ulong value, int size, in TransactionAttributes attributes)
    {
        // A CPU's own stores here address its APIC registers, which managed guests do not have; they are no messages.
        if (attributes.Source == DirtySource.Vcpu)
            return;
        ulong address = BoardLayout.InterruptBase.Value + offset;
        if (remapper is not null && attributes.RequesterId is { } requester)
            remapper.Deliver(requester, address, (uint)value, this);
        else
            Deliver(InterruptMessage.FromCompatibility(address, (uint)value));
    }

    public void Deliver(in InterruptMessage message)
    {
        if (message.Vector < FirstLegalVector || message.DeliveryMode > LowestPriority)
        {
            Interlocked.Increment(ref _dropped);
            return;
        }

        bool delivered = false;
        for (int i = 0; i < vcpus.Count; i++)
        {
            if (!IsNamed(message, vcpus[i].ApicId))
                continue;
            vcpus[i].Interrupt(message.Vector);
            delivered = true;
            if (message.DeliveryMode == LowestPriority)
                break; // one of them
        }

        if (!delivered)
            Interlocked.Increment(ref _dropped);
    }

    private static bool IsNamed(in InterruptMessage message, uint apicId)
    {
        if (message.IsBroadcast)
            return true;
        if (!message.Logical)
            return message.Destination == apicId;
        // x2APIC: cluster in bits 31:16, one bit for each of its 16 CPUs below (SDM vol. 3, 11.12.10.2).
        if (message.Extended)
            return message.Destination >> 16 == apicId >> 4 && (message.Destination & (1u << (int)(apicId & 15))) != 0;
        // Flat logical mode: bit n is the CPU with APIC id n (SDM vol. 3, 11.6.2.2).
        return apicId < FlatModeCpus && (message.Destination & (1u << (int)apicId)) != 0;
    }
}
