using Godwit.Iommu.Intel;
using Godwit.Memory;
using Godwit.Migration;
using Godwit.Pci;
using Godwit.Vfio;

namespace Godwit.Machine;

/// <summary>Which vIOMMU the board has.</summary>
public enum IommuKind
{
    /// <summary>None: IOVA is GPA.</summary>
    None,

    /// <summary>Intel VT-d.</summary>
    Intel,
}

/// <summary>What <c>godwit run</c> builds.</summary>
public sealed record MachineConfig
{
    /// <summary>Name shown in status.</summary>
    public string Name { get; init; } = "godwit";

    /// <summary>Bytes of RAM: a multiple of 2 MiB, 64 MiB to 1 TiB. Half (at most 2 GiB) lies below 4 GiB, the rest above.</summary>
    public ulong MemoryBytes { get; init; } = 1UL << 30;

    /// <summary>The vIOMMU.</summary>
    public IommuKind Iommu { get; init; } = IommuKind.Intel;

    /// <summary>Options of the Intel vIOMMU.</summary>
    public IntelIommuOptions Intel { get; init; } = new();

    /// <summary>Passthrough devices, in slot order from 00:03.0.</summary>
    public IReadOnlyList<VfioDeviceOptions> Devices { get; init; } = [];

    /// <summary>Name of the guest program, see <see cref="GuestPrograms"/>.</summary>
    public string Guest { get; init; } = "idle";

    /// <summary>Options of the guest program by name, for example <c>queue-depth = 32</c>. Unknown names are refused.</summary>
    public IReadOnlyDictionary<string, string> GuestOptions { get; init; } = new Dictionary<string, string>();
}

/// <summary>The guest programs there are.</summary>
public static class GuestPrograms
{
    /// <summary>Name and one-line description of each, with the options it takes.</summary>
    public static IReadOnlyList<GuestProgramInfo> All => throw new NotImplementedException();
}

/// <summary>A guest program as listed by <c>godwit run --help</c>.</summary>
public sealed record GuestProgramInfo(string Name, string Description, IReadOnlyList<(string Name, string Default, string Description)> Options);

/// <summary>Run states, QEMU's names (qapi RunState).</summary>
public enum RunState
{
#pragma warning disable CS1591
    Prelaunch,
    InMigrate,
    Running,
    Paused,
    FinishMigrate,
    PostMigrate,
    Shutdown,
    InternalError,
#pragma warning restore CS1591
}

/// <summary>What the guest program says of itself, read from its own memory.</summary>
public sealed record GuestReport
{
#pragma warning disable CS1591
    public required string Name { get; init; }
    public required string Phase { get; init; }
    public long Reads { get; init; }
    public long Writes { get; init; }
    public long OtherCommands { get; init; }
    public long BlocksVerified { get; init; }
    public long Mismatches { get; init; }
    public IReadOnlyList<string> MismatchDetails { get; init; } = [];
    public long Maps { get; init; }
    public long Unmaps { get; init; }
    public long Interrupts { get; init; }
    public long CpuPagesDirtied { get; init; }
    public long IommuFaults { get; init; }
    public string? Panic { get; init; }
#pragma warning restore CS1591
}

/// <summary>
/// One machine: the board, its devices, its vCPUs and its run state machine. Members may be called from any thread unless said otherwise.
/// </summary>
public sealed class VirtualMachine : IDisposable
{
    private VirtualMachine() { }

    /// <summary>Builds the machine and attaches its devices; <see cref="RunState.Prelaunch"/>.</summary>
    /// <exception cref="ArgumentException">A setting that cannot be, named with its limit.</exception>
    /// <exception cref="IOException">A device cannot be attached.</exception>
    public static VirtualMachine Build(MachineConfig config, TimeProvider clock) => throw new NotImplementedException();

    /// <summary>What it was built from.</summary>
    public MachineConfig Config => throw new NotImplementedException();

    /// <summary>Run state now.</summary>
    public RunState RunState => throw new NotImplementedException();

    /// <summary>Raised after each change with the old and the new state, in order.</summary>
    public event Action<RunState, RunState>? RunStateChanged { add => throw new NotImplementedException(); remove => throw new NotImplementedException(); }

    /// <summary>Boots the guest: prelaunch to running.</summary>
    public void Start() => throw new NotImplementedException();

    /// <summary>Waits for an incoming migration instead: prelaunch to inmigrate.</summary>
    public void StartIncoming(string uri) => throw new NotImplementedException();

    /// <summary>Running to paused: vCPUs stopped, devices in STOP. Throws <see cref="InvalidOperationException"/> from other states but paused.</summary>
    public void Stop() => throw new NotImplementedException();

    /// <summary>Paused (or postmigrate, by an operator's decision, after a migration whose other side did not start) to running.</summary>
    public void Continue() => throw new NotImplementedException();

    /// <summary>Its migrations.</summary>
    public MigrationController Migration => throw new NotImplementedException();

    /// <summary>Every reason against migrating now.</summary>
    public IReadOnlyList<MigrationBlocker> QueryBlockers() => throw new NotImplementedException();

    /// <summary>PCI functions for <c>query-pci</c>.</summary>
    public PciHostBridge Pci => throw new NotImplementedException();

    /// <summary>Passthrough devices.</summary>
    public IReadOnlyList<VfioPciFunction> Devices => throw new NotImplementedException();

    /// <summary>Shadow mappings of the vIOMMU, or null without one.</summary>
    public IommuChurn? IommuChurn => throw new NotImplementedException();

    /// <summary>What the guest says of itself now.</summary>
    public GuestReport QueryGuest() => throw new NotImplementedException();

    /// <summary>Something went wrong that an operator must know: a device was lost, the guest panicked. One line.</summary>
    public event Action<string>? Notice { add => throw new NotImplementedException(); remove => throw new NotImplementedException(); }

    /// <summary>Layout of RAM, for tests and dumps.</summary>
    public GuestRam Ram => throw new NotImplementedException();

    /// <summary>Stops everything and closes devices.</summary>
    public void Dispose() => throw new NotImplementedException();
}
