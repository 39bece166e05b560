using Godwit.Interop.Linux;
using Godwit.Memory;
using Godwit.Migration;
using Godwit.VfioUser;

namespace Godwit.Vfio;

/// <summary>A device served by another process over vfio-user.</summary>
internal sealed class VfioUserBackend : IVfioBackend
{
    /// <summary>Bytes of a DMA_LOGGING_REPORT reply before its bitmap: feature header and report structure (vfio-user, DEVICE_FEATURE).</summary>
    private const int ReportHeader = 8 + 24;

    private readonly VfioUserClient _client;
    private readonly RegionMappings _mappings = new();
    private readonly List<DmaOperationFailure> _refused = [];
    private readonly TaskCompletionSource<string> _lost = new(TaskCreationOptions.RunContinuationsAsynchronously);

    private VfioUserBackend(VfioUserClient client)
    {
        _client = client;
        _client.Lost.GetAwaiter().OnCompleted(() => Gone(_client.Lost.Result));
    }

    /// <inheritdoc/>
    public string Address => _client.Path;

    /// <inheritdoc/>
    public Task<string> Lost => _lost.Task;

    /// <inheritdoc/>
    public int MaxMappings => _client.MaxDmaMaps;

    /// <inheritdoc/>
    public int MaxReportBytes => (_client.MaxTransfer - ReportHeader) & ~7;

    /// <summary>Connects to the server at <paramref name="path"/>.</summary>
    /// <exception cref="VfioAttachException">It refuses, goes, or says of itself what cannot be.</exception>
    /// <exception cref="LinuxException">Nobody there.</exception>
    public static VfioUserBackend Connect(string path, TimeSpan replyTimeout, IDmaMessageHandler dma)
    {
        try
        {
            return new VfioUserBackend(VfioUserClient.Connect(path, new VfioUserClientOptions { ReplyTimeout = replyTimeout }, dma));
        }
        catch (VfioUserException e)
        {
            throw new VfioAttachException(path, e.Message, e);
        }
    }

    /// <inheritdoc/>
    public void AddBlockers(string id, List<MigrationBlocker> blockers)
    {
        if (_client.DmaPageSize > 1UL << IovaPages.Shift)
            blockers.Add(new DevicePageSizeBlocker { Subject = id, PageSize = _client.DmaPageSize });
        if (_client.MaxMessageFiles == 0)
            blockers.Add(new DeviceWithoutDescriptorsBlocker { Subject = id });
    }

    /// <inheritdoc/>
    public void CutOff(string reason)
    {
        // The server unmaps everything when its client goes (vfio-user, "Disconnect").
        Gone(reason);
        _client.Dispose();
    }

    /// <inheritdoc/>
    public DeviceInfo GetInfo() => Guard(() => _client.GetInfo());

    /// <inheritdoc/>
    public RegionInfo GetRegionInfo(int index) => Guard(() => _client.GetRegionInfo(index));

    /// <inheritdoc/>
    public IrqInfo GetIrqInfo(int index) => Guard(() => _client.GetIrqInfo(index));

    /// <inheritdoc/>
    public ulong MapRegion(int index, ReadOnlySpan<SparseArea> keepOut)
    {
        RegionInfo info = GetRegionInfo(index);
        using FileDescriptor? file = info.File;
        List<SparseArea> areas = MappableAreas.Of(info, keepOut);
        if (file is null || areas.Count == 0)
            return 0;
        // Memory of a file that the device's process can take away ends whoever uses it (SIGBUS).
        ulong bytes = MemFd.SizeThatStays(file);
        if (info.FileOffset > bytes || areas.Max(a => a.Offset + a.Size) > bytes - info.FileOffset)
            throw new DeviceRefusedException($"a file of region {index} that is as long as what it offers and sealed against shrinking (fcntl(2), F_SEAL_SHRINK), and not of huge pages", Errno.EPERM);
        _mappings.Open();
        return _mappings.Map(index, areas, (SparseArea area, out MemoryMapping? mapping) =>
            MemoryMapping.TryMapShared(file, info.FileOffset + area.Offset, MappableAreas.BytesMapped(area), writable: true, out mapping));
    }

    /// <inheritdoc/>
    public void ReadRegion(int index, ulong offset, Span<byte> destination)
    {
        if (_mappings.TryRead(index, offset, destination))
            return;
        try
        {
            _client.ReadRegion(index, offset, destination);
        }
        catch (VfioUserException e)
        {
            throw Translate(e);
        }
    }

    /// <inheritdoc/>
    public void WriteRegion(int index, ulong offset, ReadOnlySpan<byte> data, bool posted)
    {
        if (_mappings.TryWrite(index, offset, data))
            return;
        try
        {
            _client.WriteRegion(index, offset, data, posted);
        }
        catch (VfioUserException e)
        {
            throw Translate(e);
        }
    }

    /// <inheritdoc/>
    public IReadOnlyList<SparseArea> UseDoorbells(int index, ulong size) => Guard(() => _client.UseDoorbells(index, size) > 0 ? _client.GetDoorbells(index) : []);

    /// <inheritdoc/>
    public void SetIrqEventFds(int index, ReadOnlySpan<EventFd?> fds)
    {
        try
        {
            _client.SetIrqEventFds(index, 0, fds);
        }
        catch (VfioUserException e)
        {
            throw Translate(e);
        }
    }

    /// <inheritdoc/>
    public void DisableIrqs(int index) => Guard(() => _client.DisableIrqs(index));

    /// <inheritdoc/>
    public void UnmaskIrq(int index) => Guard(() => _client.MaskIrq(index, 0, 1, masked: false));

    /// <inheritdoc/>
    public void Reset() => Guard(_client.Reset);

    /// <inheritdoc/>
    public void QueueMap(IovaPages iova, RamBlock block, ulong offset, bool writable)
    {
        try
        {
            _client.DmaMapQueued(Range(iova), writable ? DmaAccess.Read | DmaAccess.Write : DmaAccess.Read, block.File, offset);
        }
        catch (VfioUserException e)
        {
            throw Translate(e);
        }
    }

    /// <inheritdoc/>
    public void QueueUnmap(IovaPages iova)
    {
        try
        {
            _client.DmaUnmapQueued(Range(iova));
        }
        catch (VfioUserException e)
        {
            throw Translate(e);
        }
    }

    /// <inheritdoc/>
    public void Flush(List<DmaFailure> failures)
    {
        try
        {
            _refused.Clear();
            _client.DmaFlush(_refused);
            foreach (DmaOperationFailure failure in _refused)
                failures.Add(new DmaFailure(failure.Operation, failure.Errno));
        }
        catch (VfioUserException e)
        {
            throw Translate(e);
        }
    }

    /// <inheritdoc/>
    public bool SupportsDmaLogging() => Guard(() => _client.SupportsDmaLogging());

    /// <inheritdoc/>
    public ulong StartDmaLogging(ulong pageSize, ReadOnlySpan<IovaPages> ranges)
    {
        var list = new DmaRange[ranges.Length];
        for (int i = 0; i < list.Length; i++)
            list[i] = Range(ranges[i]);
        return Guard(() => _client.StartDmaLogging(pageSize, list));
    }

    /// <inheritdoc/>
    public void StopDmaLogging() => Guard(_client.StopDmaLogging);

    /// <inheritdoc/>
    public void ReportDmaLog(IovaPages range, ulong pageSize, Span<ulong> bitmap)
    {
        try
        {
            _client.ReportDmaLog(Range(range), pageSize, bitmap);
        }
        catch (VfioUserException e)
        {
            throw Translate(e);
        }
    }

    /// <inheritdoc/>
    public MigrationSupport GetMigrationSupport() => Guard(() => _client.GetMigrationSupport());

    /// <inheritdoc/>
    public DeviceMigrationState GetMigrationState() => Guard(() => _client.GetMigrationState());

    /// <inheritdoc/>
    public void SetMigrationState(DeviceMigrationState state) => Guard(() => _client.SetMigrationState(state));

    /// <inheritdoc/>
    public int ReadMigrationData(Span<byte> destination)
    {
        try
        {
            return _client.ReadMigrationData(destination);
        }
        catch (VfioUserException e)
        {
            throw Translate(e);
        }
    }

    /// <inheritdoc/>
    public void WriteMigrationData(ReadOnlySpan<byte> data)
    {
        try
        {
            _client.WriteMigrationData(data);
        }
        catch (VfioUserException e)
        {
            throw Translate(e);
        }
    }

    /// <inheritdoc/>
    public ulong? GetStopCopySize() => Guard(() => _client.GetStopCopySize());

    /// <inheritdoc/>
    public void Dispose()
    {
        _mappings.Dispose();
        _client.Dispose();
    }

    /// <summary>Memory that is mapped stays when the device goes, and means nothing then. Whoever hears of it finds nothing mapped.</summary>
    private void Gone(string reason)
    {
        _mappings.Dispose();
        _lost.TrySetResult(reason);
    }

    private static DmaRange Range(IovaPages pages) => new(new DmaAddress(pages.Iova.Value), pages.Bytes);

    /// <summary>What the room calls it: refused, or gone.</summary>
    private static IOException Translate(VfioUserException exception) => exception is VfioUserRemoteException refused
        ? new DeviceRefusedException(refused.Command, refused.Errno, refused)
        : new DeviceLostException(exception.Message, exception);

    private static T Guard<T>(Func<T> call)
    {
        try
        {
            return call();
        }
        catch (VfioUserException e)
        {
            throw Translate(e);
        }
    }

    private static void Guard(Action call)
    {
        try
        {
            call();
        }
        catch (VfioUserException e)
        {
            throw Translate(e);
        }
    }
}
