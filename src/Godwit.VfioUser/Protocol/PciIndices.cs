namespace Godwit.VfioUser;

/// <summary>Region indices of a PCI device (vfio.h VFIO_PCI_*_REGION_INDEX).</summary>
public static class PciRegion
{
#pragma warning disable CS1591
    public const int Bar0 = 0;
    public const int Bar5 = 5;
    public const int Rom = 6;
    public const int Config = 7;
    public const int Vga = 8;
    public const int Count = 9;
#pragma warning restore CS1591
}

/// <summary>Interrupt indices of a PCI device (vfio.h VFIO_PCI_*_IRQ_INDEX).</summary>
public static class PciIrq
{
#pragma warning disable CS1591
    public const int Intx = 0;
    public const int Msi = 1;
    public const int Msix = 2;
    public const int Error = 3;
    public const int Request = 4;
    public const int Count = 5;
#pragma warning restore CS1591
}
