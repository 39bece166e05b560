namespace Godwit.Machine.Guests.Drivers.Spec;

/// <summary>Registers, commands and data structures of an NVMe controller (NVM Express 1.4; section beside each).</summary>
internal static class NvmeRegisters
{
    public const ulong Capabilities = 0x00;          // 3.1.1
    public const ulong Configuration = 0x14;         // 3.1.5
    public const ulong Status = 0x1C;                // 3.1.6
    public const ulong AdminQueueAttributes = 0x24;  // 3.1.8
    public const ulong AdminSubmission = 0x28;       // 3.1.9
    public const ulong AdminCompletion = 0x30;       // 3.1.10
    public const ulong Doorbells = 0x1000;           // 3.1.25

    public const ulong CapMaxQueueEntriesMask = 0xFFFF;  // CAP.MQES, 0's based
    public const int CapTimeoutShift = 24;               // CAP.TO, 500 ms units
    public const int CapDoorbellStrideShift = 32;        // CAP.DSTRD
    public const int CapMinPageShift = 48;               // CAP.MPSMIN

    public const uint ConfigEnable = 1;                  // CC.EN
    public const uint ConfigQueueEntrySizes = (6u << 16) | (4u << 20); // CC.IOSQES 64 bytes, CC.IOCQES 16 bytes
    public const uint StatusReady = 1;                   // CSTS.RDY
    public const uint StatusFatal = 2;                   // CSTS.CFS

    public const int SubmissionEntrySize = 64;           // 4.2
    public const int CompletionEntrySize = 16;           // 4.6
    public const int CompletionStatusDword = 12;         // CID 15:0, phase 16, status 31:17

    // Admin commands, 5.
    public const byte CreateSubmissionQueue = 0x01;
    public const byte CreateCompletionQueue = 0x05;
    public const byte Identify = 0x06;
    public const byte SetFeatures = 0x09;
    public const uint IdentifyNamespace = 0;             // CNS, 5.15.1
    public const uint IdentifyController = 1;
    public const uint FeatureQueues = 7;                 // 5.21.1.7
    public const uint QueueContiguous = 1;
    public const uint QueueInterrupts = 2;

    // I/O commands, 6.
    public const byte Flush = 0x00;
    public const byte Write = 0x01;
    public const byte Read = 0x02;
    public const byte WriteZeroes = 0x08;
    public const byte DatasetManagement = 0x09;
    public const uint DatasetDeallocate = 1 << 2;        // CDW11.AD, 6.7

    // Identify controller, 5.15.2.2.
    public const int ControllerMaxTransfer = 77;         // MDTS
    public const int ControllerNamespaces = 516;         // NN
    public const int ControllerCommands = 520;           // ONCS
    public const ushort CommandDatasetManagement = 1 << 2;
    public const ushort CommandWriteZeroes = 1 << 3;

    // Identify namespace, 5.15.2.1.
    public const int NamespaceSize = 0;                  // NSZE
    public const int NamespaceFormat = 26;               // FLBAS
    public const int NamespaceDeallocation = 33;         // DLFEAT
    public const int NamespaceFormats = 128;             // LBAF0
    public const byte DeallocatedReadsZero = 1;
}
