namespace Godwit.Vfio;

/// <summary>No VFIO driver is bound to the device.</summary>
public sealed class DeviceNotBoundException(HostPciDevice device) : VfioAttachException(
    device.Address.ToString(),
    $"it is bound to {device.Driver ?? "no driver"}, not to vfio-pci or a variant of it. As root:\n  {string.Join("\n  ", device.BindCommands)}")
{
    /// <summary>The device.</summary>
    public HostPciDevice Device { get; } = device;
}

/// <summary>Other devices of the IOMMU group are in use by the host.</summary>
public sealed class GroupNotViableException(string address, int group, IReadOnlyList<HostPciDevice> others) : VfioAttachException(
    address,
    $"its IOMMU group {group} is not viable: {(others.Count == 0 ? "the host uses another device of it" : string.Join(", ", others.Select(d => $"{d.Address} is bound to {d.Driver}")))}. "
    + "All devices of a group must be bound to vfio-pci or to no driver")
{
    /// <summary>The group.</summary>
    public int Group { get; } = group;

    /// <summary>The devices that stand in the way.</summary>
    public IReadOnlyList<HostPciDevice> Others { get; } = others;
}

/// <summary>This process may not open a file.</summary>
public sealed class DevicePermissionException(string address, string path) : VfioAttachException(
    address, $"no permission to open {path}; give this user access to it (chown, or a udev rule), or run as root")
{
    /// <summary>The file.</summary>
    public string Path { get; } = path;
}

/// <summary>Somebody else has the device.</summary>
public sealed class DeviceBusyException(string address, string path) : VfioAttachException(
    address, $"{path} is in use, by another process or by another device of this machine (the devices of one IOMMU group have one address space)")
{
    /// <summary>The file.</summary>
    public string Path { get; } = path;
}

/// <summary>The process may not lock as much memory as guest RAM needs.</summary>
public sealed class MemoryLockLimitException(string address, ulong needed, ulong limit) : VfioAttachException(
    address,
    $"guest memory must be locked for DMA, which needs {needed} bytes, and RLIMIT_MEMLOCK is {limit} bytes; raise it to at least {needed / 1024} KiB "
    + "(ulimit -l, LimitMEMLOCK= of systemd) or grant CAP_IPC_LOCK")
{
    /// <summary>Bytes of guest memory.</summary>
    public ulong NeededBytes { get; } = needed;

    /// <summary>Bytes that may be locked.</summary>
    public ulong LimitBytes { get; } = limit;
}

/// <summary>The host takes fewer mappings than guest RAM has pieces.</summary>
public sealed class DmaMapLimitException(string address, int needed, int limit) : VfioAttachException(
    address, $"guest memory needs {needed} DMA mappings and the host takes {limit}; raise dma_entry_limit of the module vfio_iommu_type1")
{
    /// <summary>Mappings that RAM needs.</summary>
    public int Needed { get; } = needed;

    /// <summary>Mappings that the host takes.</summary>
    public int Limit { get; } = limit;
}

/// <summary>The host's IOMMU does not reach what the guest may use.</summary>
public sealed class HostAddressRangeException(string address, string wanted, string missing, string usable) : VfioAttachException(
    address, $"{wanted}, of which the host's IOMMU does not translate {missing}; it takes {usable}")
{
    /// <summary>What is missing, in words.</summary>
    public string Missing { get; } = missing;
}
