namespace Godwit.Migration;

/// <summary>The source's end of the connection: a writer for the coordinating thread, and a thread that reads what the destination says.</summary>
internal sealed class DestinationLink : IDisposable
{
    // How long a goodbye may take; the guest runs again by then.
    private static readonly TimeSpan Goodbye = TimeSpan.FromSeconds(1);

    private readonly MigrationChannel _channel;
    private readonly Wakeup _wakeup;
    private readonly LinkWatch _watch;
    private readonly MigrationTimes _times;
    private readonly Thread _thread;
    private volatile MachineDescription? _description;
    private volatile bool _accepted;
    private volatile bool _channelsSent;
    private volatile bool _channelsReady;
    private volatile bool _filesSent;
    private volatile bool _filesTaken;
    private volatile uint _acked;
    private RoundAckMessage _ack; // before _acked is
    private long _startTicks; // before _running is
    private volatile uint _roundsSent;
    private volatile bool _prepareSent;
    private volatile bool _prepared;
    private volatile bool _verifySent;
    private volatile VerifyResultMessage? _verified;
    private volatile bool _commitSent;
    private volatile bool _running;
    private volatile string? _peerFailure;
    private volatile string? _down;
    private bool _heard; // the listening thread's

    /// <summary>Starts talking: sends the preface and reads from now on.</summary>
    internal DestinationLink(MigrationChannel channel, Wakeup wakeup, MigrationTimes times, TimeProvider clock)
    {
        _channel = channel;
        _wakeup = wakeup;
        _times = times;
        Writer = new FrameWriter(channel);
        _watch = new LinkWatch(channel, Writer, "destination", times.SilentPeer, clock);
        _thread = new Thread(Listen) { Name = "godwit-migration-return", IsBackground = true };
        _thread.Start();
    }

    /// <summary>Frames to the destination.</summary>
    internal FrameWriter Writer { get; }

    /// <summary>The latest acknowledgement; after <see cref="WaitForAck"/> and before the next round's end, so that it does not change.</summary>
    internal RoundAckMessage Acknowledged => _ack;

    /// <summary>How long the destination took to start, as it says; after <see cref="WaitForRunning"/>.</summary>
    internal TimeSpan StartTime => TimeSpan.FromTicks(_startTicks);

    /// <summary>What the destination reported as its own failure, or null.</summary>
    internal string? PeerFailure => _peerFailure;

    /// <summary>Exchanges descriptions.</summary>
    /// <exception cref="MigrationFailedException">They differ; the text lists every difference.</exception>
    internal void ShakeHands(MachineDescription own)
    {
        Writer.WritePreface();
        var payload = new System.Buffers.ArrayBufferWriter<byte>();
        DescriptionMessage.Write(payload, own);
        Writer.Write(FrameType.Description, payload.WrittenSpan);
        Writer.Flush();
        WaitFor(() => _description is not null);
        IReadOnlyList<DescriptionDifference> differences = MachineDescription.Compare(own, _description!);
        if (differences.Count > 0)
        {
            payload.ResetWrittenCount();
            RefusalMessage.Write(payload, differences);
            Writer.Write(FrameType.Refuse, payload.WrittenSpan);
            Writer.Flush();
            throw new MigrationFailedException(Differences.Describe(differences));
        }

        WaitFor(() => _accepted);
    }

    /// <summary>Tells the destination of more connections, and waits until it expects them.</summary>
    internal void AnnounceChannels(in ChannelsMessage message)
    {
        _channelsSent = true;
        var payload = new System.Buffers.ArrayBufferWriter<byte>();
        message.Write(payload);
        Writer.Write(FrameType.Channels, payload.WrittenSpan);
        Writer.Flush();
        WaitFor(() => _channelsReady);
    }

    /// <summary>Passes the files of RAM on, which stay this side's, too, and waits until the destination has looked at them.</summary>
    internal void PassFiles(RamFilesMessage message, IReadOnlyList<Interop.Linux.FileDescriptor> files)
    {
        _filesSent = true;
        var payload = new System.Buffers.ArrayBufferWriter<byte>();
        message.Write(payload);
        Writer.Flush();
        _channel.Files!.SendWithNext(files);
        Writer.Write(FrameType.RamFiles, payload.WrittenSpan);
        Writer.Flush();
        WaitFor(() => _filesTaken);
    }

    /// <summary>Waits until the destination has counted a round.</summary>
    internal void EndRound(in RoundEndMessage round)
    {
        _roundsSent = round.Number;
        var payload = new System.Buffers.ArrayBufferWriter<byte>();
        round.Write(payload);
        Writer.Write(FrameType.RoundEnd, payload.WrittenSpan);
        Writer.Flush();
    }

    /// <summary>Waits until the destination has everything up to the end of <paramref name="round"/>.</summary>
    internal void WaitForAck(uint round) => WaitFor(() => _acked >= round);

    /// <summary>Has the destination load everything, and waits until it has.</summary>
    internal void Prepare(in PrepareMessage message)
    {
        _prepareSent = true;
        var payload = new System.Buffers.ArrayBufferWriter<byte>();
        message.Write(payload);
        Writer.Write(FrameType.Prepare, payload.WrittenSpan);
        Writer.Flush();
        WaitForAnswer(() => _prepared);
    }

    /// <summary>Ends the checksums and waits for the destination's comparison.</summary>
    internal VerifyResultMessage EndVerification()
    {
        _verifySent = true;
        Writer.Write(FrameType.VerifyEnd, default);
        Writer.Flush();
        WaitForAnswer(() => _verified is not null);
        return _verified!;
    }

    /// <summary>
    /// Sends the commit. When this throws, the frame is not complete in the kernel's hands and the destination cannot have it: the kernel
    /// takes the last byte of a write only in a call that succeeds.
    /// </summary>
    /// <exception cref="IOException">The link is gone.</exception>
    internal void Commit(bool running)
    {
        _commitSent = true;
        var payload = new System.Buffers.ArrayBufferWriter<byte>();
        new CommitMessage(running).Write(payload);
        Writer.Write(FrameType.Commit, payload.WrittenSpan);
        Writer.Flush();
    }

    /// <summary>Waits until the destination runs.</summary>
    internal void WaitForRunning() => WaitForAnswer(() => _running);

    /// <summary>Throws when the destination has failed or gone, or a cancel was asked for.</summary>
    internal void ThrowIfDown()
    {
        _wakeup.ThrowIfCancelled();
        if (_down is { } down)
            throw new IOException(down);
    }

    /// <summary>Waits, at most <paramref name="time"/>, or until <paramref name="done"/>.</summary>
    internal void Pause(TimeSpan time, Func<bool> done) => _wakeup.Wait(() => CheckDown(done), time);

    /// <summary>Waits for <paramref name="done"/> as long as it takes; the link is kept alive meanwhile.</summary>
    internal void WaitForOperator(Func<bool> done) => WaitFor(done);

    /// <summary>A write that has made no progress for <paramref name="time"/> ends now; called some time after a cancel.</summary>
    internal void AbortIfBlocked(TimeSpan time, string reason)
    {
        if (_channel.BlockedFor >= time)
            _channel.Abort(reason);
    }

    /// <summary>After an error of this side's socket: waits a moment for what the destination may have said before it hung up.</summary>
    internal void HearOut() => _thread.Join(Goodbye);

    /// <summary>Tells the destination that this side has given up, if it can still be told.</summary>
    internal void SayFailed(in FailureMessage message)
    {
        if (_down is not null || _channel.AbortReason is not null)
            return;
        try
        {
            _channel.LimitWrites(Goodbye);
            var payload = new System.Buffers.ArrayBufferWriter<byte>();
            message.Write(payload);
            Writer.Write(FrameType.Failure, payload.WrittenSpan);
            Writer.Flush();
            _channel.FinishWriting();
            _thread.Join(Goodbye);
        }
        catch (IOException)
        {
            // The destination has gone; it will see that this side has, too.
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _watch.Dispose();
        _channel.Abort("The migration has ended");
        _thread.Join();
        Writer.Dispose();
        _channel.Dispose();
    }

    private void WaitFor(Func<bool> done) => _wakeup.Wait(() => CheckDown(done), null);

    /// <summary>Waits while the guest stands still, so not for ever.</summary>
    private void WaitForAnswer(Func<bool> done)
    {
        if (!_wakeup.Wait(() => CheckDown(done), _times.Answer))
            throw new IOException($"The destination is there but has not answered for {_times.Answer.TotalSeconds} s");
    }

    private bool CheckDown(Func<bool> done)
    {
        // What has arrived counts, even when the link is gone since.
        if (done())
            return true;
        if (_down is { } down)
            throw new IOException(down);
        return false;
    }

    private void Listen()
    {
        try
        {
            var reader = new FrameReader(_channel);
            reader.ReadPreface();
            _heard = true;
            while (TakeFrame(reader))
                _wakeup.Poke();
        }
        catch (MigrationStreamException e) when (e.Ended)
        {
            _down = $"The destination closed the connection{_channel.EndNote}";
        }
        catch (IOException e)
        {
            _down = e.Message;
        }

        // In TLS 1.3 the client's handshake is done before the server has looked at its certificate (RFC 8446, 2).
        if (_down is not null && !_heard && _channel.IsSecure)
            _down += "; it may have refused this side's certificate, and then its own message says why";
        _down ??= "The destination has ended the migration";
        // A write under way would only wait for a peer that takes nothing any more.
        _channel.Abort(_down);
        _wakeup.Poke();
    }

    private bool TakeFrame(FrameReader reader)
    {
        FrameHeader header = reader.ReadHeader();
        ReadOnlySpan<byte> payload = reader.ReadPayload(header);
        switch (header.Type)
        {
            case FrameType.KeepAlive:
                break;
            case FrameType.Failure:
                _peerFailure = FailureMessage.Read(header, payload).Text;
                _down = _peerFailure;
                return false;
            case FrameType.Refuse:
                _peerFailure = Differences.Describe(RefusalMessage.Read(header, payload));
                _down = _peerFailure;
                return false;
            case FrameType.Description when _description is null:
                _description = DescriptionMessage.Read(header, payload);
                break;
            case FrameType.Accept when _description is not null && !_accepted:
                _accepted = true;
                break;
            case FrameType.ChannelsReady when _channelsSent && !_channelsReady:
                _channelsReady = true;
                break;
            case FrameType.RamFilesTaken when _filesSent && !_filesTaken:
                _filesTaken = true;
                break;
            case FrameType.RoundAck when _acked < _roundsSent:
                TakeAck(header, RoundAckMessage.Read(header, payload));
                break;
            case FrameType.Prepared when _prepareSent && !_prepared:
                _prepared = true;
                break;
            case FrameType.VerifyResult when _verifySent && _verified is null:
                _verified = VerifyResultMessage.Read(header, payload);
                break;
            case FrameType.Running when _commitSent && !_running:
                _startTicks = RunningMessage.Read(header, payload).Start.Ticks;
                _running = true;
                break;
            default:
                MigrationStreamException.Throw(header, "type", header.Type.ToString(), "the destination may not say this now");
                break;
        }

        return true;
    }

    private void TakeAck(in FrameHeader header, in RoundAckMessage ack)
    {
        if (ack.Number != _acked + 1)
            MigrationStreamException.Throw(header, "round", ack.Number, $"the next to be acknowledged is {_acked + 1}");
        _ack = ack;
        _acked = ack.Number;
    }
}
