using Godwit.Machine.Guests.Drivers;
using Godwit.Machine.Guests.Drivers.Spec;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Stress;

/// <summary>Finds the NVMe controllers on bus 0, gives them addresses and interrupts.</summary>
internal static class PciStage
{
    private const uint DevicesPerBus = 32;
    private const byte FirstVector = 0x40;

    /// <summary>Looks at one device number; when all are done, goes on.</summary>
    public static void ScanOne(GuestCpu cpu, ref StressControl control)
    {
        if (control.ScanDevice >= DevicesPerBus)
        {
            if (control.ControllerCount == 0 && control.Options.NeedsDisk)
                throw new GuestPanicException("there is no NVMe controller on bus 0");
            control.Phase = StressPhase.StartIommu;
            return;
        }

        uint device = control.ScanDevice++;
        int functions = 1;
        for (int function = 0; function < functions; function++)
        {
            ushort bdf = (ushort)((device << 3) | (uint)function);
            var config = new PciConfig(cpu, control.Ecam, bdf);
            if (!config.Exists)
                continue;
            int header = config.Read8(PciRegisters.HeaderType);
            if (function == 0 && (header & PciRegisters.HeaderMultiFunction) != 0)
                functions = 8;
            if ((header & PciRegisters.HeaderLayoutMask) == 0 && config.ClassCode == PciRegisters.ClassNvme
                && control.ControllerCount < StressLayout.MaxControllers)
            {
                AddController(cpu, ref control, config, bdf);
            }
        }
    }

    /// <summary>
    /// Routes both interrupts of a controller to the CPU that the options name: through the remapping table when there is one, else by
    /// messages that name the CPU themselves.
    /// </summary>
    public static void RouteInterrupts(GuestCpu cpu, ref StressControl control, ref ControllerState device, int index)
    {
        var destination = (uint)control.Options.InterruptCpu;
        byte vector = (byte)(FirstVector + (2 * index));
        Span<MsiMessage> messages = stackalloc MsiMessage[2];
        for (int i = 0; i < messages.Length; i++, vector++)
        {
            messages[i] = control.Unit.RemapsInterrupts
                ? control.Unit.AddInterrupt(cpu, device.Bdf, destination, vector)
                : MsiMessage.Compatible(destination, vector);
        }

        int used = new PciConfig(cpu, control.Ecam, device.Bdf).EnableMsix(messages);
        if (used == 0)
            throw new GuestPanicException($"NVMe controller 0x{device.Bdf:x4} has no MSI-X");
        device.VectorCount = (uint)used;
    }

    /// <summary>The controller that a vector belongs to, or -1. Each has two: admin queue and I/O queue.</summary>
    public static int ControllerOf(byte vector, uint controllers)
    {
        int index = (vector - FirstVector) / 2;
        return vector >= FirstVector && index < controllers ? index : -1;
    }

    private static void AddController(GuestCpu cpu, ref StressControl control, PciConfig config, ushort bdf)
    {
        Span<ulong> bars = stackalloc ulong[PciRegisters.Bars];
        config.PlaceBars(ref control.MmioNext, control.MmioEnd, bars);
        if (bars[0] == 0)
            throw new GuestPanicException($"NVMe controller 0x{bdf:x4} has no BAR 0");
        config.Enable();

        int index = (int)control.ControllerCount++;
        cpu.Bus.Store(StressLayout.Controller(index), new ControllerState
        {
            Phase = ControllerPhase.Found,
            Bdf = bdf,
            Registers = new Gpa(bars[0]),
        });
    }
}
