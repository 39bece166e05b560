namespace Godwit.Vfio.Spec;

/// <summary>What is read from a device's own configuration space (PCI Express 5.0, 7.5.1).</summary>
internal static class ConfigRegisters
{
    /// <summary>Bytes of a conventional function; a device has at least these (7.2).</summary>
    internal const int LeastSize = 256;

    /// <summary>Bytes of a PCI Express function (7.2).</summary>
    internal const int MostSize = 4096;

    internal const int VendorId = 0x00;            // 7.5.1.1.1
    internal const int DeviceId = 0x02;            // 7.5.1.1.2
    internal const int Command = 0x04;             // 7.5.1.1.3
    internal const int Status = 0x06;              // 7.5.1.1.4
    internal const int RevisionId = 0x08;          // 7.5.1.1.5
    internal const int ClassCode = 0x09;           // 7.5.1.1.6, three bytes
    internal const int HeaderType = 0x0E;          // 7.5.1.1.9
    internal const int Bar0 = 0x10;                // 7.5.1.2.1
    internal const int SubsystemVendorId = 0x2C;   // 7.5.1.2.3
    internal const int SubsystemId = 0x2E;         // 7.5.1.2.3
    internal const int CapabilitiesPointer = 0x34; // 7.5.1.1.11
    internal const int FirstCapability = 0x40;     // 7.5.1.1.11

    /// <summary>Base address registers of a type 0 header.</summary>
    internal const int BarCount = 6;

    internal const uint StatusCapabilitiesList = 1 << 4; // 7.5.1.1.4
    internal const uint BarIsIo = 1;                     // 7.5.1.2.1
    internal const uint BarTypeMask = 3 << 1;            // 7.5.1.2.1
    internal const uint BarType64 = 2 << 1;              // 7.5.1.2.1
    internal const uint BarPrefetchable = 1 << 3;        // 7.5.1.2.1

    /// <summary>Smallest BAR (7.5.1.2.1: bits 3:0 are flags).</summary>
    internal const ulong LeastBar = 16;
}

/// <summary>The MSI-X capability (PCI Express 5.0, 7.7.2).</summary>
internal static class MsixRegisters
{
    internal const byte Id = 0x11;
    internal const int Length = 12;
    internal const int MessageControl = 2;    // 7.7.2.2
    internal const int Table = 4;             // 7.7.2.3
    internal const int Pending = 8;           // 7.7.2.4
    internal const uint TableSizeMask = 0x7FF;
    internal const uint BarMask = 7;
    internal const int EntryBytes = 16;       // 7.7.2.5
}

/// <summary>The PCI Express capability (PCI Express 5.0, 7.5.3).</summary>
internal static class ExpressRegisters
{
    internal const byte Id = 0x10;
    internal const int Length = 0x3C;
    internal const int Capabilities = 2;       // 7.5.3.2
    internal const int DeviceCapabilities = 4; // 7.5.3.3
    internal const int DeviceControl = 8;      // 7.5.3.4
    internal const uint PortTypeMask = 0xF0;
    internal const int PortTypeShift = 4;
    internal const uint FunctionLevelResetCapable = 1 << 28;
    internal const uint InitiateFunctionLevelReset = 1 << 15;
}
