namespace Godwit.Vfio.Spec;

/// <summary>The MSI capability (PCI Express 5.0, 7.7.1).</summary>
internal static class MsiRegisters
{
    internal const byte Id = 0x05;
    internal const int Length = 14;
    internal const int MessageControl = 2;     // 7.7.1.2
    internal const uint CapableMask = 7;
    internal const int CapableShift = 1;
    internal const int MostCapable = 5;        // 32 vectors; 6 and 7 are reserved
    internal const uint Wide = 1 << 7;
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
