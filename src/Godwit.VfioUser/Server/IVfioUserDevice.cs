using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// A PCI device model. The host makes one call at a time, in the order the client sent, on its message thread or, for a doorbell, on
/// another one (<see cref="DoorbellRange"/>); a device with threads of its own must be quiet (no DMA, no interrupt, all writes logged)
/// when a call that stops it returns.
/// </summary>
public interface IVfioUserDevice
{
    /// <summary>Constant description.</summary>
    DeviceDescription Description { get; }

    /// <summary>A client has connected; <paramref name="host"/> is valid until <see cref="OnDisconnected"/>.</summary>
    void OnConnected(IDeviceHost host);

    /// <summary>The client has gone. Stop all activity before returning; state stays.</summary>
    void OnDisconnected();

    /// <summary>Region read; offsets are in bounds. Errno to refuse.</summary>
    Errno ReadRegion(int region, ulong offset, Span<byte> destination);

    /// <summary>Region write.</summary>
    Errno WriteRegion(int region, ulong offset, ReadOnlySpan<byte> data);

    /// <summary>Function-level reset to power-on state.</summary>
    void Reset();

    /// <summary>
    /// One direct arc of the migration state machine; the host composes longer ways (vfio.h, vfio_device_mig_state). Returns
    /// <see cref="Errno.None"/> when the arc is complete.
    /// </summary>
    Errno Transition(DeviceMigrationState from, DeviceMigrationState to);

    /// <summary>Reads saved state in PRE_COPY or STOP_COPY; 0 means none for now (PRE_COPY) or end (STOP_COPY).</summary>
    int ReadMigrationData(Span<byte> destination);

    /// <summary>Takes saved state in RESUMING; Errno to refuse.</summary>
    Errno WriteMigrationData(ReadOnlySpan<byte> data);

    /// <summary>Bytes STOP_COPY would transfer now.</summary>
    ulong StopCopySize { get; }
}
