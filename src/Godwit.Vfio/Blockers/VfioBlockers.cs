using Godwit.Migration;
using Godwit.VfioUser;

namespace Godwit.Vfio;

/// <summary>The user does not want the device migrated.</summary>
public sealed record MigrationDisabledBlocker : MigrationBlocker
{
    /// <inheritdoc/>
    public override string Code => "device-migration-disabled";

    /// <inheritdoc/>
    public override string Reason => "Migration of this device has been switched off";

    /// <inheritdoc/>
    public override string WayOut => "Start the machine with migration of the device enabled, or unplug it";
}

/// <summary>The device has no migration of its state.</summary>
public sealed record DeviceWithoutMigrationBlocker : MigrationBlocker
{
    /// <inheritdoc/>
    public override string Code => "device-without-migration";

    /// <inheritdoc/>
    public override string Reason => "The device does not offer migration of its state (VFIO_MIGRATION_STOP_COPY)";

    /// <inheritdoc/>
    public override string WayOut => "Use a device or driver that can save its state, unplug it, or, if it is a kernel device that can be reset and the guest can bear to find it reset, plug it with enable-migration=force";
}

/// <summary>The device has no migration states, and cannot be migrated without them either (enable-migration=force).</summary>
public sealed record CannotBeForcedBlocker : MigrationBlocker
{
    /// <inheritdoc/>
    public override string Code => "device-cannot-be-forced";

    /// <summary>Why not, about the device.</summary>
    public required string Cause { get; init; }

    /// <inheritdoc/>
    public override string Reason => $"The device cannot save its state, and cannot leave it behind (enable-migration=force): {Cause}";

    /// <inheritdoc/>
    public override string WayOut => "Use a device or driver that can save its state, or unplug it";
}

/// <summary>Several devices, of which one cannot stop its DMA to the others first.</summary>
public sealed record NoPeerToPeerBlocker : MigrationBlocker
{
    /// <inheritdoc/>
    public override string Code => "device-without-p2p";

    /// <summary>Migratable passthrough devices in the machine.</summary>
    public required int Devices { get; init; }

    /// <inheritdoc/>
    public override string Reason =>
        $"The machine has {Devices} passthrough devices, and this one has no P2P states ({nameof(MigrationSupport.P2P)}), so it could write to another that has stopped";

    /// <inheritdoc/>
    public override string WayOut => "Keep one passthrough device, or use devices that offer the P2P states";
}

/// <summary>The device has gone.</summary>
public sealed record DeviceLostBlocker : MigrationBlocker
{
    /// <inheritdoc/>
    public override string Code => "device-lost";

    /// <summary>Why.</summary>
    public required string Cause { get; init; }

    /// <inheritdoc/>
    public override string Reason => $"The device has gone: {Cause}";

    /// <inheritdoc/>
    public override string WayOut => "Unplug it, or restart the machine with a device that runs";
}

/// <summary>The device is in the ERROR state and its reset failed.</summary>
public sealed record DeviceInErrorBlocker : MigrationBlocker
{
    /// <inheritdoc/>
    public override string Code => "device-in-error";

    /// <inheritdoc/>
    public override string Reason => "The device is in the migration state ERROR and could not be reset";

    /// <inheritdoc/>
    public override string WayOut => "Unplug it, or restart the machine";
}

/// <summary>The device takes fewer mappings than RAM has pieces.</summary>
public sealed record MappingLimitBlocker : MigrationBlocker
{
    /// <inheritdoc/>
    public override string Code => "device-mapping-limit";

    /// <summary>Mappings that the device takes.</summary>
    public required int Limit { get; init; }

    /// <summary>Mappings that RAM needs when it is mapped by GPA.</summary>
    public required int Needed { get; init; }

    /// <inheritdoc/>
    public override string Reason => $"The device takes {Limit} DMA mappings, and guest RAM alone needs {Needed}";

    /// <inheritdoc/>
    public override string WayOut => "Use a device with more DMA mappings (max_dma_maps)";
}

/// <summary>The device maps memory in larger pages than guests do.</summary>
public sealed record DevicePageSizeBlocker : MigrationBlocker
{
    /// <inheritdoc/>
    public override string Code => "device-page-size";

    /// <summary>Bytes of the device's smallest page.</summary>
    public required ulong PageSize { get; init; }

    /// <inheritdoc/>
    public override string Reason =>
        $"The device maps memory in pages of {PageSize} bytes (pgsizes), so it does not reach what the guest maps in pages of 4096 bytes, here or on the destination";

    /// <inheritdoc/>
    public override string WayOut => "Use a device whose pgsizes include 4096, or unplug it";
}

/// <summary>The device takes no descriptors.</summary>
public sealed record DeviceWithoutDescriptorsBlocker : MigrationBlocker
{
    /// <inheritdoc/>
    public override string Code => "device-without-descriptors";

    /// <inheritdoc/>
    public override string Reason =>
        "The device takes no file descriptors (max_msg_fds 0): its interrupts do not reach the guest, and what it logs is only about memory that it was given a descriptor of";

    /// <inheritdoc/>
    public override string WayOut => "Use a device whose max_msg_fds is 1 or more, or unplug it";
}

/// <summary>The device does not take the eventfds of interrupts that the guest has enabled.</summary>
public sealed record InterruptsRefusedBlocker : MigrationBlocker
{
    /// <inheritdoc/>
    public override string Code => "device-refuses-interrupts";

    /// <summary>What it answered.</summary>
    public required string Answer { get; init; }

    /// <inheritdoc/>
    public override string Reason =>
        $"The device refused the interrupts that the guest has enabled ({Answer}), so one on the destination would not have them either, and those pending would be lost";

    /// <inheritdoc/>
    public override string WayOut => "Have the guest's driver disable them, or unplug it";
}

/// <summary>
/// The device does not have mappings of RAM that the guest has made, so one on the destination would not have them either, and the load would fail when
/// the guest has been stopped.
/// </summary>
public sealed record MappingsRefusedBlocker : MigrationBlocker
{
    /// <inheritdoc/>
    public override string Code => "device-refuses-mappings";

    /// <inheritdoc/>
    public override bool MayPass => true; // when the guest removes some, as it is about to where it maps the new before it removes the old

    /// <summary>Mappings that the device takes.</summary>
    public required int Limit { get; init; }

    /// <summary>Mappings that the guest has made and the device does not have.</summary>
    public required long Refused { get; init; }

    /// <inheritdoc/>
    public override string Reason =>
        $"The device, which takes {Limit} DMA mappings, has not taken {Refused} of those that the guest has made through the vIOMMU";

    /// <inheritdoc/>
    public override string WayOut => "Have the guest map less at a time, or use a device with more DMA mappings (max_dma_maps)";
}

/// <summary>The model of the vIOMMU in front of the device cannot move to another host.</summary>
public sealed record IommuNotMigratableBlocker : MigrationBlocker
{
    /// <inheritdoc/>
    public override string Code => "iommu-not-migratable";

    /// <summary>Why, by the model.</summary>
    public required string Cause { get; init; }

    /// <inheritdoc/>
    public override string Reason => $"The vIOMMU in front of the device cannot be migrated: {Cause}";

    /// <inheritdoc/>
    public override string WayOut => "Use another model or other properties of the vIOMMU (--iommu)";
}

/// <summary>The device came while a migration was under way, so it is not part of it.</summary>
public sealed record PluggedDuringMigrationBlocker : MigrationBlocker
{
    /// <inheritdoc/>
    public override string Code => "plugged-during-migration";

    /// <inheritdoc/>
    public override string Reason =>
        "The device was plugged while a migration was under way; the destination does not have it, and what it writes is not followed";

    /// <inheritdoc/>
    public override string WayOut => "Cancel the migration and start it again, with the device on the destination too";
}
