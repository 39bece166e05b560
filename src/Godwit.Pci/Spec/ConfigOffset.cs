namespace Godwit.Pci.Spec;

/// <summary>Offsets in configuration space (PCI Express 5.0, 7.5.1).</summary>
internal static class ConfigOffset
{
    /// <summary>Bytes of a PCI Express function (7.2).</summary>
    internal const int Size = 4096;

    /// <summary>First byte of the extended space (7.6.2).</summary>
    internal const int Extended = 0x100;

    internal const int VendorId = 0x00;       // 7.5.1.1.1
    internal const int DeviceId = 0x02;       // 7.5.1.1.2
    internal const int Command = 0x04;        // 7.5.1.1.3
    internal const int Status = 0x06;         // 7.5.1.1.4
    internal const int RevisionId = 0x08;     // 7.5.1.1.5
    internal const int ClassCode = 0x09;      // 7.5.1.1.6, three bytes
    internal const int CacheLineSize = 0x0C;  // 7.5.1.1.7
    internal const int HeaderType = 0x0E;     // 7.5.1.1.9
    internal const int Bar0 = 0x10;           // 7.5.1.2.1
    internal const int SubsystemVendorId = 0x2C; // 7.5.1.2.3
    internal const int SubsystemId = 0x2E;    // 7.5.1.2.3
    internal const int CapabilitiesPointer = 0x34; // 7.5.1.1.11
    internal const int InterruptLine = 0x3C;  // 7.5.1.1.12
    internal const int InterruptPin = 0x3D;   // 7.5.1.1.13

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
    internal const int FirstCapability = 0x40;
}

/// <summary>Bits of Command, Status and Bridge Control.</summary>
internal static class ConfigBits
{
    internal const ushort CommandMemorySpace = 1 << 1;   // 7.5.1.1.3
    internal const ushort CommandBusMaster = 1 << 2;     // 7.5.1.1.3

    /// <summary>Memory Space, Bus Master, Parity Error Response, SERR# Enable, Interrupt Disable. No I/O space here, so bit 0 is 0.</summary>
    internal const ushort CommandWritable = CommandMemorySpace | CommandBusMaster | (1 << 6) | (1 << 8) | (1 << 10);

    internal const ushort StatusCapabilitiesList = 1 << 4; // 7.5.1.1.4

    /// <summary>The error bits 8 and 15:11, cleared by writing 1 (7.5.1.1.4, 7.5.1.3.7).</summary>
    internal const ushort StatusErrors = 0xF900;

    internal const byte HeaderTypeBridge = 1;              // 7.5.1.1.9
    internal const byte HeaderMultiFunction = 0x80;        // 7.5.1.1.9

    /// <summary>Parity Error Response, SERR# Enable and Secondary Bus Reset (7.5.1.3.13).</summary>
    internal const ushort BridgeControlWritable = 1 | (1 << 1) | BridgeControlSecondaryReset;
    internal const ushort BridgeControlSecondaryReset = 1 << 6;

    internal const uint Bar64 = 2 << 1;                    // 7.5.1.2.1
    internal const uint BarPrefetchable = 1 << 3;          // 7.5.1.2.1
    internal const uint BarFlags = 0xF;
}
