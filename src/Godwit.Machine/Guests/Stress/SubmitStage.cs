using Godwit.Machine.Guests.Drivers;
using Godwit.Machine.Guests.Drivers.Spec;
using Godwit.Machine.Guests.Patterns;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Stress;

/// <summary>Makes commands: picks blocks, fills buffers, maps them, and rings the doorbell.</summary>
internal static class SubmitStage
{
    private const int CommandsPerStep = 8;
    private const uint BlocksPerStep = 64;
    private const int SectorWords = SectorPattern.Words;

    /// <summary>What a page holds before a device writes it; the complement of anything the patterns put first in a sector.</summary>
    public const ulong Poison = 0xF5F5_F5F5_F5F5_F5F5;

    /// <summary>Starts as many commands as a step may. False: nothing could be started.</summary>
    public static bool Run(GuestCpu cpu, ref StressControl control, ref ControllerState device, ulong now)
    {
        if (device.SwitchPending || control.PoweringDown)
            return false; // what is in flight ends first
        uint allowed = Math.Min(device.FreeCount, CommandsPerStep);
        if (control.Options.IoRate > 0)
            allowed = device.IoPacing.Take(now, control.Options.IoRate, allowed);
        if (allowed == 0)
            return false;

        Span<ushort> started = stackalloc ushort[CommandsPerStep];
        int count = 0;
        uint blocks = 0;
        var batch = new VtdUnit.InvalidationBatch(cpu);
        while (count < allowed && blocks < BlocksPerStep && TryPrepare(cpu, ref control, ref device, ref batch, out ushort id, out CommandSlot slot))
        {
            started[count++] = id;
            blocks += slot.BlockCount;
        }

        // The mappings must be in force before the device learns of the commands.
        batch.Submit(ref control.Unit);
        for (int i = 0; i < count; i++)
            Send(cpu, control, ref device, started[i], now);
        if (count > 0)
            device.Io.Ring(cpu);
        return count > 0;
    }

    private static bool TryPrepare(
        GuestCpu cpu, ref StressControl control, ref ControllerState device, ref VtdUnit.InvalidationBatch batch, out ushort id, out CommandSlot slot)
    {
        GuestBus bus = cpu.Bus;
        id = 0;
        slot = default;
        if (device.FreeCount == 0)
            return false;

        CommandKind kind = PickKind(ref control, device);
        uint count = kind == CommandKind.Flush ? 0 : 1 + (uint)control.NextRandom(device.MaxBlocks);
        ulong block = 0;
        if (count > 0 && !BlockShadow.TryClaim(bus, ref control, device, ref kind, count, out block))
            return false;

        id = bus.Load<ushort>(device.FreeSlots + (--device.FreeCount * 2UL));
        slot = StressState.LoadSlot(bus, control, device, id);
        slot.Kind = kind;
        slot.Block = block;
        slot.BlockCount = count;
        slot.Status = 0;
        slot.PageCount = 0;
        slot.Offset = 0;
        slot.ChurnBuffer = CommandSlot.NoChurnBuffer;
        slot.Mapped = false;
        if (kind == CommandKind.Write)
            slot.Generation = ++control.Generation & BlockState.GenerationMask;
        if (kind is CommandKind.Read or CommandKind.Write or CommandKind.Deallocate)
        {
            TakeBuffer(cpu, ref control, ref device, id, ref slot);
            FillBuffer(cpu, control, device, id, slot);
            MapBuffer(cpu, ref control, ref device, ref batch, id, ref slot);
        }

        StressState.StoreSlot(bus, control, device, id, slot);
        return true;
    }

    private static CommandKind PickKind(ref StressControl control, in ControllerState device)
    {
        if (control.NextRandom(100) < (ulong)control.Options.ReadPercent)
            return CommandKind.Read;
        return control.NextRandom(100) switch
        {
            < 2 => CommandKind.Flush,
            < 8 when (device.Commands & NvmeRegisters.CommandWriteZeroes) != 0 => CommandKind.WriteZeroes,
            < 11 when (device.Commands & NvmeRegisters.CommandDatasetManagement) != 0 => CommandKind.Deallocate,
            _ => CommandKind.Write,
        };
    }

    private static void TakeBuffer(GuestCpu cpu, ref StressControl control, ref ControllerState device, ushort id, ref CommandSlot slot)
    {
        GuestBus bus = cpu.Bus;
        uint bytes = slot.Kind == CommandKind.Deallocate ? 16 : slot.BlockCount * RamPage.Size;

        // Now and then into a buffer that stays mapped, so that moved mappings carry data too.
        if (slot.Kind != CommandKind.Deallocate && slot.BlockCount <= ChurnBuffer.Pages
            && ChurnStage.TryTakeBuffer(bus, ref control, ref device, out uint buffer, out ChurnBuffer churn))
        {
            slot.ChurnBuffer = buffer;
            slot.Iova = churn.Iova;
            slot.PageCount = (ushort)slot.BlockCount;
            for (int i = 0; i < slot.BlockCount; i++)
                StressState.StoreSlotPage(bus, device, id, (uint)i, new Gpa(churn[i]));
            return;
        }

        // A quarter of the transfers start within a page, at a multiple of a sector.
        if (slot.Kind != CommandKind.Deallocate && control.NextRandom(4) == 0)
            slot.Offset = (1 + (uint)control.NextRandom(7)) * 512;
        slot.PageCount = (ushort)((slot.Offset + bytes + RamPage.Size - 1) >> RamPage.Shift);
        for (uint i = 0; i < slot.PageCount; i++)
        {
            Gpa page = control.Pages.Take(bus, control.NextRandom(), out bool intact);
            if (!intact)
                ReportFreePage(cpu, ref control, page);
            StressState.StoreSlotPage(bus, device, id, i, page);
        }
    }

    private static void FillBuffer(GuestCpu cpu, in StressControl control, in ControllerState device, ushort id, in CommandSlot slot)
    {
        GuestBus bus = cpu.Bus;
        switch (slot.Kind)
        {
            case CommandKind.Read:
                for (uint i = 0; i < slot.PageCount; i++)
                    bus.Fill(StressState.LoadSlotPage(bus, device, id, i), RamPage.Size, unchecked((byte)Poison));
                break;
            case CommandKind.Write:
                for (uint i = 0; i < slot.BlockCount; i++)
                    FillBlock(bus, control, device, id, slot, i);
                break;
            default: // the range list of a deallocation: attributes, sectors, first sector (6.7)
                Gpa list = StressState.LoadSlotPage(bus, device, id, 0);
                bus.Store(list, 0U);
                bus.Store(list + 4, slot.BlockCount * device.SectorsPerBlock);
                bus.Store(list + 8, slot.Block * device.SectorsPerBlock);
                break;
        }
    }

    private static void FillBlock(
        GuestBus bus, in StressControl control, in ControllerState device, ushort id, in CommandSlot slot, uint index)
    {
        ulong block = slot.Block + index;
        ulong key = SectorPattern.Key(control.Options.Seed, block, slot.Generation);
        for (uint sector = 0; sector < SectorPattern.SectorsPerBlock; sector++)
        {
            Gpa at = SectorAddress(bus, device, id, slot, index, sector);
            SectorPattern.Fill(bus.Words(at, SectorWords), key, block, sector, slot.Generation);
            bus.MarkWritten(at, 512);
        }
    }

    /// <summary>Where a sector of a command's data lies; sectors never cross pages because offsets are multiples of them.</summary>
    public static Gpa SectorAddress(GuestBus bus, in ControllerState device, uint id, in CommandSlot slot, uint index, uint sector)
    {
        uint position = slot.Offset + (index << RamPage.Shift) + (sector * 512);
        Gpa page = StressState.LoadSlotPage(bus, device, id, position >> RamPage.Shift);
        return page + (position & (RamPage.Size - 1));
    }

    private static void MapBuffer(
        GuestCpu cpu, ref StressControl control, ref ControllerState device, ref VtdUnit.InvalidationBatch batch, ushort id, ref CommandSlot slot)
    {
        if (!device.Translated || slot.ChurnBuffer != CommandSlot.NoChurnBuffer)
            return;
        int order = IovaAllocator.OrderOf(slot.PageCount);
        slot.Order = (byte)order;
        slot.Iova = device.Dma.Iovas.Allocate(cpu.Bus, order);
        slot.Mapped = true;
        ulong rights = DmaMapping.RightsFor(slot.Kind);
        for (uint i = 0; i < slot.PageCount; i++)
        {
            Gpa page = StressState.LoadSlotPage(cpu.Bus, device, id, i);
            device.Dma.Table.Map(cpu.Bus, slot.Iova + ((ulong)i << RamPage.Shift), page, rights);
        }

        control.Maps += slot.PageCount;
        DmaMapping.AnnounceMap(ref control, ref device, ref batch, slot.Iova, order);
    }

    private static void Send(GuestCpu cpu, in StressControl control, ref ControllerState device, ushort id, ulong now)
    {
        GuestBus bus = cpu.Bus;
        CommandSlot slot = StressState.LoadSlot(bus, control, device, id);
        slot.State = SlotState.InFlight;
        slot.StartedAt = now;
        StressState.StoreSlot(bus, control, device, id, slot);

        ulong sector = slot.Block * device.SectorsPerBlock;
        uint sectors = slot.BlockCount * device.SectorsPerBlock;
        var command = new NvmeCommand { Id = id, Namespace = 1 };
        switch (slot.Kind)
        {
            case CommandKind.Flush:
                command.Opcode = NvmeRegisters.Flush;
                break;
            case CommandKind.Deallocate:
                command.Opcode = NvmeRegisters.DatasetManagement;
                command.Dword10 = 0; // one range, 0's based
                command.Dword11 = NvmeRegisters.DatasetDeallocate;
                break;
            default:
                command.Opcode = slot.Kind switch
                {
                    CommandKind.Read => NvmeRegisters.Read,
                    CommandKind.Write => NvmeRegisters.Write,
                    _ => NvmeRegisters.WriteZeroes,
                };
                command.Dword10 = (uint)sector;
                command.Dword11 = (uint)(sector >> 32);
                command.Dword12 = (sectors - 1) & 0xFFFF;
                break;
        }

        if (slot.PageCount > 0)
            Describe(bus, device, id, slot, ref command);
        device.Io.Submit(bus, command);
    }

    /// <summary>PRP entries (NVM Express 1.4, 4.3).</summary>
    private static void Describe(GuestBus bus, in ControllerState device, ushort id, in CommandSlot slot, ref NvmeCommand command)
    {
        command.Prp1 = DmaPage(bus, device, id, slot, 0) + slot.Offset;
        if (slot.PageCount == 2)
        {
            command.Prp2 = DmaPage(bus, device, id, slot, 1);
        }
        else if (slot.PageCount > 2)
        {
            for (uint i = 1; i < slot.PageCount; i++)
                bus.Store(slot.PrpList + ((i - 1) * 8UL), DmaPage(bus, device, id, slot, i));
            command.Prp2 = slot.PrpListDma;
        }
    }

    private static ulong DmaPage(GuestBus bus, in ControllerState device, ushort id, in CommandSlot slot, uint page) => device.Translated
        ? slot.Iova.Value + ((ulong)page << RamPage.Shift)
        : StressState.LoadSlotPage(bus, device, id, page).Value;

    private static void ReportFreePage(GuestCpu cpu, ref StressControl control, Gpa page)
    {
        control.Mismatches++;
        MismatchLog.Add(cpu.Bus, new MismatchRecord { Kind = MismatchKind.FreePageWritten, Where = page.Value, Clock = cpu.Clock });
    }
}
