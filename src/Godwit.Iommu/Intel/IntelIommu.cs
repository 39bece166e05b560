using Godwit.Iommu.Intel.Spec;
using Godwit.Memory;
using Godwit.Pci;

namespace Godwit.Iommu.Intel;

/// <summary>
/// A VT-d remapping unit: registers at one MMIO page, translation for every function below the buses it is set on. Legacy mode, and scalable
/// mode with first stage, second stage or pass-through; tables of three to five levels; queued and register-based invalidation. What it has
/// and what it has not is in docs/vtd.md.
/// </summary>
/// <remarks>
/// Locks, outermost first: the command lock (one step at a time of what the guest has commanded; held while the host unmaps), the topology's writer lock,
/// <see cref="Sync"/> (records of what was announced), the register lock (values only, never held while calling out). Translation takes
/// none of them on a hit, and only the register lock to record a fault.
/// </remarks>
public sealed partial class IntelIommu : IPciIommu
{
    private readonly MemoryTopology _topology;
    private readonly Dictionary<(PciBus Bus, DevFn DevFn), IntelDevice> _byFunction = [];
    private readonly List<IntelDmaRegion> _inBatch = [];
    private readonly Lock _command = new();
    private IntelDevice[] _devices = [];
    private volatile bool _translationEnabled;
    private ulong _rootPointer; // RTADDR as latched by SRTP

    /// <summary>Creates the unit and places its registers in system memory.</summary>
    /// <exception cref="ArgumentException">An impossible combination of options, named.</exception>
    public IntelIommu(MemoryTopology topology, IntelIommuOptions options)
    {
        options.Validate();
        _topology = topology;
        Options = options;
        Tables = new GuestTables(topology.System);
        Contexts = new ContextLookup(Tables, options);
        Walker = new TableWalker(Tables);
        Shadows = new ShadowWalker(Tables, topology.System);
        _plan = new ChangePlan(this);
        LastIova = new Iova((1UL << options.AddressWidth) - 1);
        _registers = new RegisterFile();
        _faults = new FaultRecorder(_registers);
        DefineRegisters();
        var window = new MmioRegion("vt-d", RegisterOffsets.WindowSize, this, new MmioAccessRules(4, 8, AllowUnaligned: false));
        topology.Add(topology.SystemRoot, BusAddress.FromGpa(RegisterBase), window, priority: 1);
        if (!options.InterruptRemapping)
            return;
        Interrupts = new InterruptRemapper(Tables, RecordInterruptFault);
        Own(Interrupts);
    }

    /// <summary>GPA of the register window, as a DMAR table would tell the guest.</summary>
    public static Gpa RegisterBase => new(0xFED9_0000);

    /// <summary>The options it was built with.</summary>
    public IntelIommuOptions Options { get; }

    /// <summary>What remaps interrupt requests, or null when it was built without.</summary>
    public InterruptRemapper? Interrupts { get; }

    /// <summary>Mappings announced to shadow users now, and announced and withdrawn since the machine started. Any thread.</summary>
    public IommuChurn Churn
    {
        get
        {
            long live = 0, mapped = 0, unmapped = 0;
            foreach (IntelDevice device in Volatile.Read(ref _devices))
            {
                live += device.Region.Live;
                mapped += device.Region.Mapped;
                unmapped += device.Region.Unmapped;
            }

            return new IommuChurn(live, mapped, unmapped, Shadows.Refused);
        }
    }

    internal IommuAttributes Attributes => Options.DmaTranslation ? new(TranslatesDma: true, LastIova) : new(TranslatesDma: false, LastIova: null);

    /// <summary>Highest IOVA that any context can map (the last usable one).</summary>
    internal Iova LastIova { get; }

    internal GuestTables Tables { get; }

    internal ContextLookup Contexts { get; }

    internal TableWalker Walker { get; }

    internal ShadowWalker Shadows { get; }

    /// <summary>Guards records and listeners.</summary>
    internal Lock Sync { get; } = new();

    internal bool TranslationEnabled => _translationEnabled;

    /// <inheritdoc/>
    public AddressSpace GetAddressSpace(PciBus bus, DevFn devFn)
    {
        ArgumentNullException.ThrowIfNull(bus);
        // The topology lock alone guards the list, so that no one waits here for a command that waits for a device. A command that
        // changes what the new device must show re-evaluates all devices under the same lock, after or before this.
        using TopologyTransaction transaction = _topology.Begin();
        if (_byFunction.TryGetValue((bus, devFn), out IntelDevice? device))
            return device.Space;
        var region = new IntelDmaRegion(this, bus, devFn, $"vt-d/{_byFunction.Count}-{devFn}");
        device = new IntelDevice(_topology, region);
        _byFunction.Add((bus, devFn), device);
        Volatile.Write(ref _devices, [.. _devices, device]);
        region.RefreshContext();
        device.Switch(ViewOf(device));
        return device.Space;
    }

    /// <inheritdoc/>
    public IommuAttributes GetAttributes(PciBus bus, DevFn devFn) => Attributes;

    /// <inheritdoc/>
    public void BusNumberChanged(PciBus bus) => Command(bus, static (unit, _) => unit.Renumber());

    private void Renumber()
    {
        using (_topology.Begin()) // for the list of devices
        {
            lock (Sync)
            {
                foreach (IntelDevice device in _devices)
                {
                    if (device.Region.Context.SourceId == device.Region.SourceId)
                        continue;
                    // No access finds the old domain any more; what a passthrough device was told is brought up to that in steps.
                    device.Region.RefreshContext();
                    device.IsRenumbered = true;
                    _renumbered = true;
                }
            }
        }

        if (_renumbered)
            WorkForWriter();
    }

    internal DeviceContext LookupContext(ushort sourceId) =>
        Contexts.Find(new RootPointer(Volatile.Read(ref _rootPointer)), sourceId) with { SourceId = sourceId };

    /// <summary>Remembers to end the batch of <paramref name="region"/>. Under <see cref="Sync"/>.</summary>
    internal void NoteBatch(IntelDmaRegion region) => _inBatch.Add(region);

    /// <summary>
    /// Reads the context of each matching device again and plans what lets the device see what that says (<see cref="ChangePlan"/>). Under the
    /// command lock.
    /// </summary>
    /// <param name="matches">Which devices.</param>
    /// <param name="alsoUnchanged">The command invalidates the IOTLB too, so tables are compared even if the context is the same.</param>
    private void Reevaluate(Predicate<IntelDevice> matches, bool alsoUnchanged = false)
    {
        EndSegment();
        using (_topology.Begin()) // for the list of devices; nothing is changed here
        {
            lock (Sync)
            {
                foreach (IntelDevice device in _devices)
                {
                    if (!matches(device))
                        continue;
                    bool renumbered = device.IsRenumbered;
                    device.IsRenumbered = false;
                    Charge(ContextUnits);
                    DeviceContext before = device.Region.Context;
                    device.Region.RefreshContext();
                    DmaView view = ViewOf(device);
                    if (view != device.View)
                        _plan.Switch(device);
                    if (device.View == DmaView.Translated && view != DmaView.Translated)
                        _plan.Withdraw(device);
                    else if (view == DmaView.Translated && (view != device.View || alsoUnchanged || renumbered || device.Region.Context != before))
                        _plan.Compare(device, default, LastIova);
                }
            }
        }
    }

    private DmaView ViewOf(IntelDevice device) => !_translationEnabled ? DmaView.Bypass : device.Region.Context.Mode switch
    {
        DmaMode.PassThrough => DmaView.Bypass,
        DmaMode.Translated => DmaView.Translated,
        _ => DmaView.Blocked,
    };

    /// <summary>Shows each of <paramref name="devices"/> what it is to see, in one memory transaction. Under the command lock.</summary>
    internal void Switch(List<IntelDevice> devices)
    {
        EndSegment();
        SetDefersReplay(devices, true);
        try
        {
            using TopologyTransaction transaction = _topology.Begin();
            foreach (IntelDevice device in devices)
                device.Switch(ViewOf(device));
        }
        finally
        {
            SetDefersReplay(devices, false);
        }
    }

    private void SetDefersReplay(List<IntelDevice> devices, bool value)
    {
        lock (Sync)
        {
            foreach (IntelDevice device in devices)
                device.Region.DefersReplay = value;
        }
    }

    /// <summary>On return every unmap announced so far is done in the host. Under <see cref="Sync"/>.</summary>
    private void EndBatches()
    {
        foreach (IntelDmaRegion region in _inBatch)
            region.EndBatch();
        _inBatch.Clear();
    }
}
