using Godwit.Machine.Guests.Patterns;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Stress;

/// <summary>The CPU's own dirtying: sweeps over the working set in a scattered order, verifies each page and writes it anew.</summary>
internal static class DirtyStage
{
    private const uint PagesPerStep = 128;
    private const ulong PagesPerMiB = 256;

    /// <summary>Writes as many pages as are due. False: none.</summary>
    public static bool Run(GuestCpu cpu, ref StressControl control, ulong now)
    {
        ulong pages = control.Options.WorkingSetPages;
        if (pages == 0)
            return false;
        uint due = control.Dirtying.Take(now, control.Options.DirtyRate * PagesPerMiB, PagesPerStep);
        for (uint i = 0; i < due; i++)
        {
            ulong number = (ulong)((UInt128)control.SweepPosition * control.WorkingSetStride % pages);
            Touch(cpu, ref control, number);
            if (++control.SweepPosition >= pages)
            {
                control.SweepPosition = 0;
                control.Sweep++;
            }
        }

        return due > 0;
    }

    private static void Touch(GuestCpu cpu, ref StressControl control, ulong number)
    {
        Gpa address = control.Frames[control.WorkingSetFirst + number];
        Span<ulong> page = cpu.Bus.Words(address, CounterPage.Words);
        control.PagesVerified++;
        if (!CounterPage.Matches(page, control.Options.Seed, number, control.Sweep - 1, out ulong actual))
        {
            control.Mismatches++;
            MismatchLog.Add(cpu.Bus, new MismatchRecord
            {
                Kind = MismatchKind.WorkingSetPage,
                Place = number,
                Expected = control.Sweep - 1,
                Actual = actual,
                Where = address.Value,
                Clock = cpu.Clock,
            });
        }

        CounterPage.Fill(page, control.Options.Seed, number, control.Sweep);
        cpu.Bus.MarkWritten(address, RamPage.Size);
        control.CpuPagesDirtied++;
    }
}
