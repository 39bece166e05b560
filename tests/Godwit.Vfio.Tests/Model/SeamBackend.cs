using System.Buffers.Binary;
using Godwit.Interop.Linux;
using Godwit.Memory;
using Godwit.VfioUser;

namespace Godwit.Vfio.Tests;

/// <summary>A whole device at the back-end seam, for what a real server cannot be brought to: its limits are the test's to choose.</summary>
internal sealed class SeamBackend : IVfioBackend
{
    private readonly TaskCompletionSource<string> _lost = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly byte[] _config = new byte[256];

    public SeamBackend(ModelDeviceTraits? traits = null, ScriptedMigration? migration = null)
    {
        Model = new ModelDevice(traits ?? new ModelDeviceTraits(), new Random(0));
        Migration = migration ?? new ScriptedMigration(MigrationSupport.StopCopy);
        BinaryPrimitives.WriteUInt16LittleEndian(_config, 0x1234);
    }

    public ModelDevice Model { get; }

    public ScriptedMigration Migration { get; }

    /// <summary>Region accesses, one line each.</summary>
    public List<string> Accesses { get; } = [];

    /// <summary>Whether BAR 0 offers itself for mapping.</summary>
    public bool Mappable { get; init; }

    /// <summary>Whether it logs its DMA.</summary>
    public bool LogsDma { get; init; } = true;

    /// <summary>The host's IOMMU in front of it: mappings go there then.</summary>
    public ModelHostIommu? Host { get; init; }

    public bool Disposed { get; private set; }

    IHostIommu? IVfioBackend.HostIommu => Host;

    private IDmaMapper Mapper => Host as IDmaMapper ?? Model;

    public string Address => "seam";

    public Task<string> Lost => _lost.Task;

    public int MaxMappings => Mapper.MaxMappings;

    public int MaxReportBytes => Model.MaxReportBytes;

    public void CutOff(string reason) => _lost.TrySetResult(reason);

    public DeviceInfo GetInfo() => new(9, 5, CanReset: true, IsPci: true);

    public RegionInfo GetRegionInfo(int index) => index switch
    {
        PciRegion.Bar0 => new RegionInfo(index, 0x1000, true, true, 0, Mappable ? [new SparseArea(0, 0x1000)] : [], null),
        PciRegion.Config => new RegionInfo(index, 256, true, true, 0, [], null),
        _ => new RegionInfo(index, 0, false, false, 0, [], null),
    };

    public IrqInfo GetIrqInfo(int index) => new(index, 0, false, false, false, false);

    public void ReadRegion(int index, ulong offset, Span<byte> destination)
    {
        if (index == PciRegion.Config)
            _config.AsSpan((int)offset, destination.Length).CopyTo(destination);
        else
            destination.Clear();
    }

    public void WriteRegion(int index, ulong offset, ReadOnlySpan<byte> data, bool posted)
    {
        if (index != PciRegion.Config)
            Accesses.Add($"{data.Length} bytes at {offset} {(posted ? "posted" : "waited for")}");
    }

    public void SetIrqEventFds(int index, ReadOnlySpan<EventFd?> fds)
    {
    }

    public void DisableIrqs(int index)
    {
    }

    public void UnmaskIrq(int index)
    {
    }

    public void Reset() => Migration.Reset();

    public void QueueMap(IovaPages iova, RamBlock block, ulong offset, bool writable) => Mapper.QueueMap(iova, block, offset, writable);

    public void QueueUnmap(IovaPages iova) => Mapper.QueueUnmap(iova);

    public void Flush(List<DmaFailure> failures) => Mapper.Flush(failures);

    public MigrationSupport GetMigrationSupport() => Migration.GetMigrationSupport();

    public DeviceMigrationState GetMigrationState() => Migration.GetMigrationState();

    public void SetMigrationState(DeviceMigrationState state) => Migration.SetMigrationState(state);

    public int ReadMigrationData(Span<byte> destination) => Migration.ReadMigrationData(destination);

    public void WriteMigrationData(ReadOnlySpan<byte> data) => Migration.WriteMigrationData(data);

    public ulong? GetStopCopySize() => Migration.GetStopCopySize();

    public bool SupportsDmaLogging() => LogsDma && Model.SupportsDmaLogging();

    public ulong StartDmaLogging(ulong pageSize, ReadOnlySpan<IovaPages> ranges) => Model.StartDmaLogging(pageSize, ranges);

    public void StopDmaLogging() => Model.StopDmaLogging();

    public void ReportDmaLog(IovaPages range, ulong pageSize, Span<ulong> bitmap) => Model.ReportDmaLog(range, pageSize, bitmap);

    public void Dispose() => Disposed = true;
}
