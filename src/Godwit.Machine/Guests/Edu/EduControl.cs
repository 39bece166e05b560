using System.Runtime.InteropServices;
using Godwit.Machine.Guests.Drivers;
using Godwit.Machine.Managed;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Edu;

/// <summary>Where the program is.</summary>
internal enum EduPhase : uint
{
    Boot,
    FindDevice,
    StartDevice,
    Populate,
    Running,

    /// <summary>The last transfer has ended and the machine was switched off.</summary>
    Off,
}

/// <summary>What the device is doing.</summary>
internal enum EduWork : uint
{
    None,

    /// <summary>Page <see cref="EduControl.From"/> goes into the device's buffer.</summary>
    ToDevice,

    /// <summary>The buffer goes into page <see cref="EduControl.To"/>.</summary>
    ToMemory,

    /// <summary>The same, and the page has been unmapped meanwhile.</summary>
    ToUnmapped,

    Factorial,
}

/// <summary>Where <c>edu-stress</c> keeps its state.</summary>
internal static class EduLayout
{
    public static Gpa Heap => GuestLayout.Control + 0x2000;
}

/// <summary>
/// The program's state, at <see cref="GuestLayout.Control"/> in guest RAM. A step copies it in, works on the copy and writes it back; what
/// it reads may have been damaged, so what bounds a loop or an address is checked then.
/// </summary>
[StructLayout(LayoutKind.Sequential)]
internal struct EduControl
{
    public const ulong MagicValue = 0x5353_4552_5453_5545; // "EUSTRESS"

    /// <summary>What a page holds: whose content in the upper bits, and of which generation.</summary>
    private const int OwnerShift = 48;
    public const ulong GenerationMask = (1UL << OwnerShift) - 1;

    public ulong Magic;
    public EduPhase Phase;
    public EduOptions Options;

    // Board.
    public Gpa Ecam;
    public Gpa MmioNext;
    public Gpa MmioEnd;
    public uint ScanDevice;
    public BumpAllocator Heap;
    public PowerButton Power;
    public ushort PowerSource;
    public bool PoweringDown;

    /// <summary>The I/O APIC's input of the device's pin, when that is used.</summary>
    public IoApicInput Input;

    // The device.
    public ushort Bdf;
    public Gpa Registers;
    public EduWork Work;
    public ulong WorkStarted;
    public uint Causes;
    public uint From;
    public uint To;
    public Iova FromIova;
    public Iova ToIova;
    public ulong Argument;
    public ulong ContentAfterUnmap;

    // Remapping unit (Registers is 0 without one) and the device's domain.
    public VtdUnit Unit;
    public bool Translates;
    public Gpa Pasids;
    public IoPageTable Table;
    public IovaAllocator Iovas;

    // The pages, and what each must hold.
    public Gpa Pages;
    public Gpa Contents;
    public uint Populated;
    public uint SweepPage;
    public ulong NextSweep;

    public ulong Random;
    public ulong Generation;
    public ulong Rounds;

    // Counters.
    public ulong Reads;
    public ulong Writes;
    public ulong Factorials;
    public ulong PagesVerified;
    public ulong Mismatches;
    public ulong Maps;
    public ulong Unmaps;
    public ulong Interrupts;
    public ulong CpuPagesDirtied;
    public ulong IommuFaults;

    public static EduControl Load(GuestBus bus)
    {
        var control = bus.Load<EduControl>(GuestLayout.Control);
        if (control.Magic != MagicValue || control.Options.Pages is < 2 or > EduOptions.MaxPages || control.From >= control.Options.Pages || control.To >= control.Options.Pages)
            throw new GuestPanicException("control block damaged");
        return control;
    }

    public static void Store(GuestBus bus, in EduControl control) => bus.Store(GuestLayout.Control, control);

    public readonly Gpa Page(uint number) => Pages + ((ulong)number << RamPage.Shift);

    public readonly (uint Owner, ulong Generation) Content(GuestBus bus, uint page)
    {
        ulong value = bus.Load<ulong>(Contents + (page * 8UL));
        return ((uint)(value >> OwnerShift), value & GenerationMask);
    }

    public readonly void SetContent(GuestBus bus, uint page, uint owner, ulong generation) =>
        bus.Store(Contents + (page * 8UL), ((ulong)owner << OwnerShift) | (generation & GenerationMask));

    /// <summary>A random number below <paramref name="limit"/>.</summary>
    public uint NextRandom(uint limit) => (uint)GuestRandom.Next(ref Random, limit);
}
