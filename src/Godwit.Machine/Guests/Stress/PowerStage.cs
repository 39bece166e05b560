using Godwit.Machine.Guests.Drivers;
using Godwit.Machine.Managed;

namespace Godwit.Machine.Guests.Stress;

/// <summary>From the power button to the end: what is in flight ends, then the machine is switched off.</summary>
internal static class PowerStage
{
    private const uint BootCpu = 0;

    /// <summary>Listens to the button, at the first CPU.</summary>
    public static void Start(GuestCpu cpu, ref StressControl control) => control.Power.Listen(
        cpu,
        control.Unit.RemapsInterrupts
            ? control.Unit.AddInterrupt(cpu, control.PowerSource, BootCpu, PowerButton.Vector, level: true)
            : MsiMessage.Compatible(BootCpu, PowerButton.Vector));

    /// <summary>Interrupt handler.</summary>
    public static void Interrupt(GuestCpu cpu, ref StressControl control) => control.PoweringDown |= control.Power.Take(cpu);

    /// <summary>Switches off when no controller has a command in flight. After <see cref="RunStage"/>, which starts none any more.</summary>
    public static void SwitchOffWhenIdle(GuestCpu cpu, ref StressControl control)
    {
        for (int i = 0; i < control.ControllerCount; i++)
        {
            ControllerState device = StressState.LoadController(cpu.Bus, control, i);
            if (device.Phase == ControllerPhase.Ready && device.FreeCount < device.SlotCount)
                return;
        }

        control.Phase = StressPhase.Off;
        control.Power.Off(cpu);
    }
}
