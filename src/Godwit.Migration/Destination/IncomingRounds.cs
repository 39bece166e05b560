namespace Godwit.Migration;

/// <summary>The order of rounds as the destination sees it.</summary>
internal sealed class IncomingRounds(RamReceiver receiver)
{
    private uint _number;
    private bool _open;

    /// <summary>The source is stopped: the last round has begun.</summary>
    internal bool Final { get; private set; }

    /// <summary>A round has begun.</summary>
    internal bool Begun => _number > 0;

    /// <summary>Where it is, for people.</summary>
    internal string Phase => Final ? _open ? "the last pages" : "receiving states" : _number == 0 ? "waiting for pages" : $"round {_number}";

    internal void Begin(in FrameHeader header, in RoundBeginMessage round)
    {
        if (_open)
            MigrationStreamException.Throw(header, "round", round.Number, $"round {_number} has not ended");
        if (round.Number != _number + 1)
            MigrationStreamException.Throw(header, "round", round.Number, $"the next round is {_number + 1}");
        if (Final && !round.Final)
            MigrationStreamException.Throw(header, "final", "0", "after a final round only final ones follow");
        _number = round.Number;
        _open = true;
        Final = round.Final;
        receiver.BeginRound();
    }

    internal void End(in FrameHeader header, in RoundEndMessage round)
    {
        CheckInRound(header);
        if (round.Number != _number)
            MigrationStreamException.Throw(header, "round", round.Number, $"the round that ends is {_number}");
        receiver.EndRound(header, round);
        _open = false;
    }

    internal void CheckInRound(in FrameHeader header)
    {
        if (!_open)
            MigrationStreamException.Throw(header, "type", header.Type.ToString(), "it belongs between RoundBegin and RoundEnd");
    }

    internal void CheckStopped(in FrameHeader header)
    {
        if (!Final || _open)
            MigrationStreamException.Throw(header, "type", header.Type.ToString(), "it comes after the final round");
    }

    internal void CheckPrepare(in FrameHeader header, in PrepareMessage prepare)
    {
        CheckStopped(header);
        if (prepare.Rounds != _number)
            MigrationStreamException.Throw(header, "rounds", prepare.Rounds, $"{_number} have arrived");
    }
}
