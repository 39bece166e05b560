using Godwit.Machine.Guests.Drivers;
using Godwit.Machine.Guests.Patterns;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Stress;

/// <summary>Takes completions in the interrupt handler; unmaps, verifies and frees in later steps.</summary>
internal static class CompleteStage
{
    private const int CommandsPerStep = 8;
    private const uint BlocksPerStep = 64;

    /// <summary>Interrupt handler: empties the completion queue.</summary>
    public static void Reap(GuestCpu cpu, ref StressControl control, ref ControllerState device, int index)
    {
        GuestBus bus = cpu.Bus;
        bool taken = false;
        for (uint i = 0; i < device.Io.Entries && device.Io.TryTake(bus, out ushort id, out ushort status, out _); i++)
        {
            taken = true;
            CommandSlot slot = default;
            bool inFlight = false;
            if (id < control.Options.QueueDepth)
            {
                slot = StressState.LoadSlot(bus, control, device, id);
                inFlight = slot.State == SlotState.InFlight;
            }

            if (!inFlight || device.DoneCount >= control.Options.QueueDepth)
            {
                // Twice, or one that was never sent: nothing of it may be touched.
                control.Mismatches++;
                MismatchLog.Add(bus, new MismatchRecord
                {
                    Kind = MismatchKind.UnexpectedCompletion,
                    Controller = (uint)index,
                    Actual = id,
                    Clock = cpu.Clock,
                });
                continue;
            }

            slot.State = SlotState.Done;
            slot.Status = status;
            StressState.StoreSlot(bus, control, device, id, slot);
            uint place = (device.DoneHead + device.DoneCount) % (uint)control.Options.QueueDepth;
            bus.Store(device.DoneSlots + (place * 2UL), id);
            device.DoneCount++;
        }

        if (taken)
            device.Io.Release(cpu);
    }

    /// <summary>Finishes as many commands as a step may. False: there was none.</summary>
    public static bool Run(GuestCpu cpu, ref StressControl control, ref ControllerState device, int index)
    {
        if (device.DoneCount == 0)
            return false;
        GuestBus bus = cpu.Bus;
        Span<ushort> done = stackalloc ushort[CommandsPerStep];
        int count = 0;
        uint blocks = 0;
        var batch = new VtdUnit.InvalidationBatch(cpu);
        uint depth = (uint)control.Options.QueueDepth;
        while (device.DoneCount > 0 && count < CommandsPerStep && blocks < BlocksPerStep)
        {
            ushort id = bus.Load<ushort>(device.DoneSlots + (device.DoneHead % depth * 2UL));
            device.DoneHead = (device.DoneHead + 1) % depth;
            device.DoneCount--;
            done[count++] = id;
            CommandSlot slot = StressState.LoadSlot(bus, control, device, id);
            blocks += slot.BlockCount;
            if (!slot.Mapped)
                continue;
            DmaMapping.UnmapSlot(cpu, ref control, ref device, ref batch, ref slot);
            StressState.StoreSlot(bus, control, device, id, slot);
        }

        // From here on no device reaches the buffers (strict), so what they hold is what the commands left.
        batch.Submit(ref control.Unit);
        for (int i = 0; i < count; i++)
            Finish(cpu, ref control, ref device, index, done[i]);
        return true;
    }

    private static void Finish(GuestCpu cpu, ref StressControl control, ref ControllerState device, int index, ushort id)
    {
        GuestBus bus = cpu.Bus;
        CommandSlot slot = StressState.LoadSlot(bus, control, device, id);
        if (slot.Mapped)
            device.Dma.Iovas.Free(bus, slot.Iova, slot.Order);

        bool failed = slot.Status != 0;
        if (failed)
        {
            control.Mismatches++;
            MismatchLog.Add(bus, new MismatchRecord
            {
                Kind = MismatchKind.CommandFailed,
                Controller = (uint)index,
                Place = slot.Block,
                Actual = slot.Status,
                Detail = (uint)slot.Kind,
                Clock = cpu.Clock,
            });
        }
        else if (slot.Kind == CommandKind.Read)
        {
            for (uint i = 0; i < slot.BlockCount; i++)
                Verify(cpu, ref control, device, index, id, slot, i);
        }

        if (slot.ChurnBuffer != CommandSlot.NoChurnBuffer)
        {
            ChurnStage.ReleaseBuffer(bus, device, slot.ChurnBuffer);
        }
        else
        {
            for (uint i = 0; i < slot.PageCount; i++)
                control.Pages.Put(bus, StressState.LoadSlotPage(bus, device, id, i));
        }

        BlockShadow.Release(bus, device, slot, failed);
        switch (slot.Kind)
        {
            case CommandKind.Read: control.Reads++; break;
            case CommandKind.Write: control.Writes++; break;
            default: control.OtherCommands++; break;
        }

        slot.State = SlotState.Free;
        slot.Mapped = false;
        StressState.StoreSlot(bus, control, device, id, slot);
        if (device.FreeCount >= control.Options.QueueDepth)
            throw new GuestPanicException("more slots are free than there are");
        bus.Store(device.FreeSlots + (device.FreeCount * 2UL), id);
        device.FreeCount++;
    }

    private static void Verify(
        GuestCpu cpu, ref StressControl control, in ControllerState device, int index, ushort id, in CommandSlot slot, uint number)
    {
        GuestBus bus = cpu.Bus;
        ulong block = slot.Block + number;
        ulong state = BlockShadow.StateOf(bus, device, block);
        ulong content = state & BlockState.ContentMask;
        if (content == BlockState.Unknown)
            return; // another read has already found it wrong
        ulong generation = state & BlockState.GenerationMask;
        ulong key = SectorPattern.Key(control.Options.Seed, block, generation);
        control.BlocksVerified++;
        for (uint sector = 0; sector < SectorPattern.SectorsPerBlock; sector++)
        {
            Gpa at = SubmitStage.SectorAddress(bus, device, id, slot, number, sector);
            ReadOnlySpan<ulong> words = bus.Words(at, SectorPattern.Words);
            bool right = content == BlockState.Zero
                ? !words.ContainsAnyExcept(0UL)
                : SectorPattern.Matches(words, key, block, sector, generation);
            if (right)
                continue;

            control.Mismatches++;
            bool untouched = !words.ContainsAnyExcept(SubmitStage.Poison);
            MismatchLog.Add(bus, new MismatchRecord
            {
                Kind = untouched ? MismatchKind.BlockNotWrittenByDevice : MismatchKind.BlockContent,
                Controller = (uint)index,
                Place = block,
                Expected = generation,
                Actual = words[1],
                Where = at.Value,
                Detail = sector,
                Clock = cpu.Clock,
            });
            BlockShadow.Forget(bus, device, block);
            return;
        }
    }
}
