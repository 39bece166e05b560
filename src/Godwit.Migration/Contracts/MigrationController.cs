namespace Godwit.Migration;

/// <summary>State of a migration, by QEMU's names (qapi MigrationStatus).</summary>
public enum MigrationState
{
#pragma warning disable CS1591
    None,
    Setup,
    Active,
    Device,
    Completed,
    Failed,
    Cancelling,
    Cancelled,
#pragma warning restore CS1591
}

/// <summary>Settings of the next migration, QEMU's parameter names in kebab case over QMP.</summary>
public sealed record MigrationParameters
{
    /// <summary>Bytes a second, 0 for no limit (<c>max-bandwidth</c>).</summary>
    public long MaxBandwidth { get; init; }

    /// <summary>Longest allowed downtime (<c>downtime-limit</c>, milliseconds; 1 ms to 2000 s).</summary>
    public TimeSpan DowntimeLimit { get; init; } = TimeSpan.FromMilliseconds(300);

    /// <summary>
    /// Compare checksums of every page of the stopped source with the destination before it runs (<c>x-verify-pages</c>). Independent of
    /// dirty tracking; its time is reported apart from the downtime.
    /// </summary>
    public bool VerifyPages { get; init; }

    /// <summary>Rounds of pre-copy after which the migration gives up when it does not converge (<c>x-max-rounds</c>).</summary>
    public int MaxRounds { get; init; } = 100;

    /// <summary>Shortest time of pre-copy before the switchover, to watch a guest under migration (<c>x-min-precopy</c>, milliseconds).</summary>
    public TimeSpan MinimumPrecopy { get; init; }
}

/// <summary>One round of pre-copy (or the final one).</summary>
public sealed record MigrationRound
{
#pragma warning disable CS1591 // units in the names
    public required int Number { get; init; }
    public required TimeSpan Duration { get; init; }
    public required long PagesSent { get; init; }
    public required long ZeroPages { get; init; }
    public required long BytesSent { get; init; }
    public required long DirtyPagesVcpu { get; init; }
    public required long DirtyPagesDevice { get; init; }
    public required long DirtyPagesVmm { get; init; }
    public required int LogReports { get; init; }
    public required long RemainingPages { get; init; }
    public required double BytesPerSecond { get; init; }
    public required TimeSpan ExpectedDowntime { get; init; }
#pragma warning restore CS1591
}

/// <summary>The downtime by its parts; their sum is the downtime. Verification is beside it.</summary>
public sealed record DowntimeParts
{
#pragma warning disable CS1591
    public TimeSpan StopVcpus { get; init; }
    public TimeSpan StopDevices { get; init; }
    public TimeSpan FinalSync { get; init; }
    public TimeSpan FinalPages { get; init; }
    public TimeSpan DeviceState { get; init; }
    public TimeSpan MachineState { get; init; }
    public TimeSpan Load { get; init; }
    public TimeSpan CommitAndStart { get; init; }
    public TimeSpan Verification { get; init; }
    public TimeSpan Total => StopVcpus + StopDevices + FinalSync + FinalPages + DeviceState + MachineState + Load + CommitAndStart;
#pragma warning restore CS1591
}

/// <summary>Result of the page comparison.</summary>
/// <param name="PagesCompared">Pages whose checksums were compared: all of RAM.</param>
/// <param name="PagesDiffering">How many differ.</param>
/// <param name="FirstDifferences">The first few, by name: block, offset.</param>
public sealed record PageVerification(long PagesCompared, long PagesDiffering, IReadOnlyList<string> FirstDifferences);

/// <summary>An immutable snapshot for <c>query-migrate</c> and progress displays.</summary>
public sealed record MigrationStatus
{
#pragma warning disable CS1591 // units in the names
    public MigrationState State { get; init; }
    public string? Error { get; init; }
    public bool Incoming { get; init; }
    public TimeSpan TotalTime { get; init; }
    public TimeSpan SetupTime { get; init; }
    public TimeSpan? ExpectedDowntime { get; init; }
    public TimeSpan DowntimeLimit { get; init; }
    public DowntimeParts? Downtime { get; init; }
    public long RamTotalBytes { get; init; }
    public long RamRemainingBytes { get; init; }
    public long RamTransferredBytes { get; init; }
    public long NormalPages { get; init; }
    public long ZeroPages { get; init; }
    public long DeviceStateBytes { get; init; }
    public long MachineStateBytes { get; init; }
    public long OverheadBytes { get; init; }
    public double BytesPerSecond { get; init; }
    public double DirtyPagesPerSecondVcpu { get; init; }
    public double DirtyPagesPerSecondDevice { get; init; }
    public double DirtyPagesPerSecondVmm { get; init; }
    public long LogReports { get; init; }
    public long MappingsLive { get; init; }
    public IReadOnlyList<MigrationRound> Rounds { get; init; } = [];
    public IReadOnlyDictionary<string, string> DeviceStates { get; init; } = new Dictionary<string, string>();
    public PageVerification? Verification { get; init; }
#pragma warning restore CS1591
}

/// <summary>Refused before anything started.</summary>
public sealed class MigrationBlockedException(IReadOnlyList<MigrationBlocker> blockers)
    : InvalidOperationException("Migration is blocked: " + string.Join("; ", blockers))
{
    /// <summary>Every reason.</summary>
    public IReadOnlyList<MigrationBlocker> Blockers { get; } = blockers;
}

/// <summary>Failed after it started; the text names side, phase and cause.</summary>
public sealed class MigrationFailedException(string message, Exception? inner = null) : Exception(message, inner);

/// <summary>
/// One machine's migrations, outgoing and incoming. Methods return at once; the work is done on a thread of its own. Any thread may call.
/// </summary>
public sealed class MigrationController : IDisposable
{
    /// <summary>Creates it for <paramref name="host"/>.</summary>
    public MigrationController(IMigrationHost host, TimeProvider clock) => throw new NotImplementedException();

    /// <summary>Settings; changes take effect at the next start, bandwidth and downtime limit at once.</summary>
    public MigrationParameters Parameters { get => throw new NotImplementedException(); set => throw new NotImplementedException(); }

    /// <summary>Snapshot now.</summary>
    public MigrationStatus Status => throw new NotImplementedException();

    /// <summary>The state changed. Raised on the migration thread; handlers must not block.</summary>
    public event Action<MigrationState>? StateChanged { add => throw new NotImplementedException(); remove => throw new NotImplementedException(); }

    /// <summary>A round began (QEMU's MIGRATION_PASS).</summary>
    public event Action<int>? PassStarted { add => throw new NotImplementedException(); remove => throw new NotImplementedException(); }

    /// <summary>
    /// Begins an outgoing migration to <paramref name="uri"/> (<c>unix:PATH</c> or <c>tcp:HOST:PORT</c>).
    /// </summary>
    /// <exception cref="MigrationBlockedException">There is a reason against.</exception>
    /// <exception cref="InvalidOperationException">One is running, or the machine has been migrated away.</exception>
    /// <exception cref="FormatException">The URI is not of those forms.</exception>
    public void Start(string uri) => throw new NotImplementedException();

    /// <summary>Asks the running migration to stop. After the commit point it has no effect.</summary>
    public void Cancel() => throw new NotImplementedException();

    /// <summary>
    /// Destination: listens on <paramref name="uri"/> and takes one migration. The listener is open when this returns. A failed one listens
    /// again while nothing has been loaded into devices; afterwards <see cref="IncomingFailed"/> ends the machine.
    /// </summary>
    public void Listen(string uri) => throw new NotImplementedException();

    /// <summary>Where <see cref="Listen"/> listens, with the port filled in for <c>tcp:HOST:0</c>.</summary>
    public string? ListeningAt => throw new NotImplementedException();

    /// <summary>Destination: an incoming migration failed for good; the text says why.</summary>
    public event Action<string>? IncomingFailed { add => throw new NotImplementedException(); remove => throw new NotImplementedException(); }

    /// <inheritdoc/>
    public void Dispose() => throw new NotImplementedException();
}
