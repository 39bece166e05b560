using Godwit.Machine.Guests.Drivers;
using Godwit.Machine.Guests.Drivers.Spec;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Edu;

/// <summary>From power-on to a device that works.</summary>
internal static class EduStart
{
    /// <summary>The vector of the device's interrupt.</summary>
    public const byte Vector = 0x40;

    /// <summary>Id of the device's domain.</summary>
    public const ushort Domain = 1;

    private const uint BootCpu = 0;
    private const uint DevicesPerBus = 32;
    private const uint PagesPerStep = 64;

    /// <summary>Enough for what the device can reach: two leaves' worth of IOVAs live at once, in 28 bits.</summary>
    private const uint TablePages = 136;

    /// <summary>Reads what the firmware left.</summary>
    public static void Boot(GuestCpu cpu, ref EduControl control)
    {
        BootInfo info = Firmware.ReadBootInfo(cpu.Bus);
        AcpiTables acpi = AcpiTables.Read(cpu.Bus);
        control = default;
        control.Magic = EduControl.MagicValue;
        control.Options = EduOptions.Parse(info.CommandLine);
        control.Ecam = acpi.Ecam;
        control.MmioNext = info.MmioBase;
        control.MmioEnd = info.MmioBase + info.MmioSize;
        control.Unit.Registers = acpi.RemappingUnit ?? default;
        control.Power = acpi.PowerButton();
        control.PowerSource = acpi.IoApicSource;
        control.Input = acpi.Input(0, Vector);
        ulong end = Math.Min(info.LowRamBase.Value + info.LowRamSize, 1UL << EduRegisters.AddressBits); // for a device without a vIOMMU
        control.Heap = new BumpAllocator { Next = EduLayout.Heap, End = new Gpa(end) };
        control.Random = Patterns.SectorPattern.Mix(control.Options.Seed + 1);
        cpu.Bus.Store(GuestLayout.Log, 0U);
        cpu.Registers.InterruptsEnabled = true;
        control.Phase = EduPhase.FindDevice;
    }

    /// <summary>Looks at one device number.</summary>
    public static void FindDevice(GuestCpu cpu, ref EduControl control)
    {
        if (control.ScanDevice >= DevicesPerBus)
            throw new GuestPanicException("there is no educational device on bus 0");
        var bdf = (ushort)(control.ScanDevice++ << 3);
        var config = new PciConfig(cpu, control.Ecam, bdf);
        if (!config.Exists || config.Read16(PciRegisters.VendorId) != EduRegisters.Vendor || config.Read16(PciRegisters.DeviceId) != EduRegisters.Device)
            return;
        Span<ulong> bars = stackalloc ulong[PciRegisters.Bars];
        config.PlaceBars(ref control.MmioNext, control.MmioEnd, bars);
        if (bars[0] == 0)
            throw new GuestPanicException($"the educational device 0x{bdf:x4} has no BAR 0");
        config.Enable();
        control.Bdf = bdf;
        control.Registers = new Gpa(bars[0]);
        control.Phase = EduPhase.StartDevice;
    }

    /// <summary>The remapping unit, the device's domain, its interrupt; then whether it is what it says.</summary>
    public static void StartDevice(GuestCpu cpu, ref EduControl control)
    {
        if (control.Unit.Registers.Value != 0)
            StartUnit(cpu, ref control);
        StartInterrupts(cpu, ref control);
        control.Power.Listen(
            cpu,
            control.Unit.RemapsInterrupts
                ? control.Unit.AddInterrupt(cpu, control.PowerSource, BootCpu, PowerButton.Vector, level: true)
                : MsiMessage.Compatible(BootCpu, PowerButton.Vector));

        uint identification = cpu.ReadMmio32(control.Registers + EduRegisters.Identification);
        if ((identification & EduRegisters.IdentificationMask) != EduRegisters.IdentificationMark)
            throw new GuestPanicException($"the device identifies itself as 0x{identification:x8}");
        for (int bit = 0; bit < 32; bit++)
        {
            cpu.WriteMmio32(control.Registers + EduRegisters.Liveness, 1u << bit);
            uint answer = cpu.ReadMmio32(control.Registers + EduRegisters.Liveness);
            if (answer != ~(1u << bit))
                throw new GuestPanicException($"the device does not invert 0x{1u << bit:x8}: 0x{answer:x8}");
        }

        control.Pages = control.Heap.Allocate((ulong)control.Options.Pages << RamPage.Shift);
        control.Contents = control.Heap.Allocate(control.Options.Pages * 8UL);
        control.Phase = EduPhase.Populate;
    }

    private static void StartInterrupts(GuestCpu cpu, ref EduControl control)
    {
        bool pin = control.Options.UsesPin;
        MsiMessage message = control.Unit.RemapsInterrupts
            ? control.Unit.AddInterrupt(cpu, pin ? control.PowerSource : control.Bdf, BootCpu, Vector, level: pin)
            : MsiMessage.Compatible(BootCpu, Vector);
        var config = new PciConfig(cpu, control.Ecam, control.Bdf);
        if (pin)
        {
            if (config.Read8(PciRegisters.InterruptPin) == 0)
                throw new GuestPanicException($"the educational device 0x{control.Bdf:x4} has no interrupt pin");
            control.Input.Pin = config.Read8(PciRegisters.InterruptLine);
            control.Input.Listen(cpu, message);
        }
        else if (!config.EnableMsi(message))
        {
            throw new GuestPanicException($"the educational device 0x{control.Bdf:x4} has no MSI");
        }
    }

    /// <summary>Fills the pages, some a step.</summary>
    public static void Populate(GuestCpu cpu, ref EduControl control)
    {
        for (uint i = 0; i < PagesPerStep && control.Populated < control.Options.Pages; i++)
            EduRun.Rewrite(cpu.Bus, ref control, control.Populated++);
        if (control.Populated == control.Options.Pages)
            control.Phase = EduPhase.Running;
    }

    private static void StartUnit(GuestCpu cpu, ref EduControl control)
    {
        ref VtdUnit unit = ref control.Unit;
        ref BumpAllocator heap = ref control.Heap;
        unit.RootTable = Zeroed(cpu.Bus, ref heap, 1);
        unit.ContextTable = Zeroed(cpu.Bus, ref heap, 2);
        unit.Queue = Zeroed(cpu.Bus, ref heap, 1);
        unit.WaitStatus = Zeroed(cpu.Bus, ref heap, 1);
        unit.InterruptTable = Zeroed(cpu.Bus, ref heap, 1);
        unit.Start(cpu, TableKind.SecondStage);
        if (unit.OffersInterruptRemapping)
            unit.EnableInterruptRemapping(cpu);
        if (!unit.OffersTranslation)
            return;
        unit.EnableTranslation(cpu);
        control.Pasids = Zeroed(cpu.Bus, ref heap, 2);
        control.Table = IoPageTable.Create(cpu.Bus, unit.AddressBits, unit.FirstStage, Zeroed(cpu.Bus, ref heap, TablePages), TablePages);
        control.Iovas = IovaAllocator.Create(
            cpu.Bus, heap.Allocate(IovaAllocator.BitmapBytes), heap.Allocate(IovaAllocator.BitmapBytes), heap.Allocate(IovaAllocator.CacheBytes),
            control.Table.UsableBits);
        const ulong Reachable = 1UL << (EduRegisters.AddressBits - RamPage.Shift);
        control.Iovas.Reserve(cpu.Bus, Reachable, IovaAllocator.ArenaPages - Reachable);
        unit.Attach(cpu, control.Bdf, Domain, control.Table, control.Pasids);
        control.Translates = true;
    }

    private static Gpa Zeroed(GuestBus bus, ref BumpAllocator heap, uint pages)
    {
        Gpa memory = heap.Allocate((ulong)pages << RamPage.Shift);
        bus.Fill(memory, (ulong)pages << RamPage.Shift, 0);
        return memory;
    }
}
