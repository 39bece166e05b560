using Godwit.Machine.Managed;

namespace Godwit.Machine.Guests.Stress;

/// <summary>One step of the run: some of everything that is due; halts until the next event when nothing is.</summary>
internal static class RunStage
{
    public static void Run(GuestCpu cpu, ref StressControl control)
    {
        ulong now = cpu.Clock;
        bool worked = DirtyStage.Run(cpu, ref control, now);
        ulong wake = Math.Min(
            now + Housekeeping.Interval,
            control.Options.WorkingSetPages == 0 ? ulong.MaxValue : control.Dirtying.Due(control.Options.DirtyRate));
        for (int i = 0; i < control.ControllerCount; i++)
        {
            ControllerState device = StressState.LoadController(cpu.Bus, control, i);
            if (device.Phase != ControllerPhase.Ready)
                continue;
            bool busy = CompleteStage.Run(cpu, ref control, ref device, i);
            busy |= SwitchStage.Run(cpu, ref control, ref device, i, now);
            busy |= SubmitStage.Run(cpu, ref control, ref device, now);
            busy |= ChurnStage.Run(cpu, ref control, ref device, now);
            if (device.FlushCount > 0 && now >= device.FlushBy)
                DmaMapping.FlushLazy(cpu, ref control, ref device);

            // Without a rate the next command is started by a completion, which is an interrupt.
            if (device.FreeCount > 0 && !device.SwitchPending && !control.PoweringDown)
                wake = Math.Min(wake, device.IoPacing.Due(control.Options.IoRate));
            if (!device.SwitchPending)
                wake = Math.Min(wake, device.Switching.Due(control.Options.DomainSwitches));
            if (device.ChurnCount > 0)
                wake = Math.Min(wake, device.Churn.Due(control.Options.Churn));
            if (device.FlushCount > 0)
                wake = Math.Min(wake, device.FlushBy);
            StressState.StoreController(cpu.Bus, i, device);
            worked |= busy;
        }

        if (control.Unit.RemapsInterrupts && control.Options.InterruptMoves > 0)
        {
            RemoteInterrupts.Move(cpu, ref control, now);
            wake = Math.Min(wake, control.InterruptMoves.Due(control.Options.InterruptMoves));
        }

        Housekeeping.Run(cpu, ref control, now);
        if (!worked)
            cpu.Halt(wake);
    }
}
