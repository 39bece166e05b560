using Godwit.Iommu.Intel;

namespace Godwit.Machine;

/// <summary>
/// The local APICs of all vCPUs: what becomes of an interrupt message, wherever it comes from (Intel SDM vol. 3, 11.6.2 and 11.12). vCPUs
/// are added while the machine is built; after that any thread may deliver.
/// </summary>
internal sealed class LocalApics : IInterruptSink
{
    private const byte FirstLegalVector = 16;    // vectors 0-15 are reserved (SDM vol. 3, 11.5.2)
    private const int LowestPriority = 1;
    private const int FlatModeCpus = 8;

    private readonly List<IVcpu> _vcpus = [];
    private readonly Dictionary<uint, IVcpu> _byId = [];
    private long _dropped;

    /// <summary>Messages that named no vCPU, an illegal vector or a delivery mode other than fixed and lowest priority.</summary>
    public long Dropped => Interlocked.Read(ref _dropped);

    /// <summary>Adds the local APIC of <paramref name="vcpu"/>.</summary>
    public void Add(IVcpu vcpu)
    {
        _byId.Add(vcpu.ApicId, vcpu);
        _vcpus.Add(vcpu);
    }

    public void Deliver(in InterruptMessage message)
    {
        if (message.Vector < FirstLegalVector || message.DeliveryMode > LowestPriority || !DeliverTo(message))
            Interlocked.Increment(ref _dropped);
    }

    private bool DeliverTo(in InterruptMessage message)
    {
        if (!message.Logical && !message.IsBroadcast)
        {
            if (!_byId.TryGetValue(message.Destination, out IVcpu? only))
                return false;
            only.Interrupt(message.Vector);
            return true;
        }

        bool delivered = false;
        foreach (IVcpu vcpu in _vcpus)
        {
            if (!message.IsBroadcast && !IsInSet(message, vcpu.ApicId))
                continue;
            vcpu.Interrupt(message.Vector);
            delivered = true;
            if (message.DeliveryMode == LowestPriority || message.ToOne)
                break; // one of them, any
        }

        return delivered;
    }

    private static bool IsInSet(in InterruptMessage message, uint apicId)
    {
        // x2APIC: cluster in bits 31:16, one bit for each of its 16 CPUs below (SDM vol. 3, 11.12.10.2).
        if (message.Extended)
            return message.Destination >> 16 == apicId >> 4 && (message.Destination & (1u << (int)(apicId & 15))) != 0;
        // Flat logical mode: bit n is the CPU with APIC id n (SDM vol. 3, 11.6.2.2).
        return apicId < FlatModeCpus && (message.Destination & (1u << (int)apicId)) != 0;
    }
}
