using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// A PCI device for authors: says what it is, what its registers do and what its state consists of. Configuration space, MSI and MSI-X,
/// DMA through the client's mappings with its log, quiescing and the migration state machine are done here.
/// </summary>
/// <remarks>
/// All members that a device overrides are called under <see cref="Gate"/>, one at a time, but <see cref="Work"/>, which runs on a thread of
/// the device's own while the device may execute. A device that does DMA does it there, and looks in its registers for what to do: so
/// work that was asked for and not done is part of the state, and the destination of a migration does it.
/// </remarks>
public abstract partial class PciDevice : IVfioUserDevice, IDisposable
{
    private readonly PciDefinition _definition;
    private readonly PciConfigSpace _config;
    private readonly byte[] _msixTable;
    private readonly DeviceWorker _worker;
    private volatile IDeviceHost? _host;
    private volatile Exception? _failure;
    private bool _pin; // under Gate

    /// <summary>Makes the device in its power-on state.</summary>
    /// <exception cref="ArgumentException">The definition contradicts itself or the PCI specification.</exception>
    protected PciDevice(PciDefinition definition)
    {
        ArgumentNullException.ThrowIfNull(definition);
        _definition = definition;
        _config = new PciConfigSpace(definition);
        _msixTable = new byte[definition.MsixVectors * PciConfigSpace.MsixEntrySize];
        ClearMsixTable();
        _worker = new DeviceWorker(Work, Fail);
        var regions = new Dictionary<int, DeviceRegion> { [PciRegion.Config] = new(PciConfigSpace.Size) };
        for (int i = 0; i < _config.Bars.Length; i++)
        {
            if (_config.Bars[i] != 0)
                regions[i] = definition.Bars.FirstOrDefault(bar => bar.Index == i) is { } own
                    ? new DeviceRegion(_config.Bars[i], Doorbells: own.Doorbells, Events: own.Events)
                    : new DeviceRegion(_config.Bars[i]); // of MSI-X
        }
        Description = new DeviceDescription
        {
            Regions = regions,
            Irqs = new Dictionary<int, int>
            {
                [PciIrq.Intx] = definition.HasPin ? 1 : 0,
                [PciIrq.Msi] = definition.MsiVectors,
                [PciIrq.Msix] = definition.MsixVectors,
                [PciIrq.Error] = 1,
            },
            Migration = MigrationSupport.StopCopy | MigrationSupport.P2P | MigrationSupport.PreCopy,
        };
    }

    /// <inheritdoc/>
    public DeviceDescription Description { get; }

    /// <summary>Told one line per event worth an operator's eye. Called on any thread.</summary>
    public Action<string>? Log { get; init; }

    /// <summary>
    /// How long an arc of the migration state machine that stops the device waits for <see cref="Work"/> before it is refused (ETIMEDOUT) and
    /// the device goes on. From nothing to an hour; below a client's reply timeout, usually 10 s, so that the client hears why.
    /// </summary>
    /// <exception cref="ArgumentOutOfRangeException">Less than nothing or more than an hour.</exception>
    public TimeSpan QuiesceWait
    {
        get;
        init
        {
            ArgumentOutOfRangeException.ThrowIfLessThan(value, TimeSpan.Zero);
            ArgumentOutOfRangeException.ThrowIfGreaterThan(value, TimeSpan.FromHours(1));
            field = value;
        }
    } = TimeSpan.FromSeconds(8);

    /// <summary>Clock for <see cref="QuiesceWait"/>.</summary>
    public TimeProvider Clock { get; init; } = TimeProvider.System;

    /// <summary>Guards the device's registers. Held in every overridden member but <see cref="Work"/>; never hold it during DMA.</summary>
    protected Lock Gate { get; } = new();

    /// <summary>A read of registers, of any size and alignment inside the BAR. <paramref name="destination"/> is zeroed.</summary>
    protected abstract void ReadBar(int bar, ulong offset, Span<byte> destination);

    /// <summary>A write to registers, of any size and alignment inside the BAR.</summary>
    protected abstract void WriteBar(int bar, ulong offset, ReadOnlySpan<byte> data);

    /// <summary>Registers go to their power-on values. Nothing of <see cref="Work"/> is running.</summary>
    protected virtual void OnReset()
    {
    }

    /// <summary>
    /// Does what the registers ask for; called after <see cref="RequestWork"/>, and once when a stopped device goes on. May take long and do
    /// DMA. Take <see cref="Gate"/> to look and to note what was done, not in between.
    /// </summary>
    protected virtual void Work()
    {
    }

    /// <summary>Writes what <see cref="Load"/> needs to make another instance the same. Nothing of <see cref="Work"/> is running.</summary>
    protected virtual void Save(DeviceStateWriter state)
    {
    }

    /// <summary>Takes what <see cref="Save"/> wrote; a device that throws is reset.</summary>
    /// <exception cref="DeviceStateException">A value cannot be.</exception>
    protected virtual void Load(DeviceStateReader state)
    {
    }

    /// <summary>Has <see cref="Work"/> called soon, when the device may execute. Any thread.</summary>
    protected void RequestWork() => _worker.Request();

    /// <summary>DMA read. False: nothing readable is mapped there, or the client refused. Any thread, but not under <see cref="Gate"/>.</summary>
    protected bool ReadMemory(DmaAddress address, Span<byte> destination) => _host is { } host && host.Read(address, destination);

    /// <summary>DMA write, logged where the client wants that. False likewise; a part may have been written.</summary>
    protected bool WriteMemory(DmaAddress address, ReadOnlySpan<byte> data) => _host is { } host && host.Write(address, data);

    /// <summary>
    /// Raises an interrupt the way the guest has chosen: the MSI-X or MSI vector, or the pin, which then stays asserted until
    /// <see cref="LowerPin"/>. Under <see cref="Gate"/>.
    /// </summary>
    protected void RaiseInterrupt(int vector = 0)
    {
        // A client that emulates MSI-X may keep the enable bit to itself; an index that is not in use has no eventfd.
        if (_host is { } host)
        {
            host.Trigger(PciIrq.Msix, vector);
            host.Trigger(PciIrq.Msi, vector & (_config.MsiGranted - 1));
        }
        if (_definition.HasPin)
        {
            _pin = true;
            DrivePin();
        }
    }

    /// <summary>De-asserts the pin: nothing is left that it was raised for. Under <see cref="Gate"/>.</summary>
    protected void LowerPin()
    {
        _pin = false;
        DrivePin();
    }

    /// <inheritdoc/>
    public void OnConnected(IDeviceHost host)
    {
        _host = host;
        lock (Gate)
            DrivePin();
        GoOn();
    }

    /// <inheritdoc/>
    public void OnDisconnected()
    {
        _worker.Close();
        _host = null;
    }

    /// <inheritdoc/>
    public Errno ReadRegion(int region, ulong offset, Span<byte> destination)
    {
        ThrowIfFailed();
        lock (Gate)
        {
            if (region == PciRegion.Config)
                _config.Read((int)offset, destination, _pin && !UsesMessages);
            else if (region == _config.MsixBar)
                Overlap(offset, destination.Length, out int from, out int length).Slice(from, length).CopyTo(destination);
            else
                ReadBar(region, offset, destination);
        }
        return Errno.None;
    }

    /// <inheritdoc/>
    public Errno WriteRegion(int region, ulong offset, ReadOnlySpan<byte> data)
    {
        ThrowIfFailed();
        lock (Gate)
        {
            if (region == PciRegion.Config)
            {
                _config.Write((int)offset, data);
                DrivePin();
            }
            else if (region == _config.MsixBar)
            {
                Span<byte> table = Overlap(offset, data.Length, out int from, out int length);
                data[..length].CopyTo(table.Slice(from, length));
            }
            else
            {
                WriteBar(region, offset, data);
            }
        }
        return Errno.None;
    }

    /// <inheritdoc/>
    public void Reset()
    {
        _worker.Close();
        lock (Gate)
            ResetRegisters();
        _failure = null;
        _received = [];
        _saved = [];
        _state = DeviceMigrationState.Running;
        GoOn();
    }

    /// <summary>Ends the device's thread. The server has stopped using the device.</summary>
    public void Dispose()
    {
        Dispose(disposing: true);
        GC.SuppressFinalize(this);
    }

    /// <summary>For devices that own more.</summary>
    protected virtual void Dispose(bool disposing)
    {
        if (disposing)
            _worker.Dispose();
    }

    private bool UsesMessages => _config.MsixEnabled || _config.MsiEnabled;

    private void DrivePin() => _host?.SetPin(_pin && !UsesMessages && !_config.PinDisabled);

    private void ResetRegisters()
    {
        _config.Reset();
        ClearMsixTable();
        OnReset();
        LowerPin();
    }

    /// <summary>Every vector masked (PCI Local Bus 3.0, 6.8.2.9).</summary>
    private void ClearMsixTable()
    {
        _msixTable.AsSpan().Clear();
        for (int at = 12; at < _msixTable.Length; at += PciConfigSpace.MsixEntrySize)
            _msixTable[at] = 1;
    }

    /// <summary>The part of an access that meets the table; pending bits and what is reserved read 0 and ignore writes.</summary>
    private Span<byte> Overlap(ulong offset, int count, out int from, out int length)
    {
        from = (int)Math.Min(offset, (ulong)_msixTable.Length);
        length = Math.Min(count, _msixTable.Length - from);
        return _msixTable;
    }

    /// <summary>What the error interrupt is for: the client should keep its guest from going on with a broken device (vfio.h, VFIO_PCI_ERR_IRQ_INDEX).</summary>
    private void Fail(Exception failure)
    {
        _failure = failure;
        _host?.Trigger(PciIrq.Error, 0);
        Log?.Invoke($"the device's work failed, it needs a reset: {failure}");
    }

    private void ThrowIfFailed()
    {
        if (_failure is { } failure)
            throw new InvalidOperationException($"The device's work failed: {failure.Message} Only a reset helps.", failure);
    }

    private void GoOn()
    {
        if (_host is null || !Executes(_state) || _failure is not null)
            return;
        _worker.Request();
        _worker.Open();
    }
}
