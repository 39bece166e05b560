namespace Godwit.Migration;

/// <summary>
/// One machine's migrations, outgoing and incoming. Methods return at once; the work is done on a thread of its own. Any thread may call.
/// </summary>
public sealed class MigrationController : IDisposable
{
    private readonly IMigrationHost _host;
    private readonly TimeProvider _clock;
    private readonly MigrationTimes _times;
    private readonly Lock _gate = new();
    private volatile MigrationParameters _parameters = new();
    private volatile OutgoingMigration? _outgoing;
    private volatile IncomingEndpoint? _incoming;
    private string? _retry; // where the last outgoing migration went, while it may be tried again
    private readonly MigrationStatus _idle = new();
    private Thread? _thread;
    private bool _away;
    private bool _disposed;

    /// <summary>Creates it for <paramref name="host"/>.</summary>
    public MigrationController(IMigrationHost host, TimeProvider clock) : this(host, clock, new MigrationTimes())
    {
    }

    internal MigrationController(IMigrationHost host, TimeProvider clock, MigrationTimes times)
    {
        _host = host;
        _clock = clock;
        _times = times;
    }

    /// <summary>The state changed. Raised on the migration thread; handlers must not block.</summary>
    public event Action<MigrationState>? StateChanged;

    /// <summary>A round began (QEMU's MIGRATION_PASS).</summary>
    public event Action<int>? PassStarted;

    /// <summary>
    /// Destination: an incoming migration failed for good; the text says why. The machine must not run: it may hold half of another one.
    /// </summary>
    public event Action<string>? IncomingFailed;

    /// <summary>Settings; changes take effect at the next start, bandwidth and downtime limit at once.</summary>
    /// <exception cref="ArgumentOutOfRangeException">A setting is outside its range; the text names both.</exception>
    public MigrationParameters Parameters
    {
        get => _parameters;
        set
        {
            value.Check();
            _parameters = value;
            _outgoing?.ParametersChanged();
        }
    }

    /// <summary>Snapshot now. Never waits for a migration.</summary>
    public MigrationStatus Status => _outgoing?.Status ?? _incoming?.Status ?? _idle with { DowntimeLimit = _parameters.DowntimeLimit };

    /// <summary>Where <see cref="Listen"/> listens, with the port filled in for <c>tcp:HOST:0</c>; null when it does not.</summary>
    public string? ListeningAt => _incoming is { Listening: true } incoming ? incoming.Address.ToString() : null;

    /// <summary>
    /// The machine's RAM is another process's since a commit, and may have changed there: no operator can decide that this side goes on.
    /// </summary>
    public bool HandedOver => _outgoing is { Committed: true, HandsOver: true };

    /// <summary>
    /// Begins an outgoing migration to <paramref name="uri"/> (<see cref="MigrationUri.Forms"/>). What happens is told by
    /// <see cref="Status"/> and <see cref="StateChanged"/>; a failure ends in <see cref="MigrationState.Failed"/> with the machine running
    /// on, unless the commit point had passed (<see cref="MigrationStatus.Error"/> says so).
    /// </summary>
    /// <exception cref="MigrationBlockedException">There is a reason against.</exception>
    /// <exception cref="InvalidOperationException">One is running, or the machine has been migrated away.</exception>
    /// <exception cref="FormatException">The URI is not of those forms.</exception>
    public void Start(string uri)
    {
        MigrationUri address = MigrationUri.Parse(uri);
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            if (_thread is not null)
                throw new InvalidOperationException("A migration is already running");
            if (_incoming is { Completed: false })
                throw new InvalidOperationException("The machine is waiting for an incoming migration");
            if (_away)
                throw new InvalidOperationException("The machine has been migrated away");
            if ((address is LocalMigrationUri ? _host.QueryHandoverBlockers() : _host.QueryBlockers()) is { Count: > 0 } blockers)
                throw new MigrationBlockedException(blockers);

            var migration = new OutgoingMigration(_host, address, () => _parameters, _times, _clock);
            migration.StateChanged += OnStateChanged;
            migration.PassStarted += pass => PassStarted?.Invoke(pass);
            _outgoing = migration;
            _retry = null;
            _thread = new Thread(() => Run(migration)) { Name = "godwit-migration", IsBackground = true };
            _thread.Start();
        }
    }

    /// <summary>
    /// Tries the last outgoing migration again, which failed or was cancelled with the machine running on here: to the same address, or to
    /// another. Every page is sent anew: what the guest wrote since is not known.
    /// </summary>
    /// <param name="uri">Where to; null for where the last one went.</param>
    /// <exception cref="MigrationBlockedException">There is a reason against.</exception>
    /// <exception cref="InvalidOperationException">There is none to try again, one is running, or the machine has been migrated away.</exception>
    /// <exception cref="FormatException">The URI is not of a known form.</exception>
    public void Retry(string? uri)
    {
        string? last;
        lock (_gate)
            last = _retry;
        if (last is null)
            throw new InvalidOperationException("There is no migration to try again: none has failed or been cancelled since the machine runs here");
        Start(uri ?? last);
    }

    /// <summary>Ends the pause of <see cref="MigrationParameters.PauseBeforeSwitchover"/>.</summary>
    /// <exception cref="InvalidOperationException">No migration is pausing.</exception>
    public void Continue()
    {
        if (_outgoing?.Continue() != true)
            throw new InvalidOperationException($"No migration waits before its switchover; the migration is in state {Status.State}");
    }

    /// <summary>Asks the running migration to stop. After the commit point it has no effect.</summary>
    public void Cancel() => _outgoing?.Cancel();

    /// <summary>
    /// The operator has decided that this side goes on after a commit (the destination did not start, or its machine was given up). Allows
    /// migrations again.
    /// </summary>
    public void TakeBack()
    {
        lock (_gate)
            _away = false;
    }

    /// <summary>
    /// Destination: listens on <paramref name="uri"/> and takes one migration, with the TLS that the parameters name now. The listener is open when this returns. A failed one listens
    /// again while nothing has been loaded into devices; afterwards <see cref="IncomingFailed"/> ends the machine.
    /// </summary>
    /// <exception cref="MigrationBlockedException">A handover, which this machine cannot take.</exception>
    /// <exception cref="InvalidOperationException">A migration is running or listened for.</exception>
    /// <exception cref="FormatException">The URI is not of the known forms.</exception>
    /// <exception cref="IOException">The address cannot be listened on; the text names it and the cause.</exception>
    public void Listen(string uri)
    {
        MigrationUri address = MigrationUri.Parse(uri);
        lock (_gate)
        {
            ObjectDisposedException.ThrowIf(_disposed, this);
            if (_thread is not null)
                throw new InvalidOperationException("A migration is already running");
            if (_incoming is not null)
                throw new InvalidOperationException("The machine already listens, or has listened, for an incoming migration");
            // The source would be refused, too, but only then.
            if (address is LocalMigrationUri && _host.QueryHandoverBlockers() is { Count: > 0 } blockers)
                throw new MigrationBlockedException(blockers);
            var endpoint = new IncomingEndpoint(_host, address, _parameters.Tls, _times, _clock);
            endpoint.StateChanged += OnStateChanged;
            endpoint.Failed += text => IncomingFailed?.Invoke(text);
            _incoming = endpoint;
            endpoint.Begin();
        }
    }

    /// <summary>Cancels what can be cancelled, closes the listener and waits for the migration's threads.</summary>
    public void Dispose()
    {
        Thread? thread;
        lock (_gate)
        {
            if (_disposed)
                return;
            _disposed = true;
            thread = _thread;
        }

        _outgoing?.Cancel();
        if (thread is not null && thread != Thread.CurrentThread)
            thread.Join();
        _incoming?.Dispose();
    }

    private void Run(OutgoingMigration migration)
    {
        migration.Run(() =>
        {
            lock (_gate)
            {
                _retry = migration.Committed ? null : migration.Address;
                _away |= migration.Committed;
                _thread = null;
            }
        });
        migration.Dispose();
    }

    private void OnStateChanged(MigrationState state) => StateChanged?.Invoke(state);
}
