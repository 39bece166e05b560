namespace Godwit.Vfio;

/// <summary>What the user wants as the source of a device's dirty pages (<c>dirty-tracking=</c>).</summary>
public enum DirtyTrackingMode
{
    /// <summary>The best that there is: the device's log, else the host's IOMMU, else none (which blocks migration).</summary>
    Auto,

    /// <summary>The device's own log of its DMA, and nothing else.</summary>
    Device,

    /// <summary>The dirty bits of the host's IOMMU, and nothing else.</summary>
    Iommu,

    /// <summary>Everything that the device could write counts as written, at every sync.</summary>
    Pessimistic,

    /// <summary>None; the machine cannot migrate.</summary>
    Off,
}

/// <summary>How a device's writes become known (dirty-tracking.md, "Source").</summary>
public enum DirtySourceKind
{
    /// <summary>They do not: a migration would lose them.</summary>
    None,

    /// <summary>The device logs its own DMA (vfio.h, VFIO_DEVICE_FEATURE_DMA_LOGGING_*).</summary>
    DeviceLog,

    /// <summary>The host's IOMMU sets dirty bits (type1's bitmap, iommufd's IOMMU_HWPT_GET_DIRTY_BITMAP).</summary>
    HostIommu,

    /// <summary>Everything mapped for writing counts as dirty.</summary>
    Pessimistic,
}
