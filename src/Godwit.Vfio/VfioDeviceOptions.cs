namespace Godwit.Vfio;

/// <summary>How a passthrough device is attached.</summary>
public sealed record VfioDeviceOptions
{
    /// <summary>Id in the machine, for example <c>nvme0</c>.</summary>
    public required string Id { get; init; }

    /// <summary>Path of the vfio-user server's socket; null for a device of the host's kernel.</summary>
    public string? Socket { get; init; }

    /// <summary>The device of the host's kernel; null for one served over vfio-user. Exactly one of both is set.</summary>
    public KernelDeviceOptions? Kernel { get; init; }

    /// <summary>Whether it is to be migrated, and at what price.</summary>
    public EnableMigration EnableMigration { get; init; }

    /// <summary>How its writes are to be followed during a migration.</summary>
    public DirtyTrackingMode DirtyTracking { get; init; }

    /// <summary>
    /// Whether accesses to BARs are made through mappings where the device offers them. What takes a mapping's memory away behind the VMM's back, as a
    /// driver of the host can, ends the process; without mappings the guest reads all ones then.
    /// </summary>
    public bool MapBars { get; init; }

    /// <summary>Longest wait for one answer of the device.</summary>
    public TimeSpan ReplyTimeout { get; init; } = TimeSpan.FromSeconds(10);
}
