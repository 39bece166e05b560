namespace Godwit.VfioUser;

/// <summary>A base address register of a device and the memory behind it.</summary>
/// <param name="Index">0 to 5; a 64-bit one takes the next index as well.</param>
/// <param name="Size">Bytes: a power of two, at least 16, below 4 GiB unless 64-bit.</param>
public sealed record PciBar(int Index, ulong Size)
{
    /// <summary>Whether it may be placed above 4 GiB.</summary>
    public bool Is64Bit { get; init; }

    /// <summary>Whether reading has no side effects and writes may be merged.</summary>
    public bool Prefetchable { get; init; }

    /// <summary>Registers that clients may write without a message.</summary>
    public IReadOnlyList<DoorbellRange> Doorbells { get; init; } = [];

    /// <summary>Registers of which only matters that they are written, which clients may do without a message.</summary>
    public IReadOnlyList<EventRegister> Events { get; init; } = [];
}

/// <summary>What a <see cref="PciDevice"/> is. Checked as a whole when the device is made.</summary>
public sealed record PciDefinition
{
    /// <summary>Vendor ID (PCI Local Bus 3.0, 6.2.1).</summary>
    public required ushort VendorId { get; init; }

    /// <summary>Device ID.</summary>
    public required ushort DeviceId { get; init; }

    /// <summary>Class code, 24 bits: base class, sub-class, interface. Default: unassigned.</summary>
    public uint ClassCode { get; init; } = 0xFF0000;

    /// <summary>Revision ID.</summary>
    public byte Revision { get; init; }

    /// <summary>Subsystem vendor ID.</summary>
    public ushort SubsystemVendorId { get; init; }

    /// <summary>Subsystem ID.</summary>
    public ushort SubsystemId { get; init; }

    /// <summary>Register regions of the device's own.</summary>
    public IReadOnlyList<PciBar> Bars { get; init; } = [];

    /// <summary>Whether it has an interrupt pin (INTA#).</summary>
    public bool HasPin { get; init; }

    /// <summary>MSI vectors: 0 for none, else a power of two up to 32.</summary>
    public int MsiVectors { get; init; }

    /// <summary>
    /// MSI-X vectors, 0 to 2048. The table and the pending bits get a BAR of their own: the highest index that is free.
    /// </summary>
    public int MsixVectors { get; init; }

    /// <summary>Version of what <see cref="PciDevice.Save"/> writes. A destination with another one refuses the state.</summary>
    public uint StateVersion { get; init; } = 1;

    /// <summary>Most bytes that <see cref="PciDevice.Save"/> writes, and that a destination takes.</summary>
    public int MaxStateSize { get; init; } = 1 << 20;
}
