using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>How to connect.</summary>
public sealed record VfioUserClientOptions
{
    /// <summary>How long to wait for one reply before the device counts as lost.</summary>
    public TimeSpan ReplyTimeout { get; init; } = TimeSpan.FromSeconds(10);

    /// <summary>Clock for the timeout.</summary>
    public TimeProvider Clock { get; init; } = TimeProvider.System;
}

/// <summary>Answers the device's DMA by message, for memory it could not map. Called on the client's receive thread.</summary>
public interface IDmaMessageHandler
{
    /// <summary>Reads guest memory at <paramref name="address"/>; <see cref="Errno.None"/> or why not.</summary>
    Errno Read(DmaAddress address, Span<byte> destination);

    /// <summary>Writes likewise. Dirty marks of these writes are the client's to set.</summary>
    Errno Write(DmaAddress address, ReadOnlySpan<byte> data);
}

/// <summary>
/// A connection to one vfio-user device. Every member may be called from any thread; requests are sent in call order and replies
/// matched by id. All waits end with <see cref="VfioUserDisconnectedException"/> when the peer goes.
/// </summary>
public sealed class VfioUserClient : IDisposable
{
    private VfioUserClient() { }

    /// <summary>Connects and negotiates the version and capabilities.</summary>
    /// <exception cref="LinuxException">No socket at <paramref name="path"/>, or nobody listens.</exception>
    /// <exception cref="VfioUserProtocolException">The peer speaks another version or not this protocol.</exception>
    public static VfioUserClient Connect(string path, VfioUserClientOptions options, IDmaMessageHandler dma) => throw new NotImplementedException();

    /// <summary>Completes when the connection has gone for a reason other than <see cref="Dispose"/>; the text says why.</summary>
    public Task<string> Lost => throw new NotImplementedException();

    /// <summary>Where it is connected to.</summary>
    public string Path => throw new NotImplementedException();

    /// <summary>Largest data of one region or DMA message, negotiated.</summary>
    public int MaxTransfer => throw new NotImplementedException();

    /// <summary>Most DMA mappings the device takes, negotiated.</summary>
    public int MaxDmaMaps => throw new NotImplementedException();

    /// <summary>GET_INFO.</summary>
    public DeviceInfo GetInfo() => throw new NotImplementedException();

    /// <summary>GET_REGION_INFO, with capabilities and file.</summary>
    public RegionInfo GetRegionInfo(int index) => throw new NotImplementedException();

    /// <summary>GET_IRQ_INFO.</summary>
    public IrqInfo GetIrqInfo(int index) => throw new NotImplementedException();

    /// <summary>REGION_READ; splits at <see cref="MaxTransfer"/>.</summary>
    public void ReadRegion(int index, ulong offset, Span<byte> destination) => throw new NotImplementedException();

    /// <summary>REGION_WRITE. <paramref name="posted"/> sends without waiting for (or wanting) a reply.</summary>
    public void WriteRegion(int index, ulong offset, ReadOnlySpan<byte> data, bool posted) => throw new NotImplementedException();

    /// <summary>SET_IRQS with eventfds to trigger; null entries de-assign. Splits at the peer's fd limit.</summary>
    public void SetIrqEventFds(int index, int start, ReadOnlySpan<EventFd?> fds) => throw new NotImplementedException();

    /// <summary>SET_IRQS disabling the whole index.</summary>
    public void DisableIrqs(int index) => throw new NotImplementedException();

    /// <summary>SET_IRQS trigger by message (loopback).</summary>
    public void TriggerIrq(int index, int start, int count) => throw new NotImplementedException();

    /// <summary>DEVICE_RESET.</summary>
    public void Reset() => throw new NotImplementedException();

    /// <summary>DMA_MAP and waits. <paramref name="file"/> null: the device uses DMA messages.</summary>
    public void DmaMap(DmaRange range, DmaAccess access, FileDescriptor? file, ulong fileOffset) => throw new NotImplementedException();

    /// <summary>DMA_UNMAP of exactly mapped ranges and waits: on return the device does no more DMA there.</summary>
    public void DmaUnmap(DmaRange range) => throw new NotImplementedException();

    /// <summary>
    /// DMA_MAP sent without waiting; order is kept. <see cref="DmaFlush"/> waits for all and throws the first error.
    /// </summary>
    public void DmaMapQueued(DmaRange range, DmaAccess access, FileDescriptor? file, ulong fileOffset) => throw new NotImplementedException();

    /// <summary>DMA_UNMAP sent without waiting.</summary>
    public void DmaUnmapQueued(DmaRange range) => throw new NotImplementedException();

    /// <summary>Waits until every queued map and unmap has been answered. Throws for the first that failed, naming it.</summary>
    public void DmaFlush() => throw new NotImplementedException();

    /// <summary>DEVICE_FEATURE MIGRATION; None when the device does not know it.</summary>
    public MigrationSupport GetMigrationSupport() => throw new NotImplementedException();

    /// <summary>Whether DMA_LOGGING_START, STOP and REPORT are all offered (probe).</summary>
    public bool SupportsDmaLogging() => throw new NotImplementedException();

    /// <summary>DEVICE_FEATURE MIG_DEVICE_STATE get.</summary>
    public DeviceMigrationState GetMigrationState() => throw new NotImplementedException();

    /// <summary>DEVICE_FEATURE MIG_DEVICE_STATE set; returns when the transition is complete.</summary>
    public void SetMigrationState(DeviceMigrationState state) => throw new NotImplementedException();

    /// <summary>MIG_DATA_READ: bytes read; fewer than asked means no more for now.</summary>
    public int ReadMigrationData(Span<byte> destination) => throw new NotImplementedException();

    /// <summary>MIG_DATA_WRITE.</summary>
    public void WriteMigrationData(ReadOnlySpan<byte> data) => throw new NotImplementedException();

    /// <summary>MIG_DATA_SIZE (feature 9), or null when not offered: bytes STOP_COPY would transfer now.</summary>
    public ulong? GetStopCopySize() => throw new NotImplementedException();

    /// <summary>DMA_LOGGING_START; returns the page size the device chose.</summary>
    public ulong StartDmaLogging(ulong pageSize, ReadOnlySpan<DmaRange> ranges) => throw new NotImplementedException();

    /// <summary>DMA_LOGGING_STOP.</summary>
    public void StopDmaLogging() => throw new NotImplementedException();

    /// <summary>DMA_LOGGING_REPORT: ORs into <paramref name="bitmap"/> (bit 0 = first page of the range) and clears in the device.</summary>
    public void ReportDmaLog(DmaRange range, ulong pageSize, Span<ulong> bitmap) => throw new NotImplementedException();

    /// <inheritdoc/>
    public void Dispose() => throw new NotImplementedException();
}
