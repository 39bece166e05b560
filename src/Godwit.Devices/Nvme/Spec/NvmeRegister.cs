namespace Godwit.Devices;

/// <summary>Offsets of the controller registers in BAR0 (NVM Express Base 1.4, section 3.1).</summary>
internal static class NvmeRegister
{
    /// <summary>CAP, controller capabilities, 8 bytes (3.1.1).</summary>
    public const int Capabilities = 0x00;

    /// <summary>VS, version (3.1.2).</summary>
    public const int Version = 0x08;

    /// <summary>INTMS, interrupt mask set (3.1.3).</summary>
    public const int InterruptMaskSet = 0x0C;

    /// <summary>INTMC, interrupt mask clear (3.1.4).</summary>
    public const int InterruptMaskClear = 0x10;

    /// <summary>CC, controller configuration (3.1.5).</summary>
    public const int Configuration = 0x14;

    /// <summary>CSTS, controller status (3.1.6).</summary>
    public const int Status = 0x1C;

    /// <summary>AQA, admin queue attributes (3.1.8).</summary>
    public const int AdminQueueAttributes = 0x24;

    /// <summary>ASQ, admin submission queue base, 8 bytes (3.1.9).</summary>
    public const int AdminSubmissionBase = 0x28;

    /// <summary>ACQ, admin completion queue base, 8 bytes (3.1.10).</summary>
    public const int AdminCompletionBase = 0x30;

    /// <summary>End of the registers that this controller has; the rest up to the doorbells reads 0.</summary>
    public const int End = 0x38;

    /// <summary>First doorbell. With CAP.DSTRD = 0 queue y has its SQ tail at +8y and its CQ head at +8y+4.</summary>
    public const int Doorbells = 0x1000;

    /// <summary>VS of a controller that complies with 1.4.0.</summary>
    public const uint Version14 = 0x0001_0400;
}

/// <summary>CC as the host wrote it (NVM Express Base 1.4, 3.1.5).</summary>
internal readonly record struct ControllerConfiguration(uint Value)
{
    /// <summary>Bits that have a meaning; the rest is reserved and reads 0.</summary>
    public const uint Mask = 0x00FF_FFF1;

    /// <summary>CSS, MPS and AMS: may only change while EN is 0.</summary>
    public const uint FixedWhileEnabled = 0x0000_3FF0;

    /// <summary>EN.</summary>
    public bool Enabled => (Value & 1) != 0;

    /// <summary>CSS: 0 is the NVM command set.</summary>
    public uint CommandSet => (Value >> 4) & 7;

    /// <summary>MPS as the log2 of the memory page size in bytes.</summary>
    public int PageShift => 12 + (int)((Value >> 7) & 0xF);

    /// <summary>AMS: 0 is round robin.</summary>
    public uint Arbitration => (Value >> 11) & 7;

    /// <summary>SHN: 0 none, 1 normal, 2 abrupt shutdown.</summary>
    public uint ShutdownNotification => (Value >> 14) & 3;

    /// <summary>IOSQES: log2 of the I/O submission entry size.</summary>
    public uint SubmissionEntryShift => (Value >> 16) & 0xF;

    /// <summary>IOCQES: log2 of the I/O completion entry size.</summary>
    public uint CompletionEntryShift => (Value >> 20) & 0xF;
}

/// <summary>SHST of CSTS (NVM Express Base 1.4, 3.1.6).</summary>
internal enum ShutdownStatus
{
    /// <summary>No shutdown asked for.</summary>
    Normal = 0,

    /// <summary>Under way.</summary>
    Occurring = 1,

    /// <summary>Complete: power may go.</summary>
    Complete = 2,
}

/// <summary>Building CAP and CSTS.</summary>
internal static class ControllerRegisters
{
    /// <summary>Largest MPS offered: 64 KiB pages.</summary>
    public const int MaximumPageShift = 16;

    /// <summary>Longest time to become ready or not ready, in units of 500 ms.</summary>
    private const ulong TimeoutUnits = 20;

    /// <summary>CAP for queues of up to <paramref name="queueEntries"/> entries (3.1.1).</summary>
    public static ulong Capabilities(int queueEntries) =>
        (ulong)(queueEntries - 1)          // MQES, 0's based
        | (1UL << 16)                      // CQR: queues are physically contiguous
        | (TimeoutUnits << 24)             // TO
        | (1UL << 37)                      // CSS: NVM command set
        | (0UL << 48)                      // MPSMIN: 4 KiB
        | ((ulong)(MaximumPageShift - 12) << 52); // MPSMAX

    /// <summary>CSTS (3.1.6).</summary>
    public static uint Status(bool ready, bool fatal, ShutdownStatus shutdown) =>
        (ready ? 1u : 0) | (fatal ? 2u : 0) | ((uint)shutdown << 2);
}
