using System.Collections.Immutable;
using System.Runtime.InteropServices;
using Godwit.Interop.Linux;
using Godwit.Memory;
using Godwit.VfioUser;

namespace Godwit.Vfio;

/// <summary>A device of the host's kernel, bound to <c>vfio-pci</c> or a variant of it, in an address space of its own.</summary>
internal sealed unsafe class KernelBackend : IVfioBackend
{
    private readonly FileDescriptor _file;
    private readonly IHostAddressSpace _space;
    private readonly DeviceCalls _calls;
    private readonly KernelRegions _regions;
    private readonly KernelInterrupts _interrupts;
    private readonly KernelMigration _migration;
    private readonly KernelDmaLog _log;
    private readonly KernelReset _reset;
    private readonly TaskCompletionSource<string> _lost = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly List<DmaFailure> _failures = [];
    private readonly Lock _closing = new();
    private InterruptPump? _notifications;
    private (IovaPages Iova, Errno Errno)? _refused;
    private int _operation;
    private bool _closed;

    internal KernelBackend(IKernelCalls calls, HostPciDevice device, FileDescriptor file, IHostAddressSpace space)
    {
        Address = device.Address.ToString();
        _file = file;
        _space = space;
        _calls = new DeviceCalls(calls, file, Gone);
        _regions = new KernelRegions(_calls);
        _interrupts = new KernelInterrupts(_calls);
        _migration = new KernelMigration(_calls);
        _log = new KernelDmaLog(_calls);
        HostIommu = space.DirtyTraits is { } traits ? new KernelHostIommu(space, traits, Note) : null;
        _reset = new KernelReset(_calls, device.Address, (space as Type1Space)?.Group);
    }

    /// <inheritdoc/>
    public string Address { get; }

    /// <inheritdoc/>
    public Task<string> Lost => _lost.Task;

    /// <inheritdoc/>
    public IHostIommu? HostIommu { get; }

    /// <inheritdoc/>
    public int MaxMappings => _space.MaxMappings;

    /// <inheritdoc/>
    public int MaxReportBytes => KernelDmaLog.MaxReportBytes;

    /// <summary>The interface in use.</summary>
    public HostIommuKind Kind => _space.Kind;

    /// <summary>Whether the host's IOMMU can tell which pages the device wrote.</summary>
    public bool HostTracksDirty => HostIommu is { Traits.TracksWrites: true };

    /// <summary>What the host's IOMMU can translate; empty when the kernel does not tell.</summary>
    public ImmutableArray<UsableIovas> Usable => _space.Usable;

    /// <summary>Listens to the kernel's notices: a fatal error of the device, and the wish to have it back. Either takes it out of service.</summary>
    public void Listen()
    {
        var pump = new InterruptPump(Address, 2, which => CutOff(which == 0
            ? "it reported an uncorrectable error (AER); what it does cannot be trusted"
            : "the host wants it back (its driver is being unbound, or it is being removed)"));
        try
        {
            if (_interrupts.GetInfo(PciIrq.Error).Count > 0)
                _interrupts.SetEventFds(PciIrq.Error, pump.Vectors[..1]);
            if (_interrupts.GetInfo(PciIrq.Request).Count > 0)
                _interrupts.SetEventFds(PciIrq.Request, pump.Vectors[1..]);
        }
        catch
        {
            pump.Dispose();
            throw;
        }

        _notifications = pump;
    }

    /// <inheritdoc/>
    public void CheckReach(in GuestReach guest) => HostReach.Check(Address, Usable, guest);

    /// <inheritdoc/>
    public void CheckMapped(in GuestReach guest)
    {
        if (guest.Ram.Length > MaxMappings)
            throw new DmaMapLimitException(Address, guest.Ram.Length, MaxMappings);
        if (_refused is not { } refused)
            return;
        if (refused.Errno == Errno.ENOMEM && _calls.Kernel.MemoryLockLimit < guest.RamBytes)
            throw new MemoryLockLimitException(Address, guest.RamBytes, _calls.Kernel.MemoryLockLimit);
        throw refused.Errno == Errno.ENOSPC
            ? new DmaMapLimitException(Address, guest.Ram.Length, MaxMappings)
            : new VfioAttachException(Address, $"the host refused to map guest memory at {refused.Iova}: {refused.Errno}");
    }

    /// <inheritdoc/>
    public void CutOff(string reason)
    {
        Gone(reason);
        // Closing the device stops its DMA and resets it; then the address space goes with all its mappings.
        Close();
    }

    /// <inheritdoc/>
    public DeviceInfo GetInfo()
    {
        var info = new vfio_device_info { argsz = (uint)Marshal.OffsetOf<vfio_device_info>(nameof(vfio_device_info.cap_offset)) };
        _calls.Ioctl("VFIO_DEVICE_GET_INFO", vfio.VFIO_DEVICE_GET_INFO, ref info);
        return new DeviceInfo(
            (int)Math.Min(info.num_regions, int.MaxValue),
            (int)Math.Min(info.num_irqs, int.MaxValue),
            _reset.Probe((info.flags & vfio.VFIO_DEVICE_FLAGS_RESET) != 0),
            (info.flags & vfio.VFIO_DEVICE_FLAGS_PCI) != 0);
    }

    /// <inheritdoc/>
    public RegionInfo GetRegionInfo(int index) => _regions.GetInfo(index);

    /// <inheritdoc/>
    public IrqInfo GetIrqInfo(int index) => _interrupts.GetInfo(index);

    /// <inheritdoc/>
    public void ReadRegion(int index, ulong offset, Span<byte> destination) => _regions.Read(index, offset, destination);

    /// <inheritdoc/>
    public void WriteRegion(int index, ulong offset, ReadOnlySpan<byte> data, bool posted) => _regions.Write(index, offset, data);

    /// <inheritdoc/>
    public ulong MapRegion(int index, ReadOnlySpan<SparseArea> keepOut) => _regions.Map(index, keepOut);

    /// <inheritdoc/>
    public void SetIrqEventFds(int index, ReadOnlySpan<EventFd?> fds) => _interrupts.SetEventFds(index, fds);

    /// <inheritdoc/>
    public void DisableIrqs(int index) => _interrupts.Disable(index);

    /// <inheritdoc/>
    public bool HeldByBusMaster => true;

    /// <inheritdoc/>
    public void UnmaskIrq(int index) => _interrupts.Unmask(index);

    /// <inheritdoc/>
    public void Reset()
    {
        _regions.WithoutMemory(_reset.Run);
        _migration.WasReset();
    }

    /// <inheritdoc/>
    public void QueueMap(IovaPages iova, RamBlock block, ulong offset, bool writable)
    {
        try
        {
            // SAFETY: only the address is taken. The block lives until the machine disposes it, after its devices; the kernel pins the pages.
            nuint address = (nuint)(block.Pointer + offset);
            Errno errno = _space.Map(iova, address, writable);
            // The table says that nothing of ours is there, so what the kernel still has there is stale.
            if (errno is Errno.EBUSY or Errno.EEXIST && _space.Unmap(iova) == Errno.None)
                errno = _space.Map(iova, address, writable);
            if (errno != Errno.None)
                _refused ??= (iova, errno);
            Note(errno);
        }
        catch (ObjectDisposedException e)
        {
            throw DeviceCalls.Closed(e);
        }
    }

    /// <inheritdoc/>
    public void QueueUnmap(IovaPages iova)
    {
        try
        {
            Note(_space.Unmap(iova));
        }
        catch (ObjectDisposedException e)
        {
            throw DeviceCalls.Closed(e);
        }
    }

    /// <inheritdoc/>
    public void Flush(List<DmaFailure> failures)
    {
        failures.AddRange(_failures);
        _failures.Clear();
        _operation = 0;
    }

    /// <inheritdoc/>
    public MigrationSupport GetMigrationSupport() => _migration.GetSupport();

    /// <inheritdoc/>
    public DeviceMigrationState GetMigrationState() => _migration.GetState();

    /// <inheritdoc/>
    public void SetMigrationState(DeviceMigrationState state) => _migration.SetState(state);

    /// <inheritdoc/>
    public int ReadMigrationData(Span<byte> destination) => _migration.Read(destination);

    /// <inheritdoc/>
    public void WriteMigrationData(ReadOnlySpan<byte> data) => _migration.Write(data);

    /// <inheritdoc/>
    public ulong? GetStopCopySize() => _migration.GetStopCopySize();

    /// <inheritdoc/>
    public bool SupportsDmaLogging() => _log.IsSupported();

    /// <inheritdoc/>
    public ulong StartDmaLogging(ulong pageSize, ReadOnlySpan<IovaPages> ranges) => _log.Start(pageSize, ranges);

    /// <inheritdoc/>
    public void StopDmaLogging() => _log.Stop();

    /// <inheritdoc/>
    public void ReportDmaLog(IovaPages range, ulong pageSize, Span<ulong> bitmap) => _log.Report(range, pageSize, bitmap);

    /// <inheritdoc/>
    public void Dispose()
    {
        Close();
        _notifications?.Dispose();
    }

    /// <summary>Whoever hears of it finds nothing mapped.</summary>
    private void Gone(string reason)
    {
        _regions.Dispose();
        _lost.TrySetResult(reason);
    }

    private void Note(Errno errno)
    {
        if (errno != Errno.None)
            _failures.Add(new DmaFailure(_operation, errno));
        _operation++;
    }

    /// <summary>
    /// The device first: it is reset and does no DMA after that. Then its mappings, by name, because somebody who passed the device in may
    /// hold it open still; then what carried them.
    /// </summary>
    private void Close()
    {
        lock (_closing)
        {
            if (_closed)
                return;
            _closed = true;
        }

        _migration.Dispose();
        _regions.Dispose(); // a mapping would keep the device open
        _file.Dispose();
        _ = _space.UnmapAll(); // kernels before 5.12 cannot; closing does the same
        _space.Dispose();
    }
}
