using System.Buffers;

namespace Godwit.Migration;

/// <summary>States of the VMM's models: those that load ahead while the guest runs, and all when it is stopped.</summary>
internal sealed partial class OutgoingMigration
{
    // Loading ahead takes at most one part in so many of the time: the rounds wait for it.
    private const int RehearsalShare = 5;

    private readonly ArrayBufferWriter<byte> _state = new();
    private long _rehearsedAt;
    private TimeSpan? _rehearsal; // how long the latest took there; null when there was none
    private bool _sentAhead; // in this round

    /// <summary>
    /// In a round: what loads ahead, as it is now, for the destination to load at the round's end. A file loads nothing before it is restored.
    /// </summary>
    private void SendStatesAhead()
    {
        _sentAhead = false;
        if (_uri is FileMigrationUri || (_rehearsal is { } took && _clock.GetElapsedTime(_rehearsedAt) < took * (RehearsalShare - 1)))
            return;
        for (int i = 0; i < _host.States.Count; i++)
        {
            if (!_host.States[i].LoadsAhead)
                continue;
            SendState(i);
            _sentAhead = true;
        }
    }

    /// <summary>Whether what the destination said last was measured in this round, and not said again.</summary>
    private bool MeasuredNeeds => _sentAhead || !_host.States.Any(state => state.LoadsAhead);

    /// <summary>The destination's answer to a round; returns the time of <paramref name="ackTime"/> that was the link's.</summary>
    private TimeSpan TakeNeeds(TimeSpan ackTime)
    {
        RoundAckMessage ack = Link.Acknowledged;
        _needs = ack.Needs;
        if (!_sentAhead)
            return ackTime;
        // What it says it took cannot be more than was waited for.
        TimeSpan rehearsal = ack.Rehearsal < ackTime ? ack.Rehearsal : ackTime;
        _rehearsal = rehearsal;
        _rehearsedAt = _clock.GetTimestamp();
        return ackTime - rehearsal;
    }

    private void SendMachineStates()
    {
        for (int i = 0; i < _host.States.Count; i++)
        {
            _progress.MachineStateBytes += SendState(i);
            Link.ThrowIfDown();
        }
    }

    /// <summary>Saves a state and sends it; returns its bytes.</summary>
    private int SendState(int index)
    {
        IStateParticipant participant = _host.States[index];
        _phase = $"sending the state of {participant.Id}";
        _state.ResetWrittenCount();
        participant.Save(_state);
        if (_state.WrittenCount > StreamFormat.MaxMachineState)
        {
            throw new InvalidDataException(
                $"The state of {participant.Id} has {_state.WrittenCount} bytes; the limit is {StreamFormat.MaxMachineState}");
        }

        _payload.ResetWrittenCount();
        new MachineStateBeginMessage(index, participant.Version, participant.Id).Write(_payload);
        Link.Writer.Write(FrameType.MachineStateBegin, _payload.WrittenSpan);
        for (ReadOnlySpan<byte> rest = _state.WrittenSpan; !rest.IsEmpty;)
        {
            int count = Math.Min(rest.Length, StreamFormat.MaxMachineStateChunk);
            Link.Writer.Write(FrameType.MachineStateData, rest[..count]);
            rest = rest[count..];
        }

        _payload.ResetWrittenCount();
        new MachineStateEndMessage(index, (ulong)_state.WrittenCount).Write(_payload);
        Link.Writer.Write(FrameType.MachineStateEnd, _payload.WrittenSpan);
        return _state.WrittenCount;
    }
}
