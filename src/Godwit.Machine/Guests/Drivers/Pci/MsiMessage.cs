using Godwit.Machine.Managed;

namespace Godwit.Machine.Guests.Drivers;

/// <summary>What a device writes, and where, to interrupt a CPU; the upper half of the address is 0.</summary>
internal readonly record struct MsiMessage(uint Address, uint Data)
{
    private const uint Window = 0xFEE0_0000;

    /// <summary>Compatibility format: edge, fixed, physical destination of 8 bits (Intel SDM vol. 3, 11.11.1 and 11.11.2).</summary>
    public static MsiMessage Compatible(uint destination, byte vector) => destination < byte.MaxValue
        ? new MsiMessage(Window | (destination << 12), vector)
        : throw new GuestPanicException($"a message of 8 bits cannot name APIC id {destination}; that needs interrupt remapping with EIM");
}
