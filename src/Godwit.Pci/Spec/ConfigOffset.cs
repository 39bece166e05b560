namespace Godwit.Pci.Spec;

/// <summary>Offsets in configuration space (PCI Express 5.0, 7.5.1).</summary>
public static class ConfigOffset
{
    /// <summary>Bytes of a PCI Express function (7.2).</summary>
    public const int Size = 4096;

    /// <summary>Bytes of a conventional function; every function has at least these (7.2).</summary>
    public const int ConventionalSize = 256;

    /// <summary>Base Address Registers of a type 0 header (7.5.1.2.1).</summary>
    public const int BarCount = 6;

    /// <summary>First byte of the extended space (7.6.2).</summary>
    internal const int Extended = 0x100;

    /// <summary>Vendor ID (7.5.1.1.1).</summary>
    public const int VendorId = 0x00;

    /// <summary>Device ID (7.5.1.1.2).</summary>
    public const int DeviceId = 0x02;

    /// <summary>Command (7.5.1.1.3).</summary>
    public const int Command = 0x04;

    /// <summary>Status (7.5.1.1.4).</summary>
    public const int Status = 0x06;

    /// <summary>Revision ID (7.5.1.1.5).</summary>
    public const int RevisionId = 0x08;

    /// <summary>Class Code, three bytes (7.5.1.1.6).</summary>
    public const int ClassCode = 0x09;

    /// <summary>Cache Line Size (7.5.1.1.7).</summary>
    public const int CacheLineSize = 0x0C;

    /// <summary>Header Type (7.5.1.1.9).</summary>
    public const int HeaderType = 0x0E;

    /// <summary>First Base Address Register (7.5.1.2.1).</summary>
    public const int Bar0 = 0x10;

    /// <summary>Subsystem Vendor ID (7.5.1.2.3).</summary>
    public const int SubsystemVendorId = 0x2C;

    /// <summary>Subsystem ID (7.5.1.2.3).</summary>
    public const int SubsystemId = 0x2E;

    /// <summary>Capabilities Pointer (7.5.1.1.11).</summary>
    public const int CapabilitiesPointer = 0x34;

    /// <summary>Interrupt Line (7.5.1.1.12).</summary>
    public const int InterruptLine = 0x3C;

    /// <summary>Interrupt Pin (7.5.1.1.13).</summary>
    public const int InterruptPin = 0x3D;

    // Type 1 header (7.5.1.3).
    internal const int PrimaryBus = 0x18;
    internal const int SecondaryBus = 0x19;
    internal const int SubordinateBus = 0x1A;
    internal const int SecondaryLatency = 0x1B;
    internal const int SecondaryStatus = 0x1E;
    internal const int MemoryBase = 0x20;
    internal const int MemoryLimit = 0x22;
    internal const int PrefetchableBase = 0x24;
    internal const int PrefetchableLimit = 0x26;
    internal const int PrefetchableBaseUpper = 0x28;
    internal const int PrefetchableLimitUpper = 0x2C;
    internal const int BridgeControl = 0x3E;

    /// <summary>First byte behind the header, where capabilities may begin.</summary>
    public const int FirstCapability = 0x40;
}

/// <summary>Bits of Command, Status and Bridge Control.</summary>
public static class ConfigBits
{
    /// <summary>Memory space enable (7.5.1.1.3).</summary>
    public const ushort CommandMemorySpace = 1 << 1;

    /// <summary>Bus Master Enable (7.5.1.1.3).</summary>
    public const ushort CommandBusMaster = 1 << 2;

    internal const ushort CommandInterruptDisable = 1 << 10; // 7.5.1.1.3
    internal const uint StatusInterrupt = 1 << 3;        // 7.5.1.1.4

    /// <summary>Memory Space, Bus Master, Parity Error Response, SERR# Enable, Interrupt Disable. No I/O space here, so bit 0 is 0.</summary>
    internal const ushort CommandWritable = CommandMemorySpace | CommandBusMaster | (1 << 6) | (1 << 8) | CommandInterruptDisable;

    /// <summary>Status: there is a list of capabilities (7.5.1.1.4).</summary>
    public const ushort StatusCapabilitiesList = 1 << 4;

    /// <summary>The error bits 8 and 15:11, cleared by writing 1 (7.5.1.1.4, 7.5.1.3.7).</summary>
    internal const ushort StatusErrors = 0xF900;

    internal const byte HeaderTypeBridge = 1;              // 7.5.1.1.9
    internal const byte HeaderMultiFunction = 0x80;        // 7.5.1.1.9

    /// <summary>Parity Error Response, SERR# Enable and Secondary Bus Reset (7.5.1.3.13).</summary>
    internal const ushort BridgeControlWritable = 1 | (1 << 1) | BridgeControlSecondaryReset;
    internal const ushort BridgeControlSecondaryReset = 1 << 6;

    /// <summary>The register asks for I/O ports (7.5.1.2.1).</summary>
    public const uint BarIsIo = 1;

    /// <summary>The field that tells 32 from 64 bits (7.5.1.2.1).</summary>
    public const uint BarTypeMask = 3 << 1;

    /// <summary>The register is the lower half of a 64-bit one (7.5.1.2.1).</summary>
    public const uint Bar64 = 2 << 1;

    /// <summary>Prefetchable memory (7.5.1.2.1).</summary>
    public const uint BarPrefetchable = 1 << 3;

    /// <summary>The bits that are flags, so that the smallest BAR has 16 bytes (7.5.1.2.1).</summary>
    public const uint BarFlags = 0xF;
}
