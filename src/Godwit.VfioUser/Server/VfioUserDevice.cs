using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>A region as a device offers it.</summary>
/// <param name="Size">Bytes; 0 means absent.</param>
/// <param name="File">File that clients may map, or null.</param>
/// <param name="Mappable">Pieces that clients may map; empty with a file means all of it.</param>
public sealed record DeviceRegion(ulong Size, FileDescriptor? File = null, IReadOnlyList<SparseArea>? Mappable = null);

/// <summary>What a device author describes once.</summary>
public sealed record DeviceDescription
{
    /// <summary>Regions by <see cref="PciRegion"/> index.</summary>
    public required IReadOnlyDictionary<int, DeviceRegion> Regions { get; init; }

    /// <summary>Vectors by <see cref="PciIrq"/> index.</summary>
    public required IReadOnlyDictionary<int, int> Irqs { get; init; }

    /// <summary>What migration it offers.</summary>
    public MigrationSupport Migration { get; init; }

    /// <summary>Whether the host logs its DMA for it. With false the logging features are refused.</summary>
    public bool DmaLogging { get; init; } = true;
}

/// <summary>
/// What the host gives a device while a client is connected. Thread-safe. After <see cref="Read"/> or <see cref="Write"/> returns, the
/// access is over; an unmap by the client waits for accesses in progress.
/// </summary>
public interface IDeviceHost
{
    /// <summary>DMA read through the client's mappings; may cross mappings. False: nothing (readable) there.</summary>
    bool Read(DmaAddress address, Span<byte> destination);

    /// <summary>DMA write; logged page by page after the write.</summary>
    bool Write(DmaAddress address, ReadOnlySpan<byte> data);

    /// <summary>
    /// Pins the mapping(s) around one contiguous piece for direct I/O (for example pread into guest memory). The piece may be shorter
    /// than asked. Dispose ends the access and, if it was for writing, logs it. False: not mapped with memory (use messages) or no right.
    /// </summary>
    bool TryAcquire(DmaAddress address, int length, bool forWrite, out DmaPiece piece);

    /// <summary>Signals vector <paramref name="vector"/> of interrupt index <paramref name="index"/>; nothing happens when no eventfd is set.</summary>
    void Trigger(int index, int vector);
}

/// <summary>A pinned piece of guest memory inside the device process.</summary>
public readonly unsafe ref struct DmaPiece
{
    /// <summary>First byte. Racy: the guest writes it too.</summary>
    public readonly byte* Pointer;

    /// <summary>Bytes.</summary>
    public readonly int Length;

    /// <summary>Ends the access.</summary>
    public void Dispose() => throw new NotImplementedException();
}

/// <summary>
/// A PCI device model. The host calls it on its one message thread, in the order the client sent; a device with threads of its own must
/// be quiet (no DMA, no interrupt, all writes logged) when a call that stops it returns.
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

/// <summary>How to serve.</summary>
public sealed record VfioUserServerOptions
{
    /// <summary>Path of the listening socket.</summary>
    public required string SocketPath { get; init; }

    /// <summary>Told one line per event worth an operator's eye.</summary>
    public Action<string>? Log { get; init; }
}

/// <summary>Serves one device on one socket, one client at a time; a second client is refused while the first is there.</summary>
public static class VfioUserServer
{
    /// <summary>Serves until <paramref name="stop"/> is cancelled. Removes the socket on the way out.</summary>
    /// <exception cref="LinuxException">The socket cannot be made (path taken by something that is no socket, no permission).</exception>
    public static void Run(IVfioUserDevice device, VfioUserServerOptions options, CancellationToken stop) => throw new NotImplementedException();
}
