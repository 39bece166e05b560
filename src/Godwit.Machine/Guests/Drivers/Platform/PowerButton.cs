using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Drivers;

/// <summary>
/// The power button and the switch, as ACPI's fixed hardware (ACPI 6.5, 4.8.3), interrupting through the I/O APIC. Lies in guest RAM.
/// </summary>
internal struct PowerButton
{
    /// <summary>The vector of its interrupt.</summary>
    public const byte Vector = 0x30;

    private const ushort Button = 1 << 8;        // PWRBTN_STS, PWRBTN_EN
    private const ulong Enable = 2;              // PM1_EN behind PM1_STS
    private const ushort SwitchOff = (1 << 13) | (5 << 10); // SLP_EN, SLP_TYP of soft off
    private const ulong Window = 0x10;           // IOWIN; IOREGSEL at 0 (82093AA 3.1)
    private const ulong EndOfInterrupt = 0x40;
    private const uint FirstEntry = 0x10;
    private const uint Level = 1 << 15;

    public Gpa IoApic;
    public uint Pin;
    public Gpa Events;
    public Gpa Control;

    /// <summary>
    /// Lets the pin send <paramref name="message"/>, level-triggered, and the button raise the pin. The entry's upper bits are those of the
    /// message's address, in both formats (82093AA 3.2.4, VT-d 5.1.5.1).
    /// </summary>
    public readonly void Listen(GuestCpu cpu, MsiMessage message)
    {
        uint high = (message.Address >> 4 & 0xFFFF) << 16;
        uint low = Vector | Level | ((message.Address & 4) << 9); // bit 15 of an index stands in bit 11
        WriteIoApic(cpu, FirstEntry + (2 * Pin) + 1, high);
        WriteIoApic(cpu, FirstEntry + (2 * Pin), low);
        cpu.Bus.WriteMmio(Events + Enable, Button, 2);
    }

    /// <summary>Interrupt handler: whether the button was pressed. The pin is released before its end is told, so it does not come twice.</summary>
    public readonly bool Take(GuestCpu cpu)
    {
        bool pressed = (cpu.Bus.ReadMmio(Events, 2) & Button) != 0;
        cpu.Bus.WriteMmio(Events, Button, 2);
        cpu.WriteMmio32(IoApic + EndOfInterrupt, Vector);
        return pressed;
    }

    /// <summary>Switches the machine off.</summary>
    public readonly void Off(GuestCpu cpu) => cpu.Bus.WriteMmio(Control, SwitchOff, 2);

    private readonly void WriteIoApic(GuestCpu cpu, uint register, uint value)
    {
        cpu.WriteMmio32(IoApic, register);
        cpu.WriteMmio32(IoApic + Window, value);
    }
}
