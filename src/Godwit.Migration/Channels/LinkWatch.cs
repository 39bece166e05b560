namespace Godwit.Migration;

/// <summary>
/// Keeps a link from dying silently: sends a keep-alive when this side has been quiet, and aborts the channel when nothing was heard from
/// the peer, or it has taken nothing, for the timeout. A peer whose process has ended is noticed at once by its closed socket; this is for
/// hosts that vanish and processes that are stopped.
/// </summary>
internal sealed class LinkWatch : IDisposable
{
    /// <summary>Default of the timeout.</summary>
    internal static readonly TimeSpan DefaultTimeout = TimeSpan.FromSeconds(30);

    private readonly MigrationChannel _channel;
    private readonly FrameWriter _writer;
    private readonly string _peer;
    private readonly TimeSpan _timeout;
    private readonly TimeSpan _interval;
    private readonly ITimer _timer;

    /// <summary>Starts watching. <paramref name="peer"/> is <c>source</c> or <c>destination</c>.</summary>
    internal LinkWatch(MigrationChannel channel, FrameWriter writer, string peer, TimeSpan timeout, TimeProvider clock)
    {
        _channel = channel;
        _writer = writer;
        _peer = peer;
        _timeout = timeout;
        _interval = timeout / 6; // five may be lost before the peer gives up
        _timer = clock.CreateTimer(static state => ((LinkWatch)state!).Tick(), this, _interval, _interval);
    }

    /// <inheritdoc/>
    public void Dispose() => _timer.Dispose();

    private void Tick()
    {
        if (_channel.QuietFor >= _timeout)
        {
            _channel.Abort($"Nothing was heard from the {_peer} for {_timeout.TotalSeconds} s");
        }
        else if (_channel.BlockedFor >= _timeout)
        {
            _channel.Abort($"The {_peer} has taken no data for {_timeout.TotalSeconds} s");
        }
        else if (_channel.IdleFor >= _interval)
        {
            try
            {
                _writer.TryWriteNow(FrameType.KeepAlive);
            }
            catch (IOException)
            {
                // The link is gone. Whoever reads from it or writes next gets the same error and reports it with its phase.
            }
        }
    }
}
