using System.Globalization;
using Godwit.Memory;
using Godwit.Migration;
using Godwit.Pci;
using Godwit.VfioUser;

namespace Godwit.Vfio;

/// <summary>
/// A passthrough PCI function: a device of the host's kernel or of a vfio-user server seen by the guest as a function of its own bus, with its
/// own DMA address space mapped into the device as the vIOMMU (or plain RAM) says, its DMA log as dirty source and its migration state machine.
/// </summary>
/// <remarks>
/// Migration members come on the migration's thread, one at a time; guest accesses on vCPU threads; the rest may be called from any thread.
/// A device that goes does not take the machine with it: registers read all ones, the guest runs on, and <see cref="Lost"/> completes.
/// </remarks>
public sealed partial class VfioPciFunction : PciFunction, IMigratableDevice, IDirtyTracker, IDisposable
{
    private readonly VfioDeviceOptions _options;
    private readonly IVfioBackend _device;
    private readonly MemoryTopology _topology;
    private readonly DeviceLayout _layout;
    private readonly DmaShadow _shadow;
    private readonly IDeviceStates _states;
    private readonly bool _leavesState; // behind, in a migration
    private readonly string? _cannotLeave; // why not, when the user wants it
    private readonly NoticeBoard _notices = new();
    private readonly DmaMessageRelay? _relay;
    private bool _attached, _listening, _disposed;

    private VfioPciFunction(VfioDeviceOptions options, IVfioBackend device, DmaMessageRelay? relay, MemoryTopology topology, GuestRam ram)
        : base(options.Id)
    {
        _options = options;
        _device = device;
        _relay = relay;
        _topology = topology;
        _layout = DeviceLayout.Read(device);
        _logsDma = device.SupportsDmaLogging();
        _dirtyLog = ram.Dirty;
        _shadow = new DmaShadow(Id, device, device.CutOff, ram, new GpaResolver(topology.System), _notices);
        MigrationSupport support = device.GetMigrationSupport();
        bool forced = options.EnableMigration == EnableMigration.Force && (support & MigrationSupport.StopCopy) == 0;
        _leavesState = forced && device.HeldByBusMaster && _layout.CanReset;
        if (forced && !device.HeldByBusMaster)
            _cannotLeave = "nothing shows that it does no DMA while Bus Master Enable is clear: it is served by a program";
        else if (forced && !_layout.CanReset)
            _cannotLeave = "it cannot be reset, so a transfer that was not finished here would go on in the memory of a guest that comes back";
        ChooseSource(nested: false);
        _states = _leavesState ? new StatelessDevice(Id, HoldDma, _notices) : new DeviceStateMachine(Id, device, support, ResetDevice, _notices);
        _states.Changed += () => StateChanged?.Invoke(this);
        BuildConfiguration();
        _device.Lost.GetAwaiter().OnCompleted(OnLost);
    }

    /// <summary>Connects to the device and probes it. Attach it to a bus afterwards; mapping starts then.</summary>
    /// <exception cref="IOException">No device there, it cannot be had, or it speaks another protocol; the text names it.</exception>
    public static VfioPciFunction Connect(VfioDeviceOptions options, MemoryTopology topology, GuestRam ram)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(topology);
        ArgumentNullException.ThrowIfNull(ram);
        if (options.Kernel is { } kernel)
            return Connect(options, KernelAttach.Open(kernel, LinuxKernelCalls.Instance, new HostPci()), null, topology, ram);
        var relay = new DmaMessageRelay();
        return Connect(options, VfioUserBackend.Connect(options.Socket!, options.ReplyTimeout, relay), relay, topology, ram);
    }

    /// <summary>Takes over <paramref name="device"/>, which others may have used before; disposes it when that fails.</summary>
    internal static VfioPciFunction Connect(VfioDeviceOptions options, IVfioBackend device, DmaMessageRelay? relay, MemoryTopology topology, GuestRam ram)
    {
        VfioPciFunction function = Create(options, device, relay, topology, ram);
        try
        {
            function.ForgetFormerClient();
            return function;
        }
        catch (IOException e)
        {
            function.Dispose();
            throw new VfioAttachException(device.Address, e.Message, e);
        }
    }

    /// <summary>Takes over <paramref name="device"/>; disposes it when that fails.</summary>
    internal static VfioPciFunction Create(VfioDeviceOptions options, IVfioBackend device, DmaMessageRelay? relay, MemoryTopology topology, GuestRam ram)
    {
        try
        {
            return new VfioPciFunction(options, device, relay, topology, ram);
        }
        catch (Exception e)
        {
            device.Dispose();
            if (e is IOException and not VfioAttachException)
                throw new VfioAttachException(device.Address, e.Message, e);
            throw;
        }
    }

    /// <summary>
    /// Devices outlive their clients: one that died may have left queues that point into its own memory, or half of a migration. A device
    /// that cannot be reset must at least run.
    /// </summary>
    private void ForgetFormerClient()
    {
        if (_layout.CanReset)
            _device.Reset();
        else if (_states.Support != MigrationSupport.None && _device.GetMigrationState() is var left && left != DeviceMigrationState.Running)
            throw new IOException($"a former client left the device in state {MigrationArcs.Name(left)}, and it cannot be reset");
    }

    /// <inheritdoc/>
    public string Id => _options.Id;

    /// <summary>Something that an operator should know, one line; each kind of thing once.</summary>
    public event Action<string>? Notice
    {
        add => _notices.Posted += value;
        remove => _notices.Posted -= value;
    }

    /// <summary>Completes when the device process has gone; the text says why.</summary>
    public Task<string> Lost => _device.Lost;

    /// <summary>Counters for status.</summary>
    public VfioDeviceStatistics Statistics
    {
        get
        {
            DirtyTrackingReport dirty = DirtyTracking;
            return new VfioDeviceStatistics(
                _shadow.LiveCount,
                _shadow.MappedCount,
                _shadow.UnmappedCount,
                dirty.Reports,
                dirty.PagesReported,
                dirty.Harvests,
                _interrupts?.Count ?? 0,
                _shadow.NotInstalledCount);
        }
    }

    /// <summary>Every reason why this device keeps the machine from migrating. Live: computed now.</summary>
    public IReadOnlyList<MigrationBlocker> QueryBlockers(int migratableDevicesInMachine)
    {
        List<MigrationBlocker> blockers = [];
        if (_options.EnableMigration == EnableMigration.Off)
            blockers.Add(new MigrationDisabledBlocker { Subject = Id });
        if (_device.Lost.IsCompletedSuccessfully)
            blockers.Add(new DeviceLostBlocker { Subject = Id, Cause = _device.Lost.Result });
        if (_states.State == DeviceMigrationState.Error)
            blockers.Add(new DeviceInErrorBlocker { Subject = Id });
        // One that leaves its state behind does no DMA from the moment on when the others must not be written to.
        if (_states.Support == MigrationSupport.None && !_leavesState)
            blockers.Add(_cannotLeave is { } why ? new CannotBeForcedBlocker { Subject = Id, Cause = why } : new DeviceWithoutMigrationBlocker { Subject = Id });
        else if (migratableDevicesInMachine > 1 && (_states.Support & MigrationSupport.P2P) == 0 && !_leavesState)
            blockers.Add(new NoPeerToPeerBlocker { Subject = Id, Devices = migratableDevicesInMachine });
        _device.AddBlockers(Id, blockers);
        if (_interruptsRefused is { } interrupts)
            blockers.Add(new InterruptsRefusedBlocker { Subject = Id, Answer = interrupts });
        AddTrackingBlockers(blockers);
        int needed = _attached ? _topology.System.View.Ranges.Count(r => r.Region is RamRegion) : 0;
        if (needed > _device.MaxMappings)
            blockers.Add(new MappingLimitBlocker { Subject = Id, Limit = _device.MaxMappings, Needed = needed });
        else if (_shadow.RefusedCount is > 0 and var refused)
            blockers.Add(new MappingsRefusedBlocker { Subject = Id, Limit = _device.MaxMappings, Refused = refused });
        return blockers;
    }

    /// <summary>Entries for the machine's description: identity and layout that the destination's device must share.</summary>
    public IEnumerable<KeyValuePair<string, string>> Describe()
    {
        yield return Entry("id", $"{_layout.Vendor:x4}:{_layout.Device:x4}");
        yield return Entry("subsystem", $"{_layout.SubsystemVendor:x4}:{_layout.Subsystem:x4}");
        yield return Entry("class", $"{_layout.ClassCode:x6}");
        yield return Entry("revision", $"{_layout.Revision:x2}");
        for (int i = 0; i < _layout.RegionBytes.Length; i++)
        {
            if (_layout.RegionBytes[i] != 0)
                yield return Entry($"region{i}.size", _layout.RegionBytes[i].ToString(CultureInfo.InvariantCulture));
        }

        for (int i = 0; i < _layout.IrqCounts.Length; i++)
        {
            if (_layout.IrqCounts[i] != 0)
                yield return Entry($"irq{i}.count", _layout.IrqCounts[i].ToString(CultureInfo.InvariantCulture));
        }

        if (_layout.Pin != 0)
            yield return Entry("pin", $"INT{(char)('A' + _layout.Pin - 1)}#");
        if (_layout.Msix is { } msix)
            yield return Entry("msix", $"{msix.Vectors} vectors, table {msix.TableBar}:0x{msix.TableOffset:x}, pba {msix.PendingBar}:0x{msix.PendingOffset:x}");
        if (_layout.Msi is { } msi)
            yield return Entry("msi", $"{msi.Vectors} vectors, {(msi.Wide ? 64 : 32)}-bit addresses");
        yield return Entry("migration", _leavesState ? "without its state" : _states.Support == MigrationSupport.None ? "none" : _states.Support.ToString());
        yield return Entry("dma-logging", _logsDma ? "yes" : "no");

        KeyValuePair<string, string> Entry(string name, string value) => new($"vfio.{Id}.{name}", value);
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        if (_disposed)
            return;
        _disposed = true;
        // The device first: with its connection it loses all mappings, and what follows needs to ask it nothing.
        _shadow.Abandon();
        _device.Dispose();
        if (_listening)
            DmaSpace.RemoveListener(_shadow);
        _interrupts?.Dispose();
    }

    /// <inheritdoc/>
    protected override void OnAttached()
    {
        base.OnAttached();
        _relay?.Attach(this);
        _attached = true;
        var reach = GuestReach.Of(IommuAttributes, _topology.System.View);
        _device.CheckReach(reach);
        PrepareTracking();
        DmaSpace.AddListener(_shadow);
        _listening = true;
        _device.CheckMapped(reach);
    }

    private void OnLost()
    {
        _shadow.Abandon();
        _notices.PostOnce(NoticeKind.Lost, $"{Id}: the device has gone: {_device.Lost.Result}");
    }
}
