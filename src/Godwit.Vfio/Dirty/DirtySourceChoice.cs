using Godwit.Migration;

namespace Godwit.Vfio;

/// <summary>Which source a device gets. Pure: decided from what the user asked for and what there is, for each device by itself.</summary>
/// <param name="Kind">The source.</param>
/// <param name="Missing">With <see cref="DirtySourceKind.None"/>: why there is none.</param>
internal readonly record struct DirtySourceChoice(DirtySourceKind Kind, MigrationBlocker? Missing)
{
    /// <summary>The choice.</summary>
    /// <param name="device">Id, for the blocker.</param>
    /// <param name="wanted">By the user.</param>
    /// <param name="logsDma">Whether the device logs its DMA.</param>
    /// <param name="host">The host's IOMMU, if it has dirty bits for this device.</param>
    /// <param name="nested">
    /// Whether the guest owns the first stage of translation. The device then logs addresses that the VMM cannot attribute, while the host's
    /// IOMMU still has bits by GPA.
    /// </param>
    /// <param name="forced">Whether it is to migrate at any price: what does not tell a page from another is better than nothing then.</param>
    public static DirtySourceChoice Of(string device, DirtyTrackingMode wanted, bool logsDma, HostIommuTraits? host, bool nested, bool forced = false)
    {
        switch (wanted)
        {
            case DirtyTrackingMode.Pessimistic:
                return new(DirtySourceKind.Pessimistic, null);
            case DirtyTrackingMode.Off:
                return new(DirtySourceKind.None, new DirtyTrackingOffBlocker { Subject = device });
            case DirtyTrackingMode.Device:
                return logsDma
                    ? new(DirtySourceKind.DeviceLog, null)
                    : new(DirtySourceKind.None, new DeviceWithoutDirtyLoggingBlocker { Subject = device });
            case DirtyTrackingMode.Iommu:
                return host is not null
                    ? new(DirtySourceKind.HostIommu, null)
                    : new(DirtySourceKind.None, new NoHostIommuTrackingBlocker { Subject = device });
            default:
                // One that says of everything that it was written is for those who ask for it.
                bool hostTracks = host is { TracksWrites: true };
                if (logsDma && !(nested && hostTracks))
                    return new(DirtySourceKind.DeviceLog, null);
                if (hostTracks || (forced && host is not null))
                    return new(DirtySourceKind.HostIommu, null);
                return forced
                    ? new(DirtySourceKind.Pessimistic, null)
                    : new(DirtySourceKind.None, new NoDirtySourceBlocker { Subject = device });
        }
    }
}
