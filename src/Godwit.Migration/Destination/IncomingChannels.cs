namespace Godwit.Migration;

/// <summary>
/// The further connections of one incoming migration, which carry pages, each on a thread of its own. The control connection says when a
/// round begins and ends; a round has ended when every connection has said so, so that no page of an earlier round can overtake one of a
/// later.
/// </summary>
internal sealed class IncomingChannels : IDisposable
{
    // How long a wait is until the control connection is looked at again.
    private static readonly TimeSpan Look = TimeSpan.FromMilliseconds(100);

    private readonly object _gate = new(); // Monitor's Wait and Pulse are what is needed here; Lock has none
    private readonly RamReceiver _receiver;
    private readonly ChannelsMessage _announced;
    private readonly Action<Exception> _failed;
    private readonly Func<string?> _aborted;
    private readonly MigrationChannel?[] _channels;
    private readonly Thread?[] _threads;
    private readonly uint[] _ended; // by connection: the last round that it has ended
    private uint _round; // the last that has begun
    private bool _closed;
    private PageChannelException? _error;

    /// <summary>Expects what was announced.</summary>
    /// <param name="receiver">Where pages go.</param>
    /// <param name="announced">How many, and their token.</param>
    /// <param name="failed">Told once when a connection fails, on its thread, so that the one who waits on the control connection hears of it.</param>
    /// <param name="aborted">Why the control connection was aborted, or null.</param>
    internal IncomingChannels(RamReceiver receiver, in ChannelsMessage announced, Action<Exception> failed, Func<string?> aborted)
    {
        _aborted = aborted;
        _receiver = receiver;
        _announced = announced;
        _failed = failed;
        _channels = new MigrationChannel?[announced.Count];
        _threads = new Thread?[announced.Count];
        _ended = new uint[announced.Count];
    }

    /// <summary>Why one has failed, or null.</summary>
    internal PageChannelException? Error
    {
        get
        {
            lock (_gate)
                return _error;
        }
    }

    /// <summary>Takes a connection over, unless it is not one of these.</summary>
    internal bool TryAttach(in AttachMessage attach, MigrationChannel channel, FrameReader reader)
    {
        int index = attach.Index;
        lock (_gate)
        {
            if (_closed || attach.Token != _announced.Token || index >= _channels.Length || _channels[index] is not null)
                return false;
            using (var writer = new FrameWriter(channel))
            {
                // All that is ever said on it in this direction.
                writer.WritePreface();
                writer.Write(FrameType.Accept, default);
                writer.Flush();
            }

            _channels[index] = channel;
            _threads[index] = new Thread(() => Receive(index, reader)) { Name = $"godwit-incoming-{index}", IsBackground = true };
            _threads[index]!.Start();
            return true;
        }
    }

    /// <summary>The control connection has begun a round.</summary>
    internal void BeginRound(uint round)
    {
        lock (_gate)
        {
            _round = round;
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>The control connection ends a round: waits until every connection has.</summary>
    /// <exception cref="PageChannelException">One has failed.</exception>
    /// <exception cref="IOException">The control connection was aborted.</exception>
    internal void EndRound(uint round)
    {
        lock (_gate)
        {
            while (_error is null && Array.Exists(_ended, ended => ended < round))
            {
                if (_aborted() is { } reason)
                    throw new IOException(reason);
                Monitor.Wait(_gate, Look);
            }

            if (_error is { } error)
                throw error;
        }
    }

    /// <summary>Wakes whoever waits here; called when the control connection is aborted.</summary>
    internal void Close()
    {
        lock (_gate)
        {
            _closed = true;
            Monitor.PulseAll(_gate);
            foreach (MigrationChannel? channel in _channels)
                channel?.Abort("The migration has ended");
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        Close();
        for (int i = 0; i < _channels.Length; i++)
        {
            _threads[i]?.Join();
            _channels[i]?.Dispose();
        }
    }

    private void Receive(int index, FrameReader reader)
    {
        using var codec = new PageCodec();
        try
        {
            for (uint round = 1; ;)
            {
                FrameHeader header = reader.ReadHeader();
                if (header.Type is not (FrameType.Pages or FrameType.ZeroPages or FrameType.CompressedPages or FrameType.ChannelEnd))
                    MigrationStreamException.Throw(header, "type", header.Type.ToString(), "such a connection carries pages only");
                if (!WaitForRound(round))
                    return;
                if (header.Type == FrameType.Pages)
                {
                    _receiver.ReceivePages(reader, header);
                    continue;
                }

                ReadOnlySpan<byte> payload = reader.ReadPayload(header);
                if (header.Type == FrameType.ZeroPages)
                {
                    _receiver.ReceiveZeros(header, payload);
                    continue;
                }

                if (header.Type == FrameType.CompressedPages)
                {
                    _receiver.ReceiveCompressed(header, payload, codec);
                    continue;
                }

                uint ended = ChannelEndMessage.Read(header, payload).Round;
                if (ended != round)
                    MigrationStreamException.Throw(header, "round", ended, $"the round that ends is {round}");
                End(index, round++);
            }
        }
        catch (Exception e)
        {
            Fail(index, e);
        }
    }

    private bool WaitForRound(uint round)
    {
        lock (_gate)
        {
            while (_round < round && !_closed)
                Monitor.Wait(_gate);
            return !_closed;
        }
    }

    private void End(int index, uint round)
    {
        lock (_gate)
        {
            _ended[index] = round;
            Monitor.PulseAll(_gate);
        }
    }

    private void Fail(int index, Exception e)
    {
        lock (_gate)
        {
            if (_closed || _error is not null)
                return;
            _error = new PageChannelException(index, e);
            Monitor.PulseAll(_gate);
        }

        _failed(_error);
    }
}

/// <summary>One of the further connections failed.</summary>
internal sealed class PageChannelException(int index, Exception inner) : IOException($"page channel {index}: {inner.Message}", inner)
{
    /// <summary>The source closed it; why, it may have said on the control connection.</summary>
    internal bool Ended => InnerException is MigrationStreamException { Ended: true };
}
