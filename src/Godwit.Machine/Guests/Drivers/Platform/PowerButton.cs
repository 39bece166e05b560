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

    public IoApicInput Input;
    public Gpa Events;
    public Gpa Control;

    /// <summary>Lets the pin send <paramref name="message"/>, and the button raise the pin.</summary>
    public readonly void Listen(GuestCpu cpu, MsiMessage message)
    {
        Input.Listen(cpu, message);
        cpu.Bus.WriteMmio(Events + Enable, Button, 2);
    }

    /// <summary>Interrupt handler: whether the button was pressed. The pin is released before its end is told, so it does not come twice.</summary>
    public readonly bool Take(GuestCpu cpu)
    {
        bool pressed = (cpu.Bus.ReadMmio(Events, 2) & Button) != 0;
        cpu.Bus.WriteMmio(Events, Button, 2);
        Input.End(cpu);
        return pressed;
    }

    /// <summary>Switches the machine off.</summary>
    public readonly void Off(GuestCpu cpu) => cpu.Bus.WriteMmio(Control, SwitchOff, 2);
}
