using Godwit.Machine.Guests.Drivers;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Stress;

/// <summary>
/// Buffers that stay mapped and are moved to other pages again and again, with and without I/O between: by unmapping and mapping at the
/// same IOVA, by replacing the entries in place, or to another IOVA.
/// </summary>
internal static class ChurnStage
{
    private const int MovesPerStep = 8;

    /// <summary>Takes pages and IOVAs for all buffers of a controller and maps them.</summary>
    public static void MapBuffers(GuestCpu cpu, ref StressControl control, ref ControllerState device)
    {
        if (control.Options.Churn == 0 || !device.Translated || device.Phase == ControllerPhase.Gone)
            return;
        var batch = new VtdUnit.InvalidationBatch(cpu);
        for (uint i = 0; i < StressSizing.ChurnBuffers; i++)
        {
            var buffer = new ChurnBuffer { Iova = device.Dma.Iovas.Allocate(cpu.Bus, ChurnBuffer.Order) };
            MapNewPages(cpu, ref control, ref device, ref batch, ref buffer);
            cpu.Bus.Store(Address(device, i), buffer);
        }

        batch.Submit(ref control.Unit);
        device.ChurnCount = StressSizing.ChurnBuffers;
        device.Churn.NextAt = cpu.Clock;
    }

    /// <summary>Takes all buffers out of the domain. No command uses one.</summary>
    public static void UnmapBuffers(GuestCpu cpu, ref StressControl control, ref ControllerState device)
    {
        var batch = new VtdUnit.InvalidationBatch(cpu);
        for (uint i = 0; i < device.ChurnCount; i++)
        {
            var buffer = cpu.Bus.Load<ChurnBuffer>(Address(device, i));
            UnmapPages(cpu.Bus, ref control, ref device, ref batch, buffer);
        }

        batch.Submit(ref control.Unit);
        for (uint i = 0; i < device.ChurnCount; i++)
        {
            var buffer = cpu.Bus.Load<ChurnBuffer>(Address(device, i));
            PutPages(cpu.Bus, ref control, buffer);
            device.Dma.Iovas.Free(cpu.Bus, buffer.Iova, ChurnBuffer.Order);
        }

        device.ChurnCount = 0;
    }

    /// <summary>Moves as many buffers as are due. False: none.</summary>
    public static bool Run(GuestCpu cpu, ref StressControl control, ref ControllerState device, ulong now)
    {
        if (device.ChurnCount is 0 or > StressSizing.ChurnBuffers)
            return false;
        uint moves = device.Churn.Take(now, control.Options.Churn, MovesPerStep);
        if (moves == 0)
            return false;

        Span<uint> chosen = stackalloc uint[MovesPerStep];
        int count = 0;
        for (uint look = 0; look < device.ChurnCount && count < moves; look++)
        {
            uint index = device.ChurnCursor++ % device.ChurnCount;
            if (!cpu.Bus.Load<ChurnBuffer>(Address(device, index)).Busy)
                chosen[count++] = index;
        }

        uint style = device.ChurnStyle++ % 4;
        var batch = new VtdUnit.InvalidationBatch(cpu);
        if (style == 0)
            Replace(cpu, ref control, ref device, ref batch, chosen[..count]);
        else
            UnmapThenMap(cpu, ref control, ref device, ref batch, chosen[..count], newIova: style == 1);
        return true;
    }

    /// <summary>Lends a buffer to a command, now and then.</summary>
    public static bool TryTakeBuffer(
        GuestBus bus, ref StressControl control, ref ControllerState device, out uint index, out ChurnBuffer buffer)
    {
        index = 0;
        buffer = default;
        if (device.ChurnCount is 0 or > StressSizing.ChurnBuffers || control.NextRandom(8) != 0)
            return false;
        index = (uint)control.NextRandom(device.ChurnCount);
        buffer = bus.Load<ChurnBuffer>(Address(device, index));
        if (buffer.Busy)
            return false;
        buffer.Busy = true;
        bus.Store(Address(device, index), buffer);
        return true;
    }

    public static void ReleaseBuffer(GuestBus bus, in ControllerState device, uint index)
    {
        var buffer = bus.Load<ChurnBuffer>(Address(device, index));
        buffer.Busy = false;
        bus.Store(Address(device, index), buffer);
    }

    /// <summary>Present to present: the entries change while the old ones may still be cached, then the unit is told.</summary>
    private static void Replace(
        GuestCpu cpu, ref StressControl control, ref ControllerState device, ref VtdUnit.InvalidationBatch batch, ReadOnlySpan<uint> chosen)
    {
        foreach (uint index in chosen)
        {
            var buffer = cpu.Bus.Load<ChurnBuffer>(Address(device, index));
            ChurnBuffer old = buffer;
            control.Unmaps += ChurnBuffer.Pages;
            MapNewPages(cpu, ref control, ref device, ref batch, ref buffer, announce: false);
            batch.AddPages(ref control.Unit, device.Dma.Id, buffer.Iova, ChurnBuffer.Order);
            cpu.Bus.Store(Address(device, index), buffer);
            PutPages(cpu.Bus, ref control, old);
        }

        batch.Submit(ref control.Unit);
    }

    private static void UnmapThenMap(
        GuestCpu cpu, ref StressControl control, ref ControllerState device, ref VtdUnit.InvalidationBatch batch, ReadOnlySpan<uint> chosen, bool newIova)
    {
        foreach (uint index in chosen)
        {
            var buffer = cpu.Bus.Load<ChurnBuffer>(Address(device, index));
            UnmapPages(cpu.Bus, ref control, ref device, ref batch, buffer);
        }

        batch.Submit(ref control.Unit);
        foreach (uint index in chosen)
        {
            var buffer = cpu.Bus.Load<ChurnBuffer>(Address(device, index));
            PutPages(cpu.Bus, ref control, buffer);
            if (newIova)
            {
                // Taken before the old one goes back, or it would be the same again.
                Iova other = device.Dma.Iovas.Allocate(cpu.Bus, ChurnBuffer.Order);
                device.Dma.Iovas.Free(cpu.Bus, buffer.Iova, ChurnBuffer.Order);
                buffer.Iova = other;
            }

            MapNewPages(cpu, ref control, ref device, ref batch, ref buffer);
            cpu.Bus.Store(Address(device, index), buffer);
        }

        batch.Submit(ref control.Unit);
    }

    private static void UnmapPages(
        GuestBus bus, ref StressControl control, ref ControllerState device, ref VtdUnit.InvalidationBatch batch, in ChurnBuffer buffer)
    {
        for (uint i = 0; i < ChurnBuffer.Pages; i++)
            device.Dma.Table.Unmap(bus, buffer.Iova + ((ulong)i << RamPage.Shift));
        control.Unmaps += ChurnBuffer.Pages;
        batch.AddPages(ref control.Unit, device.Dma.Id, buffer.Iova, ChurnBuffer.Order);
    }

    private static void MapNewPages(
        GuestCpu cpu, ref StressControl control, ref ControllerState device, ref VtdUnit.InvalidationBatch batch, ref ChurnBuffer buffer,
        bool announce = true)
    {
        for (int i = 0; i < ChurnBuffer.Pages; i++)
        {
            Gpa page = control.Pages.Take(cpu.Bus, control.NextRandom(), out bool intact);
            if (!intact)
            {
                control.Mismatches++;
                MismatchLog.Add(cpu.Bus, new MismatchRecord { Kind = MismatchKind.FreePageWritten, Where = page.Value, Clock = cpu.Clock });
            }

            buffer[i] = page.Value;
            device.Dma.Table.Map(cpu.Bus, buffer.Iova + ((ulong)i << RamPage.Shift), page, DmaMapping.ReadWrite);
        }

        control.Maps += ChurnBuffer.Pages;
        if (announce)
            DmaMapping.AnnounceMap(ref control, ref device, ref batch, buffer.Iova, ChurnBuffer.Order);
    }

    private static void PutPages(GuestBus bus, ref StressControl control, in ChurnBuffer buffer)
    {
        for (int i = 0; i < ChurnBuffer.Pages; i++)
            control.Pages.Put(bus, new Gpa(buffer[i]));
    }

    private static Gpa Address(in ControllerState device, uint index)
    {
        if (index >= StressSizing.ChurnBuffers)
            throw new GuestPanicException($"churn buffer {index} of {StressSizing.ChurnBuffers}");
        return device.ChurnBuffers + (index * (ulong)ChurnBuffer.Size);
    }
}
