namespace Godwit.Vfio;

/// <summary>A PCI function of the host as sysfs describes it (Linux Documentation/ABI/testing/sysfs-bus-pci).</summary>
public sealed record HostPciDevice
{
    /// <summary>Where it is.</summary>
    public required HostPciAddress Address { get; init; }

    /// <summary>Vendor id.</summary>
    public required ushort Vendor { get; init; }

    /// <summary>Device id.</summary>
    public required ushort Device { get; init; }

    /// <summary>Base class, sub-class, interface from the high byte down.</summary>
    public required uint ClassCode { get; init; }

    /// <summary>The driver bound to it, or null.</summary>
    public string? Driver { get; init; }

    /// <summary>Its IOMMU group, or null when no host IOMMU is in use.</summary>
    public int? IommuGroup { get; init; }

    /// <summary>Name of its VFIO device, as <c>vfio0</c>, once a VFIO driver is bound (kernels from 6.1 on); null otherwise.</summary>
    public string? VfioName { get; init; }

    /// <summary>PCI bridges (class 06) stay with their own driver and do not disturb a group.</summary>
    public bool IsBridge => ClassCode >> 16 == 0x06;

    /// <summary>Whether a VFIO driver is bound: <c>vfio-pci</c> or a variant of it. Older kernels tell only by the driver's name.</summary>
    public bool HasVfioDriver => VfioName is not null || Driver?.Contains("vfio", StringComparison.Ordinal) == true;

    /// <summary>Whether it leaves its group usable: a VFIO driver, no driver, a bridge, or pci-stub, which never does DMA.</summary>
    public bool LeavesGroupViable => HasVfioDriver || IsBridge || Driver is null or "pci-stub" or "pcieport";

    /// <summary>The shell commands, as root, that bind it to <c>vfio-pci</c>.</summary>
    public IReadOnlyList<string> BindCommands
    {
        get
        {
            List<string> commands = ["modprobe vfio-pci", $"echo vfio-pci > /sys/bus/pci/devices/{Address}/driver_override"];
            if (Driver is not null)
                commands.Add($"echo {Address} > /sys/bus/pci/devices/{Address}/driver/unbind");
            commands.Add($"echo {Address} > /sys/bus/pci/drivers_probe");
            return commands;
        }
    }
}
