using System.Buffers.Binary;
using System.Security.Cryptography;

namespace Godwit.Migration;

/// <summary>
/// One outgoing migration, from connecting to its end. Everything but <see cref="Cancel"/>, <see cref="ParametersChanged"/> and
/// <see cref="Status"/> happens on the thread that calls <see cref="Run"/>.
/// </summary>
/// <remarks>
/// Up to the commit point every failure, wherever it comes from, ends in <see cref="SourceUndo.TakeBack"/>: the machine runs on as if
/// nothing had been tried. From the commit point on the source never runs by itself, whatever happens.
/// </remarks>
internal sealed partial class OutgoingMigration : IDisposable
{
    private readonly IMigrationHost _host;
    private readonly MigrationUri _uri;
    private readonly MigrationParameters _settings; // as they were at the start
    private readonly Func<MigrationParameters> _live;
    private readonly MigrationTimes _times;
    private readonly TimeProvider _clock;
    private readonly Wakeup _wakeup;
    private readonly SourceUndo _undo;
    private readonly MigrationProgress _progress;
    private readonly Bandwidth _bandwidth;
    private readonly Lock _linkGate = new();
    private DestinationLink? _link;
    private PageChannels? _channels;
    private ITimer? _cancelTimer;
    private volatile bool _continued;
    private string _phase = "connecting";
    private bool _committed;
    private MigrationState _outcome;

    internal OutgoingMigration(
        IMigrationHost host, MigrationUri uri, Func<MigrationParameters> live, MigrationTimes times, TimeProvider clock)
    {
        _host = host;
        _uri = uri;
        _settings = live();
        _live = live;
        _times = times;
        _clock = clock;
        _wakeup = new Wakeup(clock);
        _undo = new SourceUndo(host);
        _progress = new MigrationProgress(host, clock, incoming: false) { DowntimeLimit = _settings.DowntimeLimit };
        _bandwidth = new Bandwidth(clock, () => _unlimited ? 0 : _live().MaxBandwidth);
        _progress.Publish();
    }

    /// <summary>The state changed.</summary>
    internal event Action<MigrationState>? StateChanged;

    /// <summary>A round began.</summary>
    internal event Action<int>? PassStarted;

    /// <summary>Where it goes.</summary>
    internal string Address => _uri.ToString();

    /// <summary>Snapshot now.</summary>
    internal MigrationStatus Status => _progress.Status;

    /// <summary>The commit point has passed: this machine is not ours to run any more.</summary>
    internal bool Committed => Volatile.Read(ref _committed);

    private DestinationLink Link => _link!;

    /// <summary>Asks for the end; no effect after the commit point.</summary>
    internal void Cancel()
    {
        if (!_wakeup.Cancel())
            return;
        lock (_linkGate)
        {
            // A write to a destination that takes nothing would go on for long; one that makes progress ends by itself and politely.
            _cancelTimer ??= _clock.CreateTimer(
                static state => ((OutgoingMigration)state!).AbortIfBlocked(), this, _times.CancelGrace, _times.CancelGrace);
        }
    }

    /// <summary>Ends the pause before the switchover; false when it is not pausing.</summary>
    internal bool Continue()
    {
        if (Status.State != MigrationState.PreSwitchover || _continued)
            return false;
        _continued = true;
        _wakeup.Poke();
        return true;
    }

    /// <summary>The bandwidth or the downtime limit may have changed.</summary>
    internal void ParametersChanged() => _wakeup.Poke();

    /// <summary>Does it. Never throws for what can go wrong with a migration; see <see cref="Status"/> afterwards.</summary>
    /// <param name="beforeEnd">Called when all is done, before the last state is told: whoever hears of it can start the next one.</param>
    internal void Run(Action beforeEnd)
    {
        SetState(MigrationState.Setup);
        try
        {
            Connect();
            if (HandsOver)
            {
                HandOver();
            }
            else
            {
                StartTracking();
                Precopy();
                SwitchOver();
            }

            Finish(null);
        }
        catch (Exception e) when (_committed)
        {
            Finish(Uncertain(e));
        }
        catch (Exception e)
        {
            Fail(e);
        }
        finally
        {
            lock (_linkGate)
            {
                _cancelTimer?.Dispose();
                _channels?.Dispose();
                _sender?.Dispose();
                _link?.Dispose();
            }
        }

        beforeEnd();
        SetState(_outcome);
    }

    /// <inheritdoc/>
    public void Dispose() => _wakeup.Dispose();

    private void Connect()
    {
        if (_settings.Channels > 1 && _uri is not (UnixMigrationUri or TcpMigrationUri))
            throw new MigrationFailedException($"{_settings.Channels} channels need an address that can be connected to several times; {_uri} is one connection");
        // A file is written within this process, so there is nothing to secure.
        MigrationChannel channel = _uri is FileMigrationUri file ? SavedMachineRecorder.Open(file, _host.Ram.Blocks, _clock) : ConnectOnce();
        lock (_linkGate)
            _link = new DestinationLink(channel, _wakeup, _times, _clock);
        _phase = "comparing the machines";
        Link.ShakeHands(StreamDescription.Of(_host, HandsOver));
        ThrowIfBlocked();
        if (_settings.Channels > 1)
            OpenChannels();
    }

    /// <summary>Before anything moves, and once more before the guest is stopped: reasons may come while pre-copy goes on (a hot-plug).</summary>
    private void ThrowIfBlocked()
    {
        if ((HandsOver ? _host.QueryHandoverBlockers() : _host.QueryBlockers()) is { Count: > 0 } blockers)
            throw new MigrationBlockedException(blockers);
    }

    /// <summary>As <see cref="ThrowIfBlocked"/>, but false where another round may be enough. One look at a guest that runs is a sample.</summary>
    private bool IsFreeToStop()
    {
        IReadOnlyList<MigrationBlocker> blockers = _host.QueryBlockers();
        if (blockers.Count == 0)
            return true;
        if (!_host.IsRunning || ++_blockedSwitchovers >= BlockedSwitchovers || blockers.Any(static blocker => !blocker.MayPass))
            throw new MigrationBlockedException(blockers);
        return false;
    }

    private MigrationChannel ConnectOnce()
    {
        MigrationChannel channel = MigrationConnector.Connect(_uri, _clock, _wakeup.Token);
        if (_settings.Tls is { } tls && !HandsOver)
            SecureLink(channel, tls);
        return channel;
    }

    private void OpenChannels()
    {
        _phase = "opening the page channels";
        UInt128 token = BinaryPrimitives.ReadUInt128LittleEndian(RandomNumberGenerator.GetBytes(16));
        var announced = new ChannelsMessage(_settings.Channels, token);
        Link.AnnounceChannels(announced);
        var channels = PageChannels.Open(_host.Ram, announced, ConnectOnce, Compression, _bandwidth, _times.SilentPeer, _clock, _wakeup.Token);
        lock (_linkGate)
            _channels = channels;
    }

    private void SecureLink(MigrationChannel channel, TlsCredentials tls)
    {
        _phase = "securing the link";
        try
        {
            using (_wakeup.Token.Register(static state => ((MigrationChannel)state!).Abort("The migration was cancelled"), channel))
                TlsHandshake.AsSource(channel, tls, _uri, _clock);
        }
        catch
        {
            channel.Dispose();
            throw;
        }
    }

    private void StartTracking()
    {
        _phase = "starting dirty tracking";
        _undo.StartTracking();
        _progress.SetupTime = _progress.Elapsed;
        SetState(MigrationState.Active);
        foreach (IMigratableDevice device in _host.Devices)
        {
            _phase = $"starting the transfer of {device.Id}";
            _undo.BeginSave(device);
        }
    }

    private void SetState(MigrationState state)
    {
        _progress.State = state;
        _progress.Publish();
        StateChanged?.Invoke(state);
    }

    /// <summary>The end of one that was committed: completed, or failed with a destination that may be running.</summary>
    private void Finish(string? error)
    {
        List<string> problems = _undo.LetGo();
        if (problems.Count > 0)
            error = (error is null ? "The machine runs on the destination, but here " : error + "; ") + string.Join("; ", problems);
        _progress.Error = error;
        _outcome = _runsThere ? MigrationState.Completed : MigrationState.Failed;
    }

    private string Uncertain(Exception e)
    {
        Link.HearOut();
        if (HandsOver)
        {
            return $"Source, {_phase}: the commit was sent and {(Link.PeerFailure is { } cause ? $"the destination reports: {cause}" : $"no answer came ({e.Message})")}. "
                + "The destination has this machine's RAM and may be running the guest in it, so this side cannot run on. Ask the destination (query-status)";
        }

        return Link.PeerFailure is { } said
            ? $"Source, {_phase}: the destination reports after the commit: {said}. This side stays stopped. If the destination's process "
                + "has ended without running the guest, continue here (cont); never run both"
            : $"Source, {_phase}: the commit was sent and no answer came ({e.Message}). The destination may be running the guest, so this "
                + "side stays stopped. Ask the destination (query-status): if it runs, quit here; only if it has ended without running, continue here (cont)";
    }

    /// <summary>The end of one that was not committed: the machine as it was.</summary>
    private void Fail(Exception e)
    {
        bool cancelled = _wakeup.Cancelled;
        string failedIn = _phase;
        if (cancelled)
            SetState(MigrationState.Cancelling);
        _phase = "taking back";
        List<string> problems = _undo.TakeBack();
        string cause = cancelled ? "cancelled" : Explain(e);
        string error = $"Source, {failedIn}: {string.Join("; ", [cause, .. problems])}";
        // The guest runs again; now there is time to be polite. First these, whose end the destination may be waiting for.
        _channels?.Dispose();
        _link?.SayFailed(new FailureMessage(cancelled, error));
        _progress.Error = cancelled && problems.Count == 0 ? null : error;
        _outcome = cancelled ? MigrationState.Cancelled : MigrationState.Failed;
    }

    private string Explain(Exception e)
    {
        if (e is IOException && _link is not null)
        {
            // What the destination said is the cause; the broken connection only its consequence.
            _link.HearOut();
            if (_link.PeerFailure is { } said)
                return $"the destination gave up: {said}";
        }

        return e.Message;
    }

    private void AbortIfBlocked()
    {
        lock (_linkGate)
        {
            _link?.AbortIfBlocked(_times.CancelGrace, "The migration was cancelled");
            _channels?.AbortIfBlocked(_times.CancelGrace, "The migration was cancelled");
        }
    }
}
