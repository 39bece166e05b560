namespace Godwit.Pci.Spec;

/// <summary>Capability ids (PCI Code and ID Assignment 1.11, 2).</summary>
internal static class CapabilityId
{
    internal const byte Msi = 0x05;
    internal const byte Express = 0x10;
    internal const byte Msix = 0x11;
}

/// <summary>The PCI Express capability (PCI Express 5.0, 7.5.3).</summary>
internal static class ExpressCapability
{
    internal const int Length = 0x3C;
    internal const int Capabilities = 0x02;        // 7.5.3.2
    internal const int DeviceCapabilities = 0x04;  // 7.5.3.3
    internal const int DeviceControl = 0x08;       // 7.5.3.4
    internal const int DeviceStatus = 0x0A;        // 7.5.3.5
    internal const int LinkCapabilities = 0x0C;    // 7.5.3.6
    internal const int LinkControl = 0x10;         // 7.5.3.7
    internal const int LinkStatus = 0x12;          // 7.5.3.8
    internal const int RootControl = 0x1C;         // 7.5.3.12
    internal const int RootStatus = 0x20;          // 7.5.3.14
    internal const int LinkControl2 = 0x30;        // 7.5.3.19

    internal const ushort Version2 = 2;

    /// <summary>Role-based error reporting, which 7.5.3.3 wants set.</summary>
    internal const uint RoleBasedErrors = 1 << 15;

    /// <summary>Error reporting enables, relaxed ordering, payload and request sizes, no snoop.</summary>
    internal const ushort DeviceControlWritable = 0x78FF;

    /// <summary>Reset value: relaxed ordering, no snoop, 512-byte requests (7.5.3.4).</summary>
    internal const ushort DeviceControlReset = (1 << 4) | (1 << 11) | (2 << 12);

    internal const ushort DeviceStatusErrors = 0xF;

    /// <summary>2.5 GT/s, one lane.</summary>
    internal const ushort Link = 1 | (1 << 4);

    /// <summary>ASPM control, common clock, extended synch.</summary>
    internal const ushort LinkControlWritable = 0x00C3;
}

/// <summary>The MSI capability (PCI Express 5.0, 7.7.1).</summary>
internal static class MsiCapability
{
    internal const int Length = 10;                // 32-bit addresses, no masks
    internal const int WideLength = 14;            // 64-bit addresses, no masks
    internal const int MessageControl = 2;         // 7.7.1.2
    internal const int Address = 4;                // 7.7.1.3
    internal const int UpperAddress = 8;           // 7.7.1.4
    internal const int Data = 8;                   // 7.7.1.5
    internal const int WideData = 12;
    internal const int MaxVectors = 32;
    internal const ushort Enable = 1;
    internal const int CapableShift = 1;
    internal const int EnabledShift = 4;
    internal const ushort EnabledMask = 7 << EnabledShift;
    internal const ushort Wide = 1 << 7;
}

/// <summary>The MSI-X capability and table (PCI Express 5.0, 7.7.2).</summary>
internal static class MsixCapability
{
    internal const int Length = 12;
    internal const int MessageControl = 2;         // 7.7.2.2
    internal const int TableOffset = 4;            // 7.7.2.3
    internal const int PendingOffset = 8;          // 7.7.2.4
    internal const int MaxVectors = 2048;
    internal const ushort FunctionMask = 1 << 14;
    internal const ushort Enable = 1 << 15;
    internal const int EntrySize = 16;             // 7.7.2.5
    internal const uint VectorMasked = 1;          // 7.7.2.8
}
