using Godwit.Machine.Guests.Drivers;
using Godwit.Machine.Guests.Drivers.Spec;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Stress;

/// <summary>Makes memory reachable for a controller: an IOVA in its domain, or the GPA itself without translation.</summary>
internal static class DmaMapping
{
    public const ulong ReadWrite = VtdRegisters.EntryRead | VtdRegisters.EntryWrite;

    /// <summary>A device that reads memory needs only that right, and the other way round: the narrower mapping is the better test.</summary>
    public static ulong RightsFor(CommandKind kind) => kind == CommandKind.Read ? VtdRegisters.EntryWrite : VtdRegisters.EntryRead;

    /// <summary>Maps contiguous memory for good (queues, lists); returns the address for the device.</summary>
    public static ulong MapCoherent(
        GuestCpu cpu, ref StressControl control, ref ControllerState device, ref VtdUnit.InvalidationBatch batch, Gpa memory, ulong bytes)
    {
        if (!device.Translated)
            return memory.Value;
        int pages = (int)((bytes + RamPage.Size - 1) >> RamPage.Shift);
        int order = IovaAllocator.OrderOf(pages);
        if (control.Options.DomainSwitches > 0)
            return MapEverywhere(cpu, ref control, ref device, ref batch, memory, pages);
        Iova iova = device.Dma.Iovas.Allocate(cpu.Bus, order);
        for (int i = 0; i < pages; i++)
            device.Dma.Table.Map(cpu.Bus, iova + ((ulong)i << RamPage.Shift), memory + ((ulong)i << RamPage.Shift), ReadWrite);
        control.Maps += (ulong)pages;
        AnnounceMap(ref control, ref device, ref batch, iova, order);
        return iova.Value;
    }

    /// <summary>At its GPA in both domains, and so in pass-through: the device keeps the address while its domain changes.</summary>
    private static ulong MapEverywhere(
        GuestCpu cpu, ref StressControl control, ref ControllerState device, ref VtdUnit.InvalidationBatch batch, Gpa memory, int pages)
    {
        for (int i = 0; i < pages; i++)
        {
            Gpa page = memory + ((ulong)i << RamPage.Shift);
            var iova = new Iova(page.Value);
            device.Dma.Table.Map(cpu.Bus, iova, page, ReadWrite);
            device.OtherDma.Table.Map(cpu.Bus, iova, page, ReadWrite);
            AnnounceMap(ref control, ref device, ref batch, iova, order: 0);
        }

        control.Maps += (ulong)pages;
        return memory.Value;
    }

    /// <summary>With caching mode the unit must be told of new entries too (VT-d 6.1).</summary>
    public static void AnnounceMap(
        ref StressControl control, ref ControllerState device, ref VtdUnit.InvalidationBatch batch, Iova iova, int order)
    {
        if (control.Unit.CachingMode)
            batch.AddPages(ref control.Unit, device.Dma.Id, iova, order);
    }

    /// <summary>Clears a command's mapping. Strict: queues its invalidation. Lazy: puts it where <see cref="FlushLazy"/> finds it.</summary>
    public static void UnmapSlot(
        GuestCpu cpu, ref StressControl control, ref ControllerState device, ref VtdUnit.InvalidationBatch batch, ref CommandSlot slot)
    {
        for (uint i = 0; i < slot.PageCount; i++)
            device.Dma.Table.Unmap(cpu.Bus, slot.Iova + ((ulong)i << RamPage.Shift));
        control.Unmaps += slot.PageCount;
        if (control.Options.Map == MapMode.Strict)
        {
            batch.AddPages(ref control.Unit, device.Dma.Id, slot.Iova, slot.Order);
            batch.AddWait(ref control.Unit);
            return;
        }

        slot.Mapped = false; // the IOVA is the flush queue's now
        if (device.FlushCount >= StressSizing.FlushEntries)
            FlushLazy(cpu, ref control, ref device);
        cpu.Bus.Store(device.FlushQueue + (device.FlushCount * 8UL), slot.Iova.Value | slot.Order);
        if (device.FlushCount++ == 0)
            device.FlushBy = cpu.Clock + 10_000_000; // 10 ms, as Linux
    }

    /// <summary>Invalidates the domain; everything that was unmapped since the last time may be used again.</summary>
    public static void FlushLazy(GuestCpu cpu, ref StressControl control, ref ControllerState device)
    {
        if (device.FlushCount == 0)
            return;
        var batch = new VtdUnit.InvalidationBatch(cpu);
        batch.AddDomain(ref control.Unit, device.Dma.Id);
        batch.Submit(ref control.Unit);
        uint count = Math.Min(device.FlushCount, StressSizing.FlushEntries);
        for (uint i = 0; i < count; i++)
        {
            ulong entry = cpu.Bus.Load<ulong>(device.FlushQueue + (i * 8UL));
            device.Dma.Iovas.Free(cpu.Bus, new Iova(entry & ~(ulong)(RamPage.Size - 1)), (int)(entry & (RamPage.Size - 1)));
        }

        device.FlushCount = 0;
    }
}
