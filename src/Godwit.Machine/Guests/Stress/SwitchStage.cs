using Godwit.Machine.Guests.Drivers;
using Godwit.Machine.Guests.Drivers.Spec;
using Godwit.Machine.Managed;

namespace Godwit.Machine.Guests.Stress;

/// <summary>
/// Sends a controller from one domain to another and to pass-through, round and round. It starts no commands until those in flight have
/// ended, so the device does no DMA while its domain changes; its queues lie at the same address in all of them, so it never notices.
/// </summary>
internal static class SwitchStage
{
    private const uint Places = 3;
    private const uint PassThrough = 2; // 0 and 1 are the two domains

    /// <summary>The id of the domain that pass-through is, for a controller.</summary>
    public static ushort PassThroughDomain(int index) => (ushort)((2 * StressLayout.MaxControllers) + index + 1);

    /// <summary>Switches when it is time and nothing is in flight. False: it did not.</summary>
    public static bool Run(GuestCpu cpu, ref StressControl control, ref ControllerState device, int index, ulong now)
    {
        if (control.Options.DomainSwitches == 0 || !control.Translating)
            return false;
        if (!device.SwitchPending && device.Switching.Take(now, control.Options.DomainSwitches, 1) == 0)
            return false;
        device.SwitchPending = true;
        if (device.FreeCount < device.SlotCount)
            return false;

        if (device.Translated)
        {
            DmaMapping.FlushLazy(cpu, ref control, ref device);
            ChurnStage.UnmapBuffers(cpu, ref control, ref device);
        }

        device.Place = (device.Place + 1) % Places;
        if (device.Place == PassThrough && (control.Unit.ExtendedCapabilities & VtdRegisters.PassThrough) == 0)
            device.Place = 0;
        device.Translated = device.Place != PassThrough;
        if (device.Translated)
            (device.Dma, device.OtherDma) = (device.OtherDma, device.Dma);
        IoPageTable? table = device.Translated ? device.Dma.Table : null;
        control.Unit.Attach(cpu, device.Bdf, device.Translated ? device.Dma.Id : PassThroughDomain(index), table, device.Pasids);
        if (device.Translated)
            ChurnStage.MapBuffers(cpu, ref control, ref device);
        control.DomainSwitches++;
        device.SwitchPending = false;
        return true;
    }
}
