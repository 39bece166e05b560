using System.Runtime.InteropServices;
using Godwit.Machine.Guests.Drivers;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Stress;

/// <summary>Where the program is.</summary>
internal enum StressPhase : uint
{
    Boot,
    ScanPci,
    StartIommu,
    StartControllers,
    Populate,
    Running,

    /// <summary>All I/O has ended and the machine was switched off.</summary>
    Off,
}

/// <summary>
/// The program's global state, at <see cref="StressLayout.Control"/> in guest RAM. A step copies it in, works on the copy and writes it
/// back; what it reads may have been damaged, so each use checks.
/// </summary>
[StructLayout(LayoutKind.Sequential)]
internal struct StressControl
{
    public const ulong MagicValue = 0x3153_5345_5254_534E; // "NSTRESS1"

    public ulong Magic;
    public StressPhase Phase;
    public uint ControllerCount;
    public StressOptions Options;

    // Board.
    public Gpa Ecam;
    public Gpa MmioBase;
    public Gpa MmioNext;
    public Gpa MmioEnd;
    public uint ScanDevice;

    // Memory.
    public BumpAllocator Heap;
    public FramePermutation Frames;
    public ulong FramesUsed;
    public PagePool Pages;

    // Remapping unit; Registers is 0 without one.
    public VtdUnit Unit;
    public bool Translating;

    // The power button; once it was pressed no I/O is started any more.
    public PowerButton Power;
    public ushort PowerSource;
    public bool PoweringDown;

    // The CPU's working set: frames from WorkingSetFirst on.
    public ulong WorkingSetFirst;
    public ulong WorkingSetStride;
    public ulong Populated;
    public ulong Sweep;
    public ulong SweepPosition;
    public Pacer Dirtying;

    // Where interrupts go while they are moved about.
    public Pacer InterruptMoves;
    public bool InterruptsAtBootCpu;

    // Randomness and clocks.
    public ulong Random;
    public ulong Generation;
    public ulong NextHousekeeping;

    // Counters.
    public ulong Reads;
    public ulong Writes;
    public ulong OtherCommands;
    public ulong BlocksVerified;
    public ulong PagesVerified;
    public ulong Mismatches;
    public ulong Maps;
    public ulong Unmaps;
    public ulong Interrupts;
    public ulong CpuPagesDirtied;
    public ulong IommuFaults;
    public ulong DomainSwitches;

    /// <summary>The next random number.</summary>
    public ulong NextRandom() => GuestRandom.Next(ref Random);

    /// <summary>A random number below <paramref name="limit"/> (1 to 2^32).</summary>
    public ulong NextRandom(ulong limit) => GuestRandom.Next(ref Random, limit);
}
