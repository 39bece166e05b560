namespace Godwit.Iommu.Intel;

/// <summary>An interrupt as the local APICs get it (Intel SDM vol. 3, 11.11; VT-d 9.9).</summary>
/// <param name="Destination">APIC id, or a logical destination; 8 bits unless <paramref name="Extended"/>.</param>
/// <param name="Extended">The destination is an x2APIC one, of 32 bits.</param>
/// <param name="Logical">The destination is a logical one.</param>
/// <param name="ToOne">RH: to one of the CPUs that the destination names, not to each.</param>
/// <param name="DeliveryMode">0 fixed, 1 lowest priority, 2 SMI, 4 NMI, 5 INIT, 7 ExtINT.</param>
/// <param name="Vector">Vector.</param>
/// <param name="LevelTriggered">Level, else edge.</param>
public readonly record struct InterruptMessage(
    uint Destination, bool Extended, bool Logical, bool ToOne, int DeliveryMode, byte Vector, bool LevelTriggered)
{
    private const ulong RedirectionHint = 1 << 3;
    private const ulong LogicalDestination = 1 << 2;
    private const uint EventData = 0x1FF; // delivery mode, one bit, and vector: all that the unit's own messages have (VT-d 5.1.6)

    /// <summary>Whether all local APICs are meant: all ones (SDM vol. 3, 11.6.2.1 and 11.12.9).</summary>
    public bool IsBroadcast => Destination == (Extended ? uint.MaxValue : byte.MaxValue);

    /// <summary>
    /// A compatibility-format request (SDM vol. 3, 11.11.1 and 11.11.2; VT-d 5.1.2.1). DM counts with RH only.
    /// </summary>
    public static InterruptMessage FromCompatibility(ulong address, uint data) => new(
        (byte)(address >> 12),
        Extended: false,
        (address & (RedirectionHint | LogicalDestination)) == (RedirectionHint | LogicalDestination),
        (address & RedirectionHint) != 0,
        (int)(data >> 8) & 7,
        (byte)data,
        (data & (1 << 15)) != 0);

    /// <summary>
    /// A message of a remapping unit itself (VT-d 5.1.6), from its event registers: edge-triggered, fixed or to the lowest priority. In x2APIC
    /// mode the upper address holds bits 31:8 of the destination; in xAPIC mode it is reserved, and ignored.
    /// </summary>
    internal static InterruptMessage FromEvent(uint upperAddress, uint address, uint data, bool extended) =>
        FromCompatibility(address, data & EventData) with
        {
            Destination = (extended ? upperAddress & ~0xFFu : 0) | (byte)(address >> 12),
            Extended = extended,
        };
}

/// <summary>Where interrupts go that a remapping unit lets through.</summary>
public interface IInterruptSink
{
    /// <summary>Delivers one. Any thread, maybe inside the access guard; must not wait for accesses or for a thread that programs the unit.</summary>
    void Deliver(in InterruptMessage message);
}
