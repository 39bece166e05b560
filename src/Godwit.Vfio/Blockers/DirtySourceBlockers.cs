using Godwit.Migration;

namespace Godwit.Vfio;

/// <summary>The user has switched tracking of the device's writes off.</summary>
public sealed record DirtyTrackingOffBlocker : MigrationBlocker
{
    /// <inheritdoc/>
    public override string Code => "dirty-tracking-off";

    /// <inheritdoc/>
    public override string Reason => "Tracking of what this device writes has been switched off (dirty-tracking=off)";

    /// <inheritdoc/>
    public override string WayOut => "Plug it with dirty-tracking=auto";
}

/// <summary>Nothing tells what the device writes: neither its own log nor the host's IOMMU.</summary>
public sealed record NoDirtySourceBlocker : MigrationBlocker
{
    /// <inheritdoc/>
    public override string Code => "no-dirty-source";

    /// <inheritdoc/>
    public override string Reason =>
        "Nothing tells which memory the device writes: it does not log its DMA (DMA_LOGGING_START, STOP and REPORT), and the host's IOMMU has no dirty bits for it";

    /// <inheritdoc/>
    public override string WayOut =>
        "Use a device or driver that logs its DMA, or plug it with dirty-tracking=pessimistic, which sends all that it can write in every round";
}

/// <summary>The user wants the device's own log and nothing else, and it has none.</summary>
public sealed record DeviceWithoutDirtyLoggingBlocker : MigrationBlocker
{
    /// <inheritdoc/>
    public override string Code => "device-without-dma-logging";

    /// <inheritdoc/>
    public override string Reason =>
        "dirty-tracking=device was asked for, and the device does not log which memory it writes (DMA_LOGGING_START, STOP and REPORT)";

    /// <inheritdoc/>
    public override string WayOut => "Plug it with dirty-tracking=auto or dirty-tracking=pessimistic, or use a device or driver that logs its DMA";
}

/// <summary>The user wants the dirty bits of the host's IOMMU and nothing else, and there are none.</summary>
public sealed record NoHostIommuTrackingBlocker : MigrationBlocker
{
    /// <inheritdoc/>
    public override string Code => "no-host-iommu-tracking";

    /// <inheritdoc/>
    public override string Reason =>
        "dirty-tracking=iommu was asked for, and no host IOMMU sets dirty bits for this device (a vfio-user device is behind none)";

    /// <inheritdoc/>
    public override string WayOut => "Plug it with dirty-tracking=auto or dirty-tracking=pessimistic";
}

/// <summary>The device refused, when it was plugged, to log what would have to be logged.</summary>
public sealed record DirtyLoggingRefusedBlocker : MigrationBlocker
{
    /// <inheritdoc/>
    public override string Code => "device-refuses-dma-logging";

    /// <summary>What it was asked to cover.</summary>
    public required string Coverage { get; init; }

    /// <summary>What it answered.</summary>
    public required string Answer { get; init; }

    /// <inheritdoc/>
    public override string Reason => $"The device refused to log its DMA over {Coverage}: {Answer}";

    /// <inheritdoc/>
    public override string WayOut =>
        "Use less memory, a device whose log is larger, a vIOMMU (the log then follows what the guest maps), or dirty-tracking=pessimistic";
}

/// <summary>The vIOMMU translates without an end of its aperture, and the device's log cannot follow what is mapped either.</summary>
public sealed record IommuWithoutApertureBlocker : MigrationBlocker
{
    /// <inheritdoc/>
    public override string Code => "iommu-without-aperture";

    /// <summary>What the device answered when it was asked to log anything at all.</summary>
    public required string Answer { get; init; }

    /// <inheritdoc/>
    public override string Reason =>
        $"The vIOMMU in front of the device translates and does not tell its last usable IOVA, and the device's log takes no range that could follow what the guest maps ({Answer})";

    /// <inheritdoc/>
    public override string WayOut => "Use a vIOMMU with an address-width limit, a device whose log takes ranges, or dirty-tracking=pessimistic";
}

/// <summary>The guest owns the first stage of translation, so the device's log speaks of addresses that only the guest can read.</summary>
public sealed record NestedTranslationBlocker : MigrationBlocker
{
    /// <inheritdoc/>
    public override string Code => "nested-translation-with-device-log";

    /// <inheritdoc/>
    public override string Reason =>
        "The guest owns the first stage of translation in front of the device, and the device logs addresses of that stage, which cannot be attributed to memory";

    /// <inheritdoc/>
    public override string WayOut =>
        "Plug it with dirty-tracking=iommu where the host's IOMMU sets dirty bits, with dirty-tracking=pessimistic, or use a vIOMMU without nested translation";
}

/// <summary>A range of memory needs a longer dirty bitmap than the host's IOMMU gives.</summary>
public sealed record HostIommuBitmapLimitBlocker : MigrationBlocker
{
    /// <inheritdoc/>
    public override string Code => "host-iommu-bitmap-limit";

    /// <summary>Bytes of memory that one bitmap can be about.</summary>
    public required ulong Limit { get; init; }

    /// <summary>Bytes of the largest range of guest memory.</summary>
    public required ulong Needed { get; init; }

    /// <inheritdoc/>
    public override string Reason =>
        $"A range of guest memory has {Needed} bytes, and a dirty bitmap of the host's IOMMU can be about {Limit} bytes at most";

    /// <inheritdoc/>
    public override string WayOut => "Use less memory, an iommufd back end, or dirty-tracking=device";
}
