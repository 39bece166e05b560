namespace Godwit.Devices;

/// <summary>What the function says about itself, and where its capabilities are (PCI Express Base 5.0, section 7.5).</summary>
internal static class PciIdentity
{
    /// <summary>Red Hat, Inc., who lets QEMU's models use the id.</summary>
    public const ushort Vendor = 0x1B36;

    /// <summary>The public id of an emulated NVMe controller; stock drivers bind by class anyway.</summary>
    public const ushort Device = 0x0010;

    /// <summary>Subsystem: Red Hat's number again, with an id that says Godwit ("GW").</summary>
    public const ushort SubsystemVendor = 0x1B36;

    /// <summary>"GW".</summary>
    public const ushort Subsystem = 0x4757;

    /// <summary>Mass storage, NVM, NVM Express I/O controller (NVM Express Base 1.4, 2.1.5).</summary>
    public const uint ClassCode = 0x01_08_02;

    /// <summary>Bytes of configuration space.</summary>
    public const int ConfigurationSize = 4096;

    /// <summary>Bytes of BAR0: registers, doorbells, MSI-X table, pending bits; a power of two.</summary>
    public const int Bar0Size = 0x4000;

    /// <summary>MSI-X table in BAR0, in a page of its own so that a client can map the others.</summary>
    public const int MsixTableOffset = 0x2000;

    /// <summary>MSI-X pending bits in BAR0.</summary>
    public const int MsixPendingOffset = 0x3000;

    /// <summary>Bytes of an MSI-X table entry (7.7.2).</summary>
    public const int MsixEntrySize = 16;

    /// <summary>Most vectors the table's page holds.</summary>
    public const int MaximumVectors = 256;

    /// <summary>Capability offsets.</summary>
    public const int PowerManagement = 0x40, Msix = 0x50, Express = 0x60;
}
