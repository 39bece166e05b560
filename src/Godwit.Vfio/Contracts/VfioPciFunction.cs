using Godwit.Memory;
using Godwit.Migration;
using Godwit.Pci;
using Godwit.VfioUser;

namespace Godwit.Vfio;

/// <summary>How a passthrough device is attached.</summary>
public sealed record VfioDeviceOptions
{
    /// <summary>Id in the machine, for example <c>nvme0</c>.</summary>
    public required string Id { get; init; }

    /// <summary>Path of the vfio-user server's socket.</summary>
    public required string Socket { get; init; }

    /// <summary>False adds a blocker: the user does not want this device migrated.</summary>
    public bool EnableMigration { get; init; } = true;

    /// <summary>Longest wait for one answer of the device.</summary>
    public TimeSpan ReplyTimeout { get; init; } = TimeSpan.FromSeconds(10);
}

/// <summary>
/// A passthrough PCI function: a vfio-user device seen by the guest as a function of its own bus, with its own DMA address space mapped into
/// the device as the vIOMMU (or plain RAM) says, its DMA log as dirty source and its migration state machine.
/// </summary>
public sealed class VfioPciFunction : PciFunction, IMigratableDevice, IDirtyTracker, IDisposable
{
    private VfioPciFunction(string name) : base(name) { }

    /// <summary>Connects to the device and probes it. Attach it to a bus afterwards; mapping starts then.</summary>
    /// <exception cref="IOException">No device there, or it speaks another protocol; the text names the socket.</exception>
    public static VfioPciFunction Connect(VfioDeviceOptions options, MemoryTopology topology, GuestRam ram) => throw new NotImplementedException();

    /// <summary>Every reason why this device keeps the machine from migrating. Live: computed now.</summary>
    public IReadOnlyList<MigrationBlocker> QueryBlockers(int migratableDevicesInMachine) => throw new NotImplementedException();

    /// <summary>Entries for the machine's description: identity and layout that the destination's device must share.</summary>
    public IEnumerable<KeyValuePair<string, string>> Describe() => throw new NotImplementedException();

    /// <summary>Counters for status.</summary>
    public VfioDeviceStatistics Statistics => throw new NotImplementedException();

    /// <summary>Completes when the device process has gone; the text says why.</summary>
    public Task<string> Lost => throw new NotImplementedException();

    /// <summary>Machine stopped (QMP <c>stop</c>) outside a migration: device to STOP; and back.</summary>
    public void SetRunning(bool running) => throw new NotImplementedException();

    /// <inheritdoc/>
    public string Id => throw new NotImplementedException();
    /// <inheritdoc/>
    public string StateName => throw new NotImplementedException();
    /// <inheritdoc/>
    public event Action<IMigratableDevice>? StateChanged { add => throw new NotImplementedException(); remove => throw new NotImplementedException(); }
    /// <inheritdoc/>
    public ulong? PendingBytes => throw new NotImplementedException();
    /// <inheritdoc/>
    public void BeginSave() => throw new NotImplementedException();
    /// <inheritdoc/>
    public int ReadState(Span<byte> buffer) => throw new NotImplementedException();
    /// <inheritdoc/>
    public void Quiesce() => throw new NotImplementedException();
    /// <inheritdoc/>
    public void StopAndCopy() => throw new NotImplementedException();
    /// <inheritdoc/>
    public void EndSave() => throw new NotImplementedException();
    /// <inheritdoc/>
    public void Recover() => throw new NotImplementedException();
    /// <inheritdoc/>
    public void BeginLoad() => throw new NotImplementedException();
    /// <inheritdoc/>
    public void WriteState(ReadOnlySpan<byte> chunk) => throw new NotImplementedException();
    /// <inheritdoc/>
    public void EndLoad() => throw new NotImplementedException();
    /// <inheritdoc/>
    public void Start(StartPhase phase) => throw new NotImplementedException();
    void IDirtyTracker.Start() => throw new NotImplementedException();
    DirtySyncReport IDirtyTracker.Sync(bool final) => throw new NotImplementedException();
    void IDirtyTracker.Stop() => throw new NotImplementedException();
    /// <inheritdoc/>
    public void Dispose() => throw new NotImplementedException();
}

/// <summary>Counters of one device since it was attached.</summary>
public readonly record struct VfioDeviceStatistics(long MappingsLive, long Mapped, long Unmapped, long LogReports, long PagesReported, long UnmapHarvests, long Interrupts);
