using Godwit.Machine.Guests.Drivers;
using Godwit.Machine.Guests.Drivers.Spec;
using Godwit.Machine.Guests.Patterns;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Edu;

/// <summary>
/// The run: page after page goes through the device into another page, each mapped for its transfer alone. All pages at rest are read over and
/// over: a page that the device wrote and a migration lost is seen.
/// </summary>
internal static class EduRun
{
    private const ulong SweepInterval = 10_000_000;
    private const uint PagesPerSweep = 8;
    private const ulong Timeout = 30_000_000_000;
    private const ulong LongWork = 1_000_000_000; // a transfer takes a tenth of it
    private const uint Alive = 0x5DEE_CE66;
    private const int FactorialEvery = 8;
    private const uint LargestArgument = 40; // 34! and above are 0 modulo 2^32
    private const int WordsPerPage = (int)(RamPage.Size / sizeof(ulong));

    /// <summary>One step: what has ended, what comes next, and some pages at rest.</summary>
    public static void Run(GuestCpu cpu, ref EduControl control)
    {
        ulong now = cpu.Clock;
        if (control.Options.BearsResets && control.Work != EduWork.None && now > control.WorkStarted + LongWork && WasReset(cpu, control))
            GiveUp(cpu, ref control);
        else if (control.Work != EduWork.None && HasEnded(cpu, ref control, now))
            Finish(cpu, ref control);
        if (control.Work == EduWork.None)
        {
            if (control.PoweringDown)
            {
                control.Phase = EduPhase.Off;
                control.Power.Off(cpu);
                return;
            }

            if (++control.Rounds % FactorialEvery == 0)
                StartFactorial(cpu, ref control);
            else
                StartCopy(cpu, ref control);
        }

        if (now >= control.NextSweep)
        {
            control.NextSweep = now + SweepInterval;
            Sweep(cpu, ref control);
        }

        cpu.Halt(control.NextSweep);
    }

    /// <summary>Interrupt handler.</summary>
    public static void Interrupt(GuestCpu cpu, ref EduControl control)
    {
        control.Interrupts++;
        uint causes = cpu.ReadMmio32(control.Registers + EduRegisters.InterruptStatus);
        cpu.WriteMmio32(control.Registers + EduRegisters.InterruptAcknowledge, causes);
        control.Causes |= causes;
        if (control.Options.UsesPin)
            control.Input.End(cpu);
    }

    /// <summary>The CPU gives a page new content.</summary>
    public static void Rewrite(GuestBus bus, ref EduControl control, uint page)
    {
        ulong generation = ++control.Generation & EduControl.GenerationMask;
        Span<ulong> words = bus.Words(control.Page(page), WordsPerPage);
        ulong key = SectorPattern.Key(control.Options.Seed, page, generation);
        for (uint sector = 0; sector < SectorPattern.SectorsPerBlock; sector++)
            SectorPattern.Fill(words[((int)sector * SectorPattern.Words)..], key, page, sector, generation);
        bus.MarkWritten(control.Page(page), RamPage.Size);
        control.SetContent(bus, page, page, generation);
        control.CpuPagesDirtied++;
    }

    private static void StartCopy(GuestCpu cpu, ref EduControl control)
    {
        control.From = control.NextRandom(control.Options.Pages);
        control.To = (control.From + 1 + control.NextRandom(control.Options.Pages - 1)) % control.Options.Pages;
        Rewrite(cpu.Bus, ref control, control.From);
        control.FromIova = Map(cpu, ref control, control.From, VtdRegisters.EntryRead);
        Transfer(cpu, ref control, EduWork.ToDevice, control.FromIova.Value, EduRegisters.Buffer, 0);
    }

    private static void StartFactorial(GuestCpu cpu, ref EduControl control)
    {
        control.Argument = control.NextRandom(LargestArgument);
        Begin(cpu, ref control, EduWork.Factorial);
        cpu.WriteMmio32(control.Registers + EduRegisters.Status, EduRegisters.InterruptWhenDone);
        cpu.WriteMmio32(control.Registers + EduRegisters.Factorial, (uint)control.Argument);
    }

    private static void Finish(GuestCpu cpu, ref EduControl control)
    {
        switch (control.Work)
        {
            case EduWork.ToDevice:
                control.Writes++;
                Unmap(cpu, ref control, control.FromIova);
                control.ToIova = Map(cpu, ref control, control.To, VtdRegisters.EntryWrite);
                bool unmapped = control.Translates && control.NextRandom(100) < control.Options.UnmapPercent;
                Transfer(cpu, ref control, unmapped ? EduWork.ToUnmapped : EduWork.ToMemory, EduRegisters.Buffer, control.ToIova.Value, EduRegisters.DmaToMemory);
                if (!unmapped)
                    return;
                Unmap(cpu, ref control, control.ToIova);
                control.ContentAfterUnmap = Hash(cpu.Bus, control.Page(control.To));
                return;
            case EduWork.ToMemory:
                control.Reads++;
                Unmap(cpu, ref control, control.ToIova);
                control.SetContent(cpu.Bus, control.To, control.From, control.Generation);
                Verify(cpu, ref control, control.To, afterTransfer: true);
                break;
            case EduWork.ToUnmapped:
                // Some of it may have been written before the unmap was complete, nothing after.
                if (Hash(cpu.Bus, control.Page(control.To)) != control.ContentAfterUnmap)
                    Report(cpu, ref control, new MismatchRecord { Kind = MismatchKind.WriteAfterUnmap, Place = control.To, Where = control.Page(control.To).Value });
                Rewrite(cpu.Bus, ref control, control.To);
                break;
            case EduWork.Factorial:
                uint found = cpu.ReadMmio32(control.Registers + EduRegisters.Factorial), expected = Factorial(control.Argument);
                control.Factorials++;
                if (found != expected)
                    Report(cpu, ref control, new MismatchRecord { Kind = MismatchKind.WrongResult, Place = control.Argument, Expected = expected, Actual = found });
                break;
            default:
                throw new GuestPanicException($"control block damaged: work {(uint)control.Work}");
        }

        control.Work = EduWork.None;
        CountFaults(cpu, ref control);
    }

    /// <summary>By its interrupt. A device that is through and sent none is noted; one that is never through is the end.</summary>
    private static bool HasEnded(GuestCpu cpu, ref EduControl control, ulong now)
    {
        uint cause = control.Work == EduWork.Factorial ? EduRegisters.FactorialDone : EduRegisters.DmaDone;
        if ((control.Causes & cause) != 0)
            return true;
        if (now <= control.WorkStarted + Timeout)
            return false;
        if (control.Work == EduWork.Factorial || (cpu.ReadMmio32(control.Registers + EduRegisters.DmaCommand) & EduRegisters.DmaStart) != 0)
            throw new GuestPanicException($"the device did not end {control.Work} within {Timeout / 1_000_000_000} s");
        Report(cpu, ref control, new MismatchRecord { Kind = MismatchKind.LostInterrupt, Detail = now - control.WorkStarted });
        return true;
    }

    /// <summary>The device does not know the word any more that it was given with its work.</summary>
    private static bool WasReset(GuestCpu cpu, in EduControl control) => cpu.ReadMmio32(control.Registers + EduRegisters.Liveness) != ~Alive;

    /// <summary>Its work was lost with the device's state. A page that the device was writing holds whatever had arrived.</summary>
    private static void GiveUp(GuestCpu cpu, ref EduControl control)
    {
        if (control.Work == EduWork.ToDevice)
            Unmap(cpu, ref control, control.FromIova);
        else if (control.Work == EduWork.ToMemory)
            Unmap(cpu, ref control, control.ToIova);
        if (control.Work is EduWork.ToMemory or EduWork.ToUnmapped)
            Rewrite(cpu.Bus, ref control, control.To);
        control.Work = EduWork.None;
        CountFaults(cpu, ref control);
    }

    private static void Transfer(GuestCpu cpu, ref EduControl control, EduWork work, ulong source, ulong destination, uint direction)
    {
        Begin(cpu, ref control, work);
        cpu.WriteMmio64(control.Registers + EduRegisters.DmaSource, source);
        cpu.WriteMmio64(control.Registers + EduRegisters.DmaDestination, destination);
        cpu.WriteMmio64(control.Registers + EduRegisters.DmaCount, RamPage.Size);
        cpu.WriteMmio32(control.Registers + EduRegisters.DmaCommand, EduRegisters.DmaStart | EduRegisters.DmaInterrupt | direction);
    }

    private static void Begin(GuestCpu cpu, ref EduControl control, EduWork work)
    {
        control.Work = work;
        control.WorkStarted = cpu.Clock;
        control.Causes = 0;
        if (control.Options.BearsResets)
            cpu.WriteMmio32(control.Registers + EduRegisters.Liveness, Alive); // reads back inverted ("MMIO area spec")
    }

    private static Iova Map(GuestCpu cpu, ref EduControl control, uint page, ulong rights)
    {
        if (!control.Translates)
            return new Iova(control.Page(page).Value);
        Iova iova = control.Iovas.Allocate(cpu.Bus, order: 0);
        control.Table.Map(cpu.Bus, iova, control.Page(page), rights);
        control.Maps++;
        if (control.Unit.CachingMode)
            Invalidate(cpu, ref control, iova);
        return iova;
    }

    private static void Unmap(GuestCpu cpu, ref EduControl control, Iova iova)
    {
        if (!control.Translates)
            return;
        control.Table.Unmap(cpu.Bus, iova);
        control.Unmaps++;
        Invalidate(cpu, ref control, iova);
        control.Iovas.Free(cpu.Bus, iova, order: 0);
    }

    private static void Invalidate(GuestCpu cpu, ref EduControl control, Iova iova)
    {
        var batch = new VtdUnit.InvalidationBatch(cpu);
        batch.AddPages(ref control.Unit, EduStart.Domain, iova, order: 0);
        batch.Submit(ref control.Unit);
    }

    private static void Sweep(GuestCpu cpu, ref EduControl control)
    {
        for (uint i = 0; i < PagesPerSweep; i++)
        {
            uint page = control.SweepPage++ % control.Options.Pages;
            if (control.Work is EduWork.ToMemory or EduWork.ToUnmapped && page == control.To)
                continue; // the device's, for now
            Verify(cpu, ref control, page, afterTransfer: false);
        }
    }

    private static void Verify(GuestCpu cpu, ref EduControl control, uint page, bool afterTransfer)
    {
        (uint owner, ulong generation) = control.Content(cpu.Bus, page);
        ReadOnlySpan<ulong> words = cpu.Bus.Words(control.Page(page), WordsPerPage);
        ulong key = SectorPattern.Key(control.Options.Seed, owner, generation);
        control.PagesVerified++;
        for (uint sector = 0; sector < SectorPattern.SectorsPerBlock; sector++)
        {
            ReadOnlySpan<ulong> content = words[((int)sector * SectorPattern.Words)..];
            if (SectorPattern.Matches(content, key, owner, sector, generation))
                continue;
            Report(cpu, ref control, new MismatchRecord
            {
                Kind = MismatchKind.DmaContent,
                Place = page,
                Where = control.Page(page).Value,
                Expected = generation,
                Actual = content[1],
                Detail = afterTransfer ? 1UL : 0,
            });
            Rewrite(cpu.Bus, ref control, page); // so that it counts once
            return;
        }
    }

    private static void CountFaults(GuestCpu cpu, ref EduControl control)
    {
        // Transfers to unmapped pages may leave some; a few at a time keep a step short.
        for (int i = 0; i < 8 && control.Unit.Registers.Value != 0 && control.Unit.TryTakeFault(cpu, out _, out _); i++)
            control.IommuFaults++;
    }

    private static void Report(GuestCpu cpu, ref EduControl control, MismatchRecord record)
    {
        control.Mismatches++;
        record.Clock = cpu.Clock;
        MismatchLog.Add(cpu.Bus, record);
    }

    private static ulong Hash(GuestBus bus, Gpa page)
    {
        ulong hash = 0;
        foreach (ulong word in bus.Words(page, WordsPerPage))
            hash = SectorPattern.Mix(hash ^ word);
        return hash;
    }

    /// <summary>Modulo 2^32.</summary>
    private static uint Factorial(ulong n)
    {
        uint result = 1;
        for (uint i = 2; i <= n && i <= LargestArgument; i++)
            result = unchecked(result * i);
        return result;
    }
}
