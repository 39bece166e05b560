namespace Godwit.Vfio;

/// <summary>Which of the kernel's interfaces gives a device its address space.</summary>
public enum HostIommuKind
{
    /// <summary>iommufd when the kernel and the device have it, else type1.</summary>
    Auto,

    /// <summary>Group and container (vfio.h, VFIO_TYPE1v2_IOMMU).</summary>
    Type1,

    /// <summary>The device's own node and an address space of iommufd (iommufd.h).</summary>
    Iommufd,
}

/// <summary>Which device of the host's kernel is attached, and how. Exactly one of <see cref="Host"/> and <see cref="Descriptor"/> is set.</summary>
public sealed record KernelDeviceOptions
{
    /// <summary>Address in the host, as <c>0000:3b:00.2</c>, or the path of its directory in sysfs.</summary>
    public string? Host { get; init; }

    /// <summary>
    /// Number of an open descriptor of the device's own node (<c>/dev/vfio/devices/vfioN</c>) that this process was started with. It is taken
    /// over and closed with the device, also when attaching fails.
    /// </summary>
    public int? Descriptor { get; init; }

    /// <summary>The interface to use.</summary>
    public HostIommuKind Iommu { get; init; }

    /// <inheritdoc/>
    public override string ToString() => Host ?? $"fd {Descriptor}";
}
