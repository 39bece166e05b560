using Godwit.Machine.Guests.Drivers;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Stress;

/// <summary>From power-on to a known board, and the filling of memory before the run.</summary>
internal static class BootStage
{
    private const uint PagesPerStep = 256;

    /// <summary>Reads what the firmware left and lays out the program's memory.</summary>
    public static void Boot(GuestCpu cpu, ref StressControl control)
    {
        BootInfo info = Firmware.ReadBootInfo(cpu.Bus);
        AcpiTables acpi = AcpiTables.Read(cpu.Bus);
        control = default;
        control.Magic = StressControl.MagicValue;
        control.Options = StressOptions.Parse(info.CommandLine);
        if (control.Options.InterruptCpu >= acpi.Cpus)
            throw new GuestPanicException($"irq-cpu is {control.Options.InterruptCpu}; there are {acpi.Cpus} CPUs");
        control.Ecam = acpi.Ecam;
        control.MmioBase = control.MmioNext = info.MmioBase;
        control.MmioEnd = info.MmioBase + info.MmioSize;
        control.Unit.Registers = acpi.RemappingUnit ?? default;
        control.Power = acpi.PowerButton();
        control.PowerSource = acpi.IoApicSource;
        control.Heap = new BumpAllocator { Next = StressLayout.Heap, End = info.LowRamBase + info.LowRamSize };
        control.Frames = new FramePermutation { HighBase = info.HighRamBase, Frames = info.HighRamSize >> RamPage.Shift };
        control.Random = Patterns.SectorPattern.Mix(control.Options.Seed + 1);
        cpu.Bus.Store(GuestLayout.Log, 0U);
        cpu.Bus.Fill(StressLayout.RemoteInterrupts, StressLayout.MaxControllers * sizeof(ulong), 0);
        cpu.Registers.InterruptsEnabled = true;
        control.Phase = StressPhase.ScanPci;
    }

    /// <summary>The heap is complete: what is left, low and high, becomes buffers and the working set.</summary>
    public static void LayOutFrames(ref StressControl control)
    {
        ref readonly StressOptions options = ref control.Options;
        control.Pages.Capacity = StressSizing.BufferPages(options, (int)control.ControllerCount);
        control.Pages.Stack = control.Heap.Allocate(control.Pages.Capacity * 8UL);
        ulong lowFrames = (control.Heap.End - control.Heap.Next) >> RamPage.Shift;
        control.Frames = FramePermutation.Create(control.Heap.Next, lowFrames, control.Frames.HighBase, control.Frames.Frames);
        control.WorkingSetFirst = control.Pages.Capacity;
        if (control.Frames.Frames < control.Pages.Capacity + options.WorkingSetPages)
        {
            throw new GuestPanicException(
                $"{control.Frames.Frames} free pages are not enough for {control.Pages.Capacity} of buffers and a working set of {options.WorkingSetPages}");
        }

        control.WorkingSetStride = FramePermutation.Create(default, options.WorkingSetPages, default, 0).Stride;
    }

    /// <summary>Fills the buffer pool and writes the working set for the first time, some pages a step.</summary>
    public static void Populate(GuestCpu cpu, ref StressControl control)
    {
        ulong total = control.Pages.Capacity + control.Options.WorkingSetPages;
        for (uint i = 0; i < PagesPerStep && control.Populated < total; i++)
        {
            ulong number = control.Populated++;
            Gpa page = control.Frames[number];
            if (number < control.Pages.Capacity)
            {
                control.Pages.Put(cpu.Bus, page);
            }
            else
            {
                Patterns.CounterPage.Fill(
                    cpu.Bus.Words(page, Patterns.CounterPage.Words), control.Options.Seed, number - control.Pages.Capacity, sweep: 0);
                cpu.Bus.MarkWritten(page, RamPage.Size);
            }
        }

        if (control.Populated < total)
            return;
        for (int i = 0; i < control.ControllerCount && control.Translating; i++)
        {
            ControllerState device = StressState.LoadController(cpu.Bus, control, i);
            ChurnStage.MapBuffers(cpu, ref control, ref device);
            StressState.StoreController(cpu.Bus, i, device);
        }

        control.Sweep = 1;
        control.Dirtying.NextAt = cpu.Clock;
        control.Phase = StressPhase.Running;
    }
}
