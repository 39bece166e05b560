using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Drivers;

/// <summary>A level-triggered pin of the I/O APIC that a driver listens to (Intel 82093AA datasheet, 3.1 and 3.2.4). Lies in guest RAM.</summary>
internal struct IoApicInput
{
    private const ulong Window = 0x10;           // IOWIN; IOREGSEL at 0 (3.1)
    private const ulong EndOfInterrupt = 0x40;
    private const uint FirstEntry = 0x10;
    private const uint Level = 1 << 15;

    public Gpa IoApic;
    public uint Pin;
    public byte Vector;

    /// <summary>
    /// Lets the pin send <paramref name="message"/>. The entry's upper bits are those of the message's address, in both formats (VT-d 5.1.5.1).
    /// </summary>
    public readonly void Listen(GuestCpu cpu, MsiMessage message)
    {
        uint high = (message.Address >> 4 & 0xFFFF) << 16;
        uint low = Vector | Level | ((message.Address & 4) << 9); // bit 15 of an index stands in bit 11
        Write(cpu, FirstEntry + (2 * Pin) + 1, high);
        Write(cpu, FirstEntry + (2 * Pin), low);
    }

    /// <summary>Its interrupt has been handled; while the pin is high another follows.</summary>
    public readonly void End(GuestCpu cpu) => cpu.WriteMmio32(IoApic + EndOfInterrupt, Vector);

    private readonly void Write(GuestCpu cpu, uint register, uint value)
    {
        cpu.WriteMmio32(IoApic, register);
        cpu.WriteMmio32(IoApic + Window, value);
    }
}
