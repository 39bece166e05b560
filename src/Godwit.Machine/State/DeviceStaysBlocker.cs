using Godwit.Migration;

namespace Godwit.Machine.State;

/// <summary>A passthrough device whose connection cannot be passed on to another process: a handover would leave it behind.</summary>
public sealed record DeviceStaysBlocker : MigrationBlocker
{
    /// <inheritdoc/>
    public override string Code => "device-not-handed-over";

    /// <summary>It is the host kernel's; else a vfio-user server's.</summary>
    public required bool IsKernelDevice { get; init; }

    /// <inheritdoc/>
    public override string Reason => IsKernelDevice
        ? "The device is opened through VFIO by this process, and a handover does not pass that on"
        : "The connection to the vfio-user server is this process's, and a handover does not pass it on";

    /// <inheritdoc/>
    public override string WayOut => "Migrate over unix: to a machine with a device of its own, or unplug the device";
}
