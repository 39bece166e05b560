using System.Buffers;

namespace Godwit.Migration;

/// <summary>How a connection to a destination ended.</summary>
internal enum IncomingOutcome
{
    /// <summary>It failed before anything was loaded; another may be tried.</summary>
    MayRetry,

    /// <summary>It failed and left its traces in devices or models; this machine is of no use any more.</summary>
    Lost,

    /// <summary>The machine runs here (or is paused, as it was).</summary>
    Completed,
}

/// <summary>
/// One connection of a source to this destination, on one thread. Whatever goes wrong before the Commit frame has arrived whole, the machine
/// never runs.
/// </summary>
internal sealed partial class IncomingMigration : IDisposable
{
    private const string AwaitingCommit = "waiting for the commit";

    private static readonly TimeSpan Goodbye = TimeSpan.FromSeconds(2);

    private readonly IMigrationHost _host;
    private readonly MigrationChannel _channel;
    private readonly FrameReader _reader;
    private readonly FrameWriter _writer;
    private readonly TlsCredentials? _tls;
    private readonly MigrationTimes _times;
    private readonly TimeProvider _clock;
    private readonly MigrationProgress _progress;
    private readonly PageCodec _codec = new();
    private readonly ArrayBufferWriter<byte> _payload = new();
    private string _phase = "comparing the machines";
    private LinkWatch? _watch;
    private LoadRehearsal? _rehearsal;
    private IncomingStates? _states;
    private volatile IncomingChannels? _channels;
    private bool _committed;
    private volatile bool _told;
    private string? _untold;

    internal IncomingMigration(IMigrationHost host, MigrationChannel channel, TlsCredentials? tls, MigrationTimes times, TimeProvider clock)
    {
        _host = host;
        _tls = tls;
        _times = times;
        _clock = clock;
        _channel = channel;
        _reader = new FrameReader(channel);
        _writer = new FrameWriter(channel);
        _progress = new MigrationProgress(host, clock, incoming: true);
        _progress.Publish();
    }

    /// <summary>The state changed to Active or Device; the ends are the caller's to tell.</summary>
    internal event Action<MigrationState>? StateChanged;

    /// <summary>Snapshot now.</summary>
    internal MigrationStatus Status => _progress.Status;

    /// <summary>Why it failed, or null.</summary>
    internal string? Error { get; private set; }

    /// <summary>What <see cref="Error"/> was made from.</summary>
    internal Exception? Source { get; private set; }

    /// <summary>Takes the migration.</summary>
    internal IncomingOutcome Run()
    {
        try
        {
            Take();
            End(MigrationState.Completed, _untold);
            return IncomingOutcome.Completed;
        }
        catch (Exception failure)
        {
            Exception e = Cause(failure);
            string error = $"Destination, {_states?.Work ?? _phase}: {Explain(e)}{WhoRuns()}";
            Source = e;
            bool lost = _committed || _states is { Touched: true } || !TryTakeBack(ref error);
            SayFailed(error);
            End(MigrationState.Failed, error);
            return lost ? IncomingOutcome.Lost : IncomingOutcome.MayRetry;
        }
    }

    /// <summary>Whether more connections may be for it.</summary>
    internal bool ExpectsChannels => _channels is not null;

    /// <summary>Takes a further connection, unless it is not for this migration. Any thread.</summary>
    internal bool TryAttach(in AttachMessage attach, MigrationChannel channel, FrameReader reader) =>
        _channels?.TryAttach(attach, channel, reader) == true;

    /// <summary>Ends it from another thread.</summary>
    internal void Abort(string reason)
    {
        _channel.Abort(reason);
        _channels?.Close();
    }

    /// <summary>
    /// After a migration that completed: leaves the connection open until the source closes it. A relay between the two that finds one of its
    /// ends closed ends at once, and with it goes what it has not passed on yet: the answer that the machine runs here.
    /// </summary>
    internal void SayGoodbye() => _channel.FinishAndDrain(Goodbye);

    /// <inheritdoc/>
    public void Dispose()
    {
        _watch?.Dispose();
        _channels?.Dispose();
        _codec.Dispose();
        ForgetFiles();
        _writer.Dispose();
        _channel.Dispose();
    }

    private void Take()
    {
        if (_tls is not null)
            SecureLink(_tls);
        _watch = new LinkWatch(_channel, _writer, "source", _times.SilentPeer, _clock);
        ShakeHands();
        SetState(MigrationState.Active);
        var receiver = new RamReceiver(_host.Ram);
        _states = new IncomingStates(_host, _rehearsal!, _progress);
        if (TakesOver)
            TakeHandover();
        else
            TakeRounds(receiver);
        _phase = "loading";
        _states.Load(phase => _phase = phase);
        _phase = AwaitingCommit;
        Say(FrameType.Prepared);
        FrameHeader header = NextHeader();
        if (header.Type == FrameType.VerifyBegin)
        {
            _reader.ReadPayload(header);
            Verify(receiver);
            _phase = AwaitingCommit;
            header = NextHeader();
        }

        if (header.Type != FrameType.Commit)
            MigrationStreamException.Throw(header, "type", header.Type.ToString(), "a Commit is expected here");
        CommitMessage commit = CommitMessage.Read(header, _reader.ReadPayload(header));
        // From here on the source does not run any more; this side must.
        _committed = true;
        StartMachine(commit.Running);
    }

    private void SecureLink(TlsCredentials tls)
    {
        string phase = _phase;
        _phase = "securing the link";
        if (TlsHandshake.WaitForFirstByte(_channel, _clock) == TlsHandshake.PlainStream)
        {
            _writer.WritePreface(); // so that it understands what it is told
            throw new MigrationFailedException("the source speaks plain text; this side takes TLS only");
        }

        TlsHandshake.AsDestination(_channel, tls, _clock);
        _phase = phase;
    }

    private void ShakeHands()
    {
        MachineDescription own = StreamDescription.Of(_host, TakesOver);
        _writer.WritePreface();
        DescriptionMessage.Write(_payload, own);
        Say(FrameType.Description);
        _reader.ReadPreface();
        FrameHeader header = NextHeader();
        if (header.Type != FrameType.Description)
            MigrationStreamException.Throw(header, "type", header.Type.ToString(), "a Description comes first");
        MachineDescription source = DescriptionMessage.Read(header, _reader.ReadPayload(header));
        IReadOnlyList<DescriptionDifference> differences = MachineDescription.Compare(source, own);
        if (differences.Count > 0)
        {
            RefusalMessage.Write(_payload, differences);
            Say(FrameType.Refuse);
            throw new MigrationFailedException(Differences.Describe(differences));
        }

        // Now, while the source waits: it takes the time of its rounds for the link's.
        _rehearsal = new LoadRehearsal(_host, _clock, phase => _phase = phase);
        Say(FrameType.Accept);
    }

    /// <summary>Everything up to Prepare.</summary>
    private void TakeRounds(RamReceiver receiver)
    {
        var rounds = new IncomingRounds(receiver);
        for (; ; )
        {
            FrameHeader header = NextHeader();
            _phase = rounds.Phase;
            if (header.Type == FrameType.Pages)
            {
                rounds.CheckInRound(header);
                receiver.ReceivePages(_reader, header);
            }
            else
            {
                ReadOnlySpan<byte> payload = _reader.ReadPayload(header);
                switch (header.Type)
                {
                    case FrameType.Channels:
                        ExpectChannels(header, ChannelsMessage.Read(header, payload), rounds, receiver);
                        break;
                    case FrameType.RoundBegin:
                        RoundBeginMessage begin = RoundBeginMessage.Read(header, payload);
                        rounds.Begin(header, begin);
                        _channels?.BeginRound(begin.Number);
                        if (rounds.Final && _progress.State == MigrationState.Active)
                            SetState(MigrationState.Device);
                        break;
                    case FrameType.CompressedPages:
                        rounds.CheckInRound(header);
                        receiver.ReceiveCompressed(header, payload, _codec);
                        break;
                    case FrameType.ZeroPages:
                        rounds.CheckInRound(header);
                        receiver.ReceiveZeros(header, payload);
                        break;
                    case FrameType.RoundEnd:
                        RoundEndMessage end = RoundEndMessage.Read(header, payload);
                        rounds.CheckInRound(header);
                        _channels?.EndRound(end.Number);
                        rounds.End(header, end);
                        Acknowledge(header, end.Number, rounds.Final);
                        break;
                    case FrameType.DeviceState:
                        _states!.TakeDeviceChunk(header, payload);
                        break;
                    case FrameType.DeviceStateEnd:
                        rounds.CheckStopped(header);
                        _states!.EndDevice(header, DeviceEndMessage.Read(header, payload));
                        break;
                    case FrameType.MachineStateBegin:
                        if (rounds.Final)
                            rounds.CheckStopped(header);
                        else
                            rounds.CheckInRound(header);
                        _states!.BeginMachineState(header, MachineStateBeginMessage.Read(header, payload), ahead: !rounds.Final);
                        break;
                    case FrameType.MachineStateData:
                        _states!.TakeMachineState(header, payload);
                        break;
                    case FrameType.MachineStateEnd:
                        _states!.EndMachineState(header, MachineStateEndMessage.Read(header, payload));
                        break;
                    case FrameType.Prepare:
                        PrepareMessage prepare = PrepareMessage.Read(header, payload);
                        rounds.CheckPrepare(header, prepare);
                        receiver.CheckComplete(header);
                        _states!.CheckComplete(header, prepare);
                        _channels?.Close(); // all pages are there; from here on a closed one means nothing
                        return;
                    default:
                        MigrationStreamException.Throw(header, "type", header.Type.ToString(), "the source may not say this now");
                        break;
                }
            }

            _progress.NormalPages = (long)receiver.Pages;
            _progress.ZeroPages = (long)receiver.ZeroPages;
            _progress.StreamBytes = _reader.Bytes;
            _progress.RamRemainingBytes = _progress.RamTotalBytes - (long)(receiver.Arrived * Memory.RamPage.Size);
            _progress.PublishSometimes();
        }
    }

    /// <summary>Loads ahead what has come for it, and says what that leaves to do.</summary>
    private void Acknowledge(in FrameHeader header, uint round, bool final)
    {
        long began = _clock.GetTimestamp();
        if (!final)
            _states!.LoadAhead(header, phase => _phase = phase);
        new RoundAckMessage(round, _clock.GetElapsedTime(began), _rehearsal!.Needs).Write(_payload);
        Say(FrameType.RoundAck);
    }

    /// <summary>Takes back what was loaded ahead, so that another migration may come; false, and the reason added, when that fails.</summary>
    private bool TryTakeBack(ref string error)
    {
        try
        {
            _rehearsal?.TakeBack();
            return true;
        }
        catch (Exception e)
        {
            error += $"; and taking back what was loaded ahead failed: {e.Message}";
            return false;
        }
    }

    private void ExpectChannels(in FrameHeader header, in ChannelsMessage announced, IncomingRounds rounds, RamReceiver receiver)
    {
        if (_channels is not null || rounds.Begun)
            MigrationStreamException.Throw(header, "type", header.Type.ToString(), "it comes once, before the first round");
        _channels = new IncomingChannels(receiver, announced, TellFailed, () => _channel.AbortReason);
        Say(FrameType.ChannelsReady);
    }

    private void Verify(RamReceiver receiver)
    {
        _phase = "comparing the pages";
        var verification = new Verification(_host.Ram);
        for (; ; )
        {
            FrameHeader header = NextHeader();
            ReadOnlySpan<byte> payload = _reader.ReadPayload(header);
            if (header.Type == FrameType.PageChecksums)
            {
                verification.Compare(header, payload, receiver);
                continue;
            }

            if (header.Type != FrameType.VerifyEnd)
                MigrationStreamException.Throw(header, "type", header.Type.ToString(), "checksums are expected here");
            VerifyResultMessage result = verification.Finish(header);
            PageVerification named = Verification.Name(_host.Ram, result);
            _progress.Verification = named;
            _progress.Publish();
            result.Write(_payload);
            Say(FrameType.VerifyResult);
            if (result.Differing > 0)
                throw new MigrationFailedException(Verification.Explain(named));
            return;
        }
    }

    private void StartMachine(bool running)
    {
        long began = _clock.GetTimestamp();
        if (TakesOver)
        {
            _phase = "making the source's RAM its own";
            _host.Ram.Own();
            _progress.RamByFileBytes = _progress.RamTotalBytes;
        }

        // A machine that was paused has its devices stopped; they start when it is continued.
        if (running)
        {
            foreach (StartPhase phase in (ReadOnlySpan<StartPhase>)[StartPhase.PeerToPeer, StartPhase.Running])
            {
                foreach (IMigratableDevice device in _host.Devices)
                {
                    _phase = $"starting {device.Id}";
                    device.Start(phase);
                }
            }
        }

        _phase = "starting the machine";
        _host.StartAfterLoad(running);
        _phase = "telling the source";
        try
        {
            new RunningMessage(_clock.GetElapsedTime(began)).Write(_payload);
            Say(FrameType.Running);
        }
        catch (IOException e)
        {
            // That the source does not hear of it changes nothing: it stays stopped and says so.
            _untold = $"The machine runs here, but the source could not be told ({e.Message}): it stays stopped and must not be continued";
        }
    }

    /// <summary>The next header that says something.</summary>
    private FrameHeader NextHeader()
    {
        for (; ; )
        {
            FrameHeader header = _reader.ReadHeader();
            switch (header.Type)
            {
                case FrameType.KeepAlive:
                    _reader.ReadPayload(header);
                    break;
                case FrameType.Failure:
                    FailureMessage failure = FailureMessage.Read(header, _reader.ReadPayload(header));
                    throw new MigrationFailedException(failure.Cancelled ? "the source cancelled" : $"the source gave up: {failure.Text}");
                case FrameType.Refuse:
                    throw new MigrationFailedException(Differences.Describe(RefusalMessage.Read(header, _reader.ReadPayload(header))));
                default:
                    return header;
            }
        }
    }

    /// <summary>Sends a frame with what has been written to the payload, now.</summary>
    private void Say(FrameType type)
    {
        _writer.Write(type, _payload.WrittenSpan);
        _payload.ResetWrittenCount();
        _writer.Flush();
    }

    /// <summary>
    /// A page channel has failed, on its thread; the one that reads the control connection may wait for the source, which this makes give up.
    /// </summary>
    private void TellFailed(Exception error)
    {
        if (error is PageChannelException { Ended: true })
            return; // the source did it
        try
        {
            _told = true;
            var payload = new ArrayBufferWriter<byte>();
            new FailureMessage(false, $"Destination, {_phase}: {error.Message}").Write(payload);
            _writer.Write(FrameType.Failure, payload.WrittenSpan);
            _writer.Flush();
        }
        catch (IOException)
        {
            // The source has gone, which its control connection shows.
        }
    }

    /// <summary>What is behind an error: a page channel's, or what the source has said when it closed that.</summary>
    private Exception Cause(Exception e)
    {
        if (_channels?.Error is not { } channel)
            return e;
        if (!channel.Ended)
            return channel; // the first thing that went wrong; what came over the control connection is its consequence
        if (e != channel)
            return e;
        using ITimer limit = _clock.CreateTimer(_ => _channel.Abort(channel.Message), null, Goodbye, Timeout.InfiniteTimeSpan);
        try
        {
            for (; ; )
                _reader.ReadPayload(NextHeader());
        }
        catch (MigrationFailedException said)
        {
            return said;
        }
        catch (IOException)
        {
            return channel;
        }
    }

    private void SayFailed(string error)
    {
        if (_channel.AbortReason is not null)
            return;
        if (_told || (_tls is not null && !_channel.IsSecure && !_writer.Begun))
        {
            _channel.FinishAndDrain(Goodbye); // said already; or the handshake failed, and its own alert is on the way
            return;
        }

        try
        {
            _channel.LimitWrites(Goodbye);
            _payload.ResetWrittenCount();
            new FailureMessage(false, error).Write(_payload);
            Say(FrameType.Failure);
        }
        catch (IOException)
        {
            return; // the source has gone
        }

        _channel.FinishAndDrain(Goodbye);
    }

    /// <summary>What this side knows of who runs, when the link is lost at the one moment at which it matters.</summary>
    private string WhoRuns() => (_phase, _committed) switch
    {
        (AwaitingCommit, false) => ". Everything was loaded and no commit has arrived, so this side never runs; the source runs on unless it "
            + "reports that it has sent a commit",
        _ => "",
    };

    private void SetState(MigrationState state)
    {
        _progress.State = state;
        _progress.Publish();
        StateChanged?.Invoke(state);
    }

    private void End(MigrationState state, string? error)
    {
        Error = error;
        _progress.Error = error;
        _progress.State = state;
        _progress.StreamBytes = _reader.Bytes;
        _progress.Publish();
    }

    private string Explain(Exception e) =>
        e is MigrationStreamException { Ended: true } ? $"the source closed the connection{_channel.EndNote} ({e.Message})" : e.Message;
}
