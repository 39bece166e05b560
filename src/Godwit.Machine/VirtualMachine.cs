using Godwit.Iommu.Intel;
using Godwit.Machine.Managed;
using Godwit.Machine.State;
using Godwit.Memory;
using Godwit.Migration;
using Godwit.Pci;
using Godwit.Vfio;

namespace Godwit.Machine;

/// <summary>
/// One machine: the board, its devices, its vCPUs and its run state machine. Members may be called from any thread unless said otherwise.
/// </summary>
public sealed class VirtualMachine : IDisposable
{
    /// <summary>How long the barrier waits for a vCPU: longer than a device may take for one answer, which an MMIO exit waits for.</summary>
    private static readonly TimeSpan DefaultStopDeadline = TimeSpan.FromSeconds(15);

    /// <summary>Serializes everything that changes the run state.</summary>
    private readonly Lock _control = new();
    private readonly OrderedEvents _events = new();
    private readonly RunStateMachine _state;
    private readonly Board _board;
    private readonly GuestProgram _program;
    private readonly VcpuSet _vcpus;
    private readonly MachineMigrationHost _host;
    private bool _disposed;

    private VirtualMachine(MachineConfig config, Board board, TimeProvider clock)
    {
        Config = config;
        _board = board;
        _state = new RunStateMachine((from, to) => _events.Post(() => RunStateChanged?.Invoke(from, to)));
        _program = GuestPrograms.Create(config.Guest);
        var apics = new LocalApics();
        var vcpus = new IVcpu[config.Vcpus];
        for (int i = 0; i < vcpus.Length; i++)
        {
            vcpus[i] = new ManagedVcpu((uint)i, _program, board.Bus, apics, clock, OnPanicked);
            apics.Add(vcpus[i]);
        }

        _vcpus = new VcpuSet(vcpus, clock, board.Iommu);
        if (board.Iommu is { } iommu)
            iommu.Failed += _ => OnIommuFailed();
        board.ConnectInterrupts(apics, OnSwitchedOff);
        board.WriteFirmware();
        _host = new MachineMigrationHost(this);
        Migration = new MigrationController(_host, clock);
        Migration.IncomingFailed += OnIncomingFailed;
        foreach (VfioPciFunction device in board.Devices)
            device.Notice += OnDeviceNotice;
    }

    /// <summary>Raised after each change with the old and the new state, in order and one at a time.</summary>
    public event Action<RunState, RunState>? RunStateChanged;

    /// <summary>Something went wrong that an operator must know: a device was lost, the guest panicked. One line.</summary>
    public event Action<string>? Notice;

    /// <summary>The guest has switched the machine off. On a pool thread.</summary>
    public event Action? SwitchedOff;

    /// <summary>What it was built from.</summary>
    public MachineConfig Config { get; }

    /// <summary>Run state now.</summary>
    public RunState RunState => _state.Current;

    /// <summary>Its migrations.</summary>
    public MigrationController Migration { get; }

    /// <summary>PCI functions for <c>query-pci</c>.</summary>
    public PciHostBridge Pci => _board.Pci;

    /// <summary>Passthrough devices.</summary>
    public IReadOnlyList<VfioPciFunction> Devices => _board.Devices;

    /// <summary>Shadow mappings of the vIOMMU, or null without one.</summary>
    public IommuChurn? IommuChurn => _board.Iommu?.Churn;

    /// <summary>Layout of RAM, for tests and dumps.</summary>
    public GuestRam Ram => _board.Ram;

    /// <summary>For tests: the barrier's deadline.</summary>
    internal TimeSpan StopDeadline { get; set; } = DefaultStopDeadline;

    internal Board Board => _board;

    internal VcpuSet Vcpus => _vcpus;

    internal IMigrationHost Host => _host;

    /// <summary>Builds the machine and attaches its devices; <see cref="RunState.Prelaunch"/>.</summary>
    /// <exception cref="ArgumentException">A setting that cannot be, named with its limit.</exception>
    /// <exception cref="IOException">A device cannot be attached.</exception>
    public static VirtualMachine Build(MachineConfig config, TimeProvider clock)
    {
        config.Validate();
        Board board = Board.Build(config);
        try
        {
            return new VirtualMachine(config, board, clock);
        }
        catch
        {
            board.Dispose();
            throw;
        }
    }

    /// <summary>Boots the guest: prelaunch to running.</summary>
    /// <exception cref="InvalidOperationException">It is in another state.</exception>
    public void Start() => Change(() =>
    {
        Require(RunState.Prelaunch, "started");
        _state.MoveTo(RunState.Running);
        _vcpus.Run();
    });

    /// <summary>Waits for an incoming migration instead: prelaunch to inmigrate. The listener is open when this returns.</summary>
    /// <exception cref="InvalidOperationException">It is in another state.</exception>
    /// <exception cref="FormatException">The URI is not of a known form.</exception>
    public void StartIncoming(string uri) => Change(() =>
    {
        Require(RunState.Prelaunch, "set to wait for a migration");
        Migration.Listen(uri);
        _state.MoveTo(RunState.InMigrate);
    });

    /// <summary>
    /// Running to paused: vCPUs stopped, devices in STOP. Does nothing when paused already.
    /// </summary>
    /// <exception cref="InvalidOperationException">It is in a state that cannot be paused.</exception>
    /// <exception cref="TimeoutException">A vCPU did not stop; the machine runs on.</exception>
    /// <exception cref="IOException">A device did not stop; the machine runs on.</exception>
    public void Stop() => Change(() =>
    {
        if (_state.Current == RunState.Paused)
            return;
        Require(RunState.Running, "paused");
        _vcpus.Stop(StopDeadline);
        try
        {
            SetDevicesRunning(false);
        }
        catch
        {
            _vcpus.Run();
            throw;
        }

        _state.MoveTo(RunState.Paused);
    });

    /// <summary>
    /// Paused (or postmigrate, by an operator's decision, after a migration whose other side did not start; or prelaunch) to running. Does
    /// nothing when running already.
    /// </summary>
    /// <exception cref="InvalidOperationException">It is in a state that cannot run on, its guest has panicked, or its RAM was handed over.</exception>
    /// <exception cref="IOException">A device does not run on (its image may be the other side's); the machine stays as it was.</exception>
    public void Continue() => Change(() =>
    {
        switch (_state.Current)
        {
            case RunState.Running:
                return;
            case RunState.Paused or RunState.PostMigrate or RunState.Prelaunch:
                break;
            case RunState other:
                throw new InvalidOperationException($"A machine that is {RunStateMachine.Name(other)} cannot be continued.");
        }

        if (Migration.HandedOver)
            throw new InvalidOperationException("The machine was handed over to another process, which has its RAM and may have changed it; it cannot run on here");
        if (_vcpus.PanicText is { } panic)
            throw new InvalidOperationException($"The guest has panicked and cannot run on: {panic}");
        SetDevicesRunning(true);
        if (_state.Current == RunState.PostMigrate)
            Migration.TakeBack();
        _state.MoveTo(RunState.Running);
        _vcpus.Run();
    });

    /// <summary>Presses the power button: asks the guest to end what it does and to switch the machine off. It may never do so.</summary>
    /// <exception cref="InvalidOperationException">The machine does not run.</exception>
    public void PressPowerButton() => Change(() =>
    {
        Require(RunState.Running, "asked to power down");
        _board.Power.PressButton();
    });

    /// <summary>Every reason against migrating now.</summary>
    public IReadOnlyList<MigrationBlocker> QueryBlockers()
    {
        int migratable = _board.Devices.Count;
        List<MigrationBlocker> blockers = [.. _board.Devices.SelectMany(d => d.QueryBlockers(migratable))];
        AddIommuFailure(blockers);
        return blockers;
    }

    private void AddIommuFailure(List<MigrationBlocker> blockers)
    {
        if (_vcpus.IommuFailureText is { } cause)
            blockers.Add(new IommuFailedBlocker { Subject = "iommu", Cause = cause });
    }

    /// <summary>Every reason against handing the machine over to another process of this host now (<c>local:PATH</c>).</summary>
    public IReadOnlyList<MigrationBlocker> QueryHandoverBlockers()
    {
        List<MigrationBlocker> blockers = [.. Config.Devices.Select(device => new DeviceStaysBlocker { Subject = device.Id, IsKernelDevice = device.Kernel is not null })];
        AddIommuFailure(blockers);
        return blockers;
    }

    /// <summary>What the guest says of itself now.</summary>
    public GuestReport QueryGuest()
    {
        GuestReport report = _program.ReadReport(_board.Bus);
        return report.Panic is null && _vcpus.PanicText is { } panic ? report with { Panic = panic, Phase = "panicked" } : report;
    }

    /// <summary>Stops everything and closes devices.</summary>
    public void Dispose()
    {
        lock (_control)
        {
            if (_disposed)
                return;
            _disposed = true;
        }

        // The migration first: its thread may be inside the host's members. Devices before vCPUs: one may wait for a device.
        Migration.Dispose();
        Change(() =>
        {
            _vcpus.RequestStop();
            if (_state.Current != RunState.Shutdown)
                _state.MoveTo(RunState.Shutdown);
        });
        _board.DisposeDevices();
        _vcpus.Dispose();
        _board.Dispose();
    }

    /// <summary>Runs a change of run state under the control lock, then raises its events.</summary>
    internal void Change(Action<RunStateMachine> change)
    {
        try
        {
            lock (_control)
                change(_state);
        }
        finally
        {
            _events.Deliver();
        }
    }

    private void Change(Action change) => Change(_ => change());

    private void Require(RunState state, string deed)
    {
        if (_state.Current != state)
        {
            throw new InvalidOperationException(
                $"A machine that is {RunStateMachine.Name(_state.Current)} cannot be {deed}; it must be {RunStateMachine.Name(state)}.");
        }
    }

    /// <summary>All devices or none. A lost device has no state to change; its loss was told when it happened.</summary>
    private void SetDevicesRunning(bool running)
    {
        int done = 0;
        try
        {
            for (; done < _board.Devices.Count; done++)
                _board.Devices[done].SetRunning(running);
        }
        catch
        {
            while (--done >= 0)
                _board.Devices[done].SetRunning(!running);
            throw;
        }
    }

    /// <summary>Each device for itself, as the guest has ended: what one does not do keeps no other from it, and is told. In a change.</summary>
    internal void StopDevices()
    {
        foreach (VfioPciFunction device in _board.Devices)
        {
            try
            {
                device.SetRunning(false);
            }
            catch (Exception e) when (e is IOException or InvalidOperationException) // it refuses, or is in a state that cannot be left so
            {
                PostNotice($"A device runs on although the guest does not: {e.Message}");
            }
        }
    }

    private void PostNotice(string text) => _events.Post(() => Notice?.Invoke(text));

    /// <summary>On the vCPU's thread, which whoever is told may want to stop.</summary>
    private void OnSwitchedOff() => ThreadPool.UnsafeQueueUserWorkItem(static machine => machine.SwitchedOff?.Invoke(), this, preferLocal: false);

    /// <summary>On a pool thread, after the vCPU has stopped for good.</summary>
    private void OnPanicked(ManagedVcpu vcpu) => EndGuest($"The guest panicked on vCPU {vcpu.ApicId}: {vcpu.PanicText}");

    /// <summary>On the unit's thread. Elsewhere: the machine's answer may be to wait for this very thread.</summary>
    private void OnIommuFailed() => ThreadPool.UnsafeQueueUserWorkItem(
        static machine => machine.EndGuest(machine._vcpus.PanicText!), this, preferLocal: false);

    private void EndGuest(string notice) => Change(state =>
    {
        PostNotice(notice);
        if (state.Current != RunState.Running)
            return; // stopped meanwhile: Continue and StartAfterLoad look at the panic
        _vcpus.RequestStop();
        state.MoveTo(RunState.InternalError);
        StopDevices();
    });

    /// <summary>On the migration's thread. Half of another machine may have been loaded: this one must not run.</summary>
    private void OnIncomingFailed(string reason) => Change(state =>
    {
        PostNotice($"The incoming migration failed: {reason}");
        if (state.Current == RunState.InMigrate)
            state.MoveTo(RunState.InternalError);
    });

    /// <summary>
    /// Any thread, perhaps under locks of devices: handlers run elsewhere. Before the machine has been started nobody listens yet; the line
    /// is kept until then.
    /// </summary>
    private void OnDeviceNotice(string text)
    {
        PostNotice(text);
        if (_state.Current != RunState.Prelaunch)
            ThreadPool.UnsafeQueueUserWorkItem(static events => events.Deliver(), _events, preferLocal: false);
    }
}
