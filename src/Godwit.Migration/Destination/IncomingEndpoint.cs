using System.Buffers;

namespace Godwit.Migration;

/// <summary>
/// A listening destination: takes one connection at a time, tells others that it is busy, and goes on listening after an attempt that failed
/// before it left traces.
/// </summary>
internal sealed class IncomingEndpoint : IDisposable
{
    // Connections that are being looked at at once. Arbitrary, above what one migration may have.
    private const int MostNewcomers = 2 * StreamFormat.MaxChannels;

    private readonly IMigrationHost _host;
    private readonly TlsCredentials? _tls;
    private readonly MigrationTimes _times;
    private readonly TimeProvider _clock;
    private readonly MigrationListener _listener;
    private readonly Thread _acceptor;
    private readonly Lock _gate = new();
    private readonly MigrationProgress _waiting;
    private IncomingMigration? _current;
    private Thread? _worker;
    private volatile MigrationStatus? _last;
    private volatile bool _completed;
    private bool _closed;
    private int _newcomers;

    /// <summary>Opens the listener; connections are taken from <see cref="Begin"/> on.</summary>
    /// <exception cref="IOException">The address cannot be listened on.</exception>
    internal IncomingEndpoint(IMigrationHost host, MigrationUri uri, TlsCredentials? tls, MigrationTimes times, TimeProvider clock)
    {
        _host = host;
        _tls = uri is FileMigrationUri or LocalMigrationUri ? null : tls; // a file comes through this process, and a handover from the same user
        _times = times;
        _clock = clock;
        _listener = MigrationListener.Open(uri, clock);
        _waiting = new MigrationProgress(host, clock, incoming: true);
        _waiting.Publish();
        _acceptor = new Thread(AcceptAll) { Name = "godwit-incoming-accept", IsBackground = true };
    }

    /// <summary>The state changed. Raised on the connection's thread.</summary>
    internal event Action<MigrationState>? StateChanged;

    /// <summary>It failed for good, and why.</summary>
    internal event Action<string>? Failed;

    /// <summary>Where it listens.</summary>
    internal MigrationUri Address => _listener.Address;

    /// <summary>It has not been closed and no migration has come to its end here.</summary>
    internal bool Listening => _listener.IsOpen;

    /// <summary>The machine has arrived.</summary>
    internal bool Completed => _completed;

    /// <summary>Snapshot now.</summary>
    internal MigrationStatus Status
    {
        get
        {
            lock (_gate)
            {
                if (_current is { } current)
                    return current.Status;
            }

            return _last ?? _waiting.Status;
        }
    }

    /// <summary>Starts taking connections.</summary>
    internal void Begin() => _acceptor.Start();

    /// <summary>Stops listening and ends a connection under way, unless it has committed; waits for both.</summary>
    public void Dispose()
    {
        Thread? worker;
        lock (_gate)
        {
            _closed = true;
            worker = _worker;
            _current?.Abort("The destination was closed");
        }

        _listener.Dispose();
        if (_acceptor.IsAlive && Thread.CurrentThread != _acceptor)
            _acceptor.Join();
        // Called from an event of the worker itself, it ends when the handler returns.
        if (worker is not null && Thread.CurrentThread != worker)
            worker.Join();
    }

    private void AcceptAll()
    {
        try
        {
            while (_listener.Accept() is { } channel)
                Admit(channel);
        }
        catch (IOException e)
        {
            Failed?.Invoke(e.Message);
        }
    }

    private void Admit(MigrationChannel channel)
    {
        IncomingMigration current;
        lock (_gate)
        {
            if (_closed)
            {
                channel.Dispose();
                return;
            }

            if (_current is null)
            {
                var migration = new IncomingMigration(_host, channel, _tls, _times, _clock);
                _current = migration;
                _worker = new Thread(() => Work(migration)) { Name = "godwit-incoming", IsBackground = true };
                _worker.Start();
                return;
            }

            current = _current;
        }

        if (current.ExpectsChannels || _tls is not null)
        {
            if (Interlocked.Increment(ref _newcomers) <= MostNewcomers)
            {
                // Not on this thread: who connects may say nothing for long.
                new Thread(() => Attach(current, channel)) { Name = "godwit-incoming-attach", IsBackground = true }.Start();
                return;
            }

            Interlocked.Decrement(ref _newcomers);
        }

        // Over TLS, with so many at once, it is only hung up on: a handshake would hold up this thread.
        if (_tls is null)
            TurnAway(channel);
        else
            channel.Dispose();
    }

    /// <summary>Hears what a connection is for, and gives it to the migration or turns it away.</summary>
    private void Attach(IncomingMigration migration, MigrationChannel channel)
    {
        try
        {
            if (_tls is not null)
                TlsHandshake.AsDestination(channel, _tls, _clock);
            var reader = new FrameReader(channel);
            AttachMessage? attach = null;
            using (channel.StartDeadline(_clock, "The source did not say what the connection is for"))
            {
                reader.ReadPreface();
                FrameHeader header = reader.ReadHeader();
                if (header.Type == FrameType.Attach)
                    attach = AttachMessage.Read(header, reader.ReadPayload(header));
            }

            if (attach is not { } message || !migration.TryAttach(message, channel, reader))
                TurnAway(channel);
        }
        catch (IOException)
        {
            channel.Dispose(); // whoever it was has gone, or is no source
        }
        finally
        {
            Interlocked.Decrement(ref _newcomers);
        }
    }

    private void Work(IncomingMigration migration)
    {
        migration.StateChanged += state => StateChanged?.Invoke(state);
        IncomingOutcome outcome = migration.Run();
        if (outcome == IncomingOutcome.MayRetry && _listener.Once)
            outcome = IncomingOutcome.Lost; // the only connection there will be
        MigrationStatus status = migration.Status;
        if (outcome == IncomingOutcome.MayRetry)
            status = status with { State = MigrationState.Setup };
        else
            _listener.Dispose(); // before anybody is told, so that the address is free when they hear of it
        _last = status;
        _completed = outcome == IncomingOutcome.Completed;
        if (outcome == IncomingOutcome.Completed)
        {
            lock (_gate)
                _current = null;
            StateChanged?.Invoke(status.State);
            migration.SayGoodbye();
            migration.Dispose();
            return;
        }

        // First all of its threads end: the next source's pages go into the same RAM.
        migration.Dispose();
        lock (_gate)
            _current = null;
        StateChanged?.Invoke(status.State);
        if (outcome == IncomingOutcome.Lost)
            Failed?.Invoke(migration.Error!);
    }

    private static void TurnAway(MigrationChannel channel)
    {
        using (channel)
        {
            try
            {
                using var writer = new FrameWriter(channel);
                var payload = new ArrayBufferWriter<byte>();
                new FailureMessage(false, "The destination is busy: it is taking another migration").Write(payload);
                channel.LimitWrites(TimeSpan.FromSeconds(1));
                writer.WritePreface();
                writer.Write(FrameType.Failure, payload.WrittenSpan);
                writer.Flush();
                channel.FinishAndDrain(TimeSpan.FromSeconds(1));
            }
            catch (IOException)
            {
                // It has gone again; nobody is left to tell.
            }
        }
    }
}
