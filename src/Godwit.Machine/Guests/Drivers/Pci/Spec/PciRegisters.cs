namespace Godwit.Machine.Guests.Drivers.Spec;

/// <summary>Configuration registers as a driver needs them (PCI Local Bus 3.0; section beside each).</summary>
internal static class PciRegisters
{
    public const int VendorId = 0x00;                    // 6.2.1
    public const int DeviceId = 0x02;                    // 6.2.1
    public const int Command = 0x04;                     // 6.2.2
    public const int Status = 0x06;                      // 6.2.3
    public const int ClassAndRevision = 0x08;            // 6.2.1
    public const int HeaderType = 0x0E;                  // 6.2.1
    public const int Bar0 = 0x10;                        // 6.2.5.1
    public const int CapabilityPointer = 0x34;           // 6.7
    public const int InterruptLine = 0x3C;               // 6.2.4
    public const int InterruptPin = 0x3D;                // 6.2.4

    public const ushort NoDevice = 0xFFFF;               // 6.1
    public const ushort CommandMemorySpace = 1 << 1;     // 6.2.2
    public const ushort CommandBusMaster = 1 << 2;       // 6.2.2
    public const ushort StatusCapabilityList = 1 << 4;   // 6.2.3
    public const int HeaderMultiFunction = 0x80;         // 6.2.1
    public const int HeaderLayoutMask = 0x7F;

    public const uint BarIoSpace = 1;                    // 6.2.5.1
    public const uint BarTypeMask = 3 << 1;
    public const uint BarType64 = 2 << 1;
    public const uint BarMemoryMask = ~0xFu;
    public const int Bars = 6;

    public const byte CapabilityMsi = 0x05;              // appendix H
    public const int MsiControl = 2;                     // 6.8.1.3
    public const int MsiAddress = 4;                     // 6.8.1.4
    public const int MsiUpperAddress = 8;                // 6.8.1.5
    public const int MsiData = 8;                        // 6.8.1.6: behind the upper address where there is one
    public const ushort MsiControlEnable = 1 << 0;
    public const ushort MsiControlMultiple = 7 << 4;
    public const ushort MsiControlWide = 1 << 7;

    public const byte CapabilityMsix = 0x11;             // appendix H
    public const int MsixControl = 2;                    // 6.8.2.3
    public const int MsixTable = 4;                      // 6.8.2.4
    public const ushort MsixControlEnable = 1 << 15;
    public const ushort MsixControlMaskAll = 1 << 14;
    public const ushort MsixControlSizeMask = 0x7FF;
    public const uint MsixBirMask = 7;
    public const int MsixEntrySize = 16;                 // 6.8.2.6
    public const int MsixEntryData = 8;
    public const int MsixEntryControl = 12;

    public const uint ClassNvme = 0x01_08_02;            // NVM Express 1.4, 2.1.5
}
