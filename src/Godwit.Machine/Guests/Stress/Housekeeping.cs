using Godwit.Machine.Guests.Drivers.Spec;
using Godwit.Machine.Managed;

namespace Godwit.Machine.Guests.Stress;

/// <summary>What is looked after a few times a second: faults of the IOMMU, dead controllers, lost commands and lost interrupts.</summary>
internal static class Housekeeping
{
    public const ulong Interval = 100_000_000;
    private const ulong CommandTimeout = 30_000_000_000;
    private const ulong InterruptTimeout = 5_000_000_000;
    private const int SlotsPerLook = 64;

    public static void Run(GuestCpu cpu, ref StressControl control, ulong now)
    {
        if (now < control.NextHousekeeping)
            return;
        control.NextHousekeeping = now + Interval;
        if (control.Unit.Registers.Value != 0)
            CheckFaults(cpu, ref control);
        for (int i = 0; i < control.ControllerCount; i++)
        {
            ControllerState device = StressState.LoadController(cpu.Bus, control, i);
            if (device.Phase != ControllerPhase.Ready)
                continue;
            CheckController(cpu, ref control, ref device, i, now);
            StressState.StoreController(cpu.Bus, i, device);
        }
    }

    private static void CheckFaults(GuestCpu cpu, ref StressControl control)
    {
        // A broken unit could raise faults for ever; some at a time are enough to be counted.
        for (int i = 0; i < 8 && control.Unit.TryTakeFault(cpu, out ulong address, out ulong details); i++)
        {
            control.IommuFaults++;
            MismatchLog.Add(cpu.Bus, new MismatchRecord { Kind = MismatchKind.IommuFault, Where = address, Actual = details, Clock = cpu.Clock });
        }
    }

    private static void CheckController(GuestCpu cpu, ref StressControl control, ref ControllerState device, int index, ulong now)
    {
        uint status = cpu.ReadMmio32(device.Registers + NvmeRegisters.Status);
        if (status == uint.MaxValue)
        {
            // Surprise removal. Nothing of it is used any more; the rest of the machine goes on.
            device.Phase = ControllerPhase.Gone;
            MismatchLog.Add(cpu.Bus, new MismatchRecord { Kind = MismatchKind.ControllerGone, Controller = (uint)index, Clock = now });
            return;
        }

        if ((status & NvmeRegisters.StatusFatal) != 0)
            throw new GuestPanicException($"controller {index} reports a fatal error (CSTS 0x{status:x})");
        CheckCommands(cpu.Bus, control, ref device, index, now);
        CheckInterrupts(cpu, ref control, ref device, index, now);
    }

    private static void CheckCommands(GuestBus bus, in StressControl control, ref ControllerState device, int index, ulong now)
    {
        uint depth = (uint)control.Options.QueueDepth;
        for (int i = 0; i < SlotsPerLook && i < depth; i++)
        {
            uint id = device.ScanSlot++ % depth;
            CommandSlot slot = StressState.LoadSlot(bus, control, device, id);
            if (slot.State == SlotState.InFlight && now > slot.StartedAt + CommandTimeout)
            {
                throw new GuestPanicException(
                    $"controller {index} did not complete command {id} ({slot.Kind}, block {slot.Block}) within {CommandTimeout / 1_000_000_000} s");
            }
        }
    }

    /// <summary>A completion that lies there while no interrupt comes means that an interrupt was lost. It is noted, and taken.</summary>
    private static void CheckInterrupts(GuestCpu cpu, ref StressControl control, ref ControllerState device, int index, ulong now)
    {
        bool moved = device.InterruptCount != device.InterruptsAtCheck;
        device.InterruptsAtCheck = device.InterruptCount;
        if (moved || !device.Io.HasCompletion(cpu.Bus))
        {
            device.StuckSince = 0;
        }
        else if (device.StuckSince == 0)
        {
            device.StuckSince = now;
        }
        else if (now > device.StuckSince + InterruptTimeout)
        {
            control.Mismatches++;
            MismatchLog.Add(cpu.Bus, new MismatchRecord
            {
                Kind = MismatchKind.LostInterrupt,
                Controller = (uint)index,
                Detail = now - device.StuckSince,
                Clock = now,
            });
            device.StuckSince = 0;
            CompleteStage.Reap(cpu, ref control, ref device, index);
        }
    }
}
