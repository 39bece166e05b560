using System.Runtime.InteropServices;
using Godwit.Machine.Guests.Drivers;
using Godwit.Memory;

namespace Godwit.Machine.Guests.Stress;

/// <summary>How far a controller is.</summary>
internal enum ControllerPhase : uint
{
    Found,
    Disabling,
    Enabling,
    IdentifyController,
    IdentifyNamespace,
    SetQueueCount,
    CreateCompletionQueue,
    CreateSubmissionQueue,
    Ready,

    /// <summary>Its registers read all ones: the device is not there any more.</summary>
    Gone,
}

/// <summary>One NVMe controller, in guest RAM at <see cref="StressLayout.Controller"/>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct ControllerState
{
    public ControllerPhase Phase;
    public ushort Bdf;
    public Gpa Registers;
    public ulong Capabilities;
    public ulong Deadline;
    public uint VectorCount;

    // DMA: the domain that it is in; not used without translation.
    public bool Translated;
    public DmaDomain Dma;

    /// <summary>The device's PASID directory and table, in scalable mode.</summary>
    public Gpa Pasids;

    // The domain that it is not in, and where it is on its round, see SwitchStage.
    public DmaDomain OtherDma;
    public uint Place;
    public bool SwitchPending;
    public Pacer Switching;

    public NvmeQueuePair Admin;
    public ulong AdminSubmissionDma;
    public ulong AdminCompletionDma;
    public bool AdminPending;
    public ushort AdminStatus;
    public Gpa IdentifyPage;
    public ulong IdentifyDma;
    public ulong SubmissionDma;
    public ulong CompletionDma;

    public NvmeQueuePair Io;

    // The disk.
    public ulong Blocks;
    public uint SectorsPerBlock;
    public uint MaxBlocks;
    public ushort Commands;
    public bool DeallocatedReadsZero;

    /// <summary>One <see cref="BlockState"/> word for each block in use.</summary>
    public Gpa Shadow;

    // Commands in flight: slot = command id.
    public Gpa Slots;
    public Gpa SlotPages;
    public uint PagesPerSlot;
    public Gpa FreeSlots;
    public uint FreeCount;
    public uint SlotCount;
    public Gpa DoneSlots;
    public uint DoneHead;
    public uint DoneCount;

    // Unmapped, not yet invalidated (lazy mode): IOVA | order each.
    public Gpa FlushQueue;
    public uint FlushCount;
    public ulong FlushBy;

    // Buffers that stay mapped and are moved from page to page.
    public Gpa ChurnBuffers;
    public uint ChurnCount;
    public uint ChurnCursor;
    public uint ChurnStyle;
    public Pacer Churn;

    public Pacer IoPacing;

    // Watchdogs.
    public ulong InterruptCount;
    public ulong InterruptsAtCheck;
    public ulong StuckSince;
    public uint ScanSlot;
}
