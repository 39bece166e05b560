using System.Buffers;
using Godwit.Memory;

namespace Godwit.Migration;

/// <summary>
/// The source's further connections, which carry pages, each with a thread that sends what the coordinating thread hands it. Members are the
/// coordinating thread's unless said otherwise.
/// </summary>
internal sealed class PageChannels : IDisposable
{
    /// <summary>Runs that a worker is handed at once.</summary>
    internal const int RunsPerPiece = 2 * DirtyBitmap.MinRuns;

    // How long a wait is until cancels and the control connection are looked at again.
    private static readonly TimeSpan Look = TimeSpan.FromMilliseconds(20);

    private readonly object _gate = new(); // Monitor's Wait and Pulse are what is needed here; Lock has none
    private readonly List<Worker> _workers = [];
    private readonly PageCompression _compression;
    private readonly Bandwidth _bandwidth;
    private readonly TimeSpan _silentPeer;
    private ITimer? _watch;
    private Exception? _error;
    private bool _closed;
    private int _turn; // coordinating thread

    private PageChannels(PageCompression compression, Bandwidth bandwidth, TimeSpan silentPeer)
    {
        _compression = compression;
        _bandwidth = bandwidth;
        _silentPeer = silentPeer;
    }

    /// <summary>Pages with contents sent since <see cref="BeginRound"/>. Any thread.</summary>
    internal ulong Pages => Sum(static worker => worker.Sender.Pages);

    /// <summary>Zero pages sent since then. Any thread.</summary>
    internal ulong ZeroPages => Sum(static worker => worker.Sender.ZeroPages);

    /// <summary>Time that the average of them has spent on finding zero pages since then. Any thread.</summary>
    internal TimeSpan ZeroTime => TimeSpan.FromTicks((long)Sum(static worker => (ulong)worker.Sender.ZeroTime.Ticks) / _workers.Count);

    /// <summary>Bytes on these connections. Any thread.</summary>
    internal long Bytes => (long)Sum(static worker => (ulong)worker.Writer.Bytes);

    /// <summary>Connects them all.</summary>
    /// <param name="ram">Whose pages they send.</param>
    /// <param name="announced">How many, and their token, as the destination was told.</param>
    /// <param name="connect">Makes a connection, secured if it must be.</param>
    /// <param name="compression">How they compress pages.</param>
    /// <param name="bandwidth">Shared by all connections.</param>
    /// <param name="silentPeer">After this long without progress of a write the destination is given up.</param>
    /// <param name="clock">The clock.</param>
    /// <param name="cancel">Ends it.</param>
    /// <exception cref="IOException">One cannot be made, or the destination does not take it.</exception>
    internal static PageChannels Open(
        GuestRam ram, in ChannelsMessage announced, Func<MigrationChannel> connect, PageCompression compression, Bandwidth bandwidth, TimeSpan silentPeer,
        TimeProvider clock, CancellationToken cancel)
    {
        var result = new PageChannels(compression, bandwidth, silentPeer);
        try
        {
            for (int i = 0; i < announced.Count; i++)
                result.Add(ram, new AttachMessage(i, announced.Token), connect(), clock, cancel);
            result._watch = clock.CreateTimer(static state => ((PageChannels)state!).AbortIfBlocked(), result, silentPeer / 6, silentPeer / 6);
            return result;
        }
        catch
        {
            result.Dispose();
            throw;
        }
    }

    /// <summary>Resets the counts.</summary>
    internal void BeginRound()
    {
        foreach (Worker worker in _workers)
            worker.Sender.BeginRound();
    }

    /// <summary>Waits for a connection that has nothing to do; its <see cref="Worker.Runs"/> are the caller's until <see cref="Send"/>.</summary>
    /// <param name="look">Called now and then while waiting; throws to stop.</param>
    internal Worker WaitForIdle(Action look)
    {
        Worker? idle = null;
        Wait(() => (idle = FindIdle()) is not null, look);
        return idle!;
    }

    /// <summary>Has <paramref name="worker"/> send the first <paramref name="count"/> of its runs.</summary>
    internal void Send(Worker worker, int count)
    {
        lock (_gate)
        {
            worker.Count = count;
            worker.Work = Work.Send;
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>Waits until everything has been sent and every connection has said so.</summary>
    internal void EndRound(uint round, Action look)
    {
        Wait(() => _workers.TrueForAll(static worker => worker.Work == Work.None), look);
        lock (_gate)
        {
            foreach (Worker worker in _workers)
            {
                worker.Round = round;
                worker.Work = Work.EndRound;
            }

            Monitor.PulseAll(_gate);
        }

        Wait(() => _workers.TrueForAll(static worker => worker.Work == Work.None), look);
    }

    /// <summary>Ends a write that has made no progress for <paramref name="time"/>. Any thread.</summary>
    internal void AbortIfBlocked(TimeSpan time, string reason)
    {
        foreach (Worker worker in _workers)
        {
            if (worker.Channel.BlockedFor >= time)
                worker.Channel.Abort(reason);
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        _watch?.Dispose();
        lock (_gate)
        {
            _closed = true;
            Monitor.PulseAll(_gate);
        }

        foreach (Worker worker in _workers)
            worker.Channel.Abort("The migration has ended");
        foreach (Worker worker in _workers)
        {
            worker.Thread?.Join();
            worker.Sender.Dispose();
            worker.Writer.Dispose();
            worker.Channel.Dispose();
        }
    }

    private void Add(GuestRam ram, in AttachMessage attach, MigrationChannel channel, TimeProvider clock, CancellationToken cancel)
    {
        var worker = new Worker(ram, channel, _compression, _bandwidth, AfterFrame);
        _workers.Add(worker);
        var payload = new ArrayBufferWriter<byte>();
        attach.Write(payload);
        using (cancel.Register(static state => ((MigrationChannel)state!).Abort("The migration was cancelled"), channel))
        using (channel.StartDeadline(clock, "The destination did not take a page channel"))
        {
            worker.Writer.WritePreface();
            worker.Writer.Write(FrameType.Attach, payload.WrittenSpan);
            worker.Writer.Flush();
            var reader = new FrameReader(channel);
            reader.ReadPreface();
            FrameHeader header = reader.ReadHeader();
            ReadOnlySpan<byte> answer = reader.ReadPayload(header);
            if (header.Type == FrameType.Failure)
                throw new IOException($"The destination did not take page channel {attach.Index}: {FailureMessage.Read(header, answer).Text}");
            if (header.Type != FrameType.Accept)
                MigrationStreamException.Throw(header, "type", header.Type.ToString(), "an Accept is expected here");
        }

        worker.Thread = new Thread(() => Run(worker)) { Name = $"godwit-pages-{attach.Index}", IsBackground = true };
        worker.Thread.Start();
    }

    private void Run(Worker worker)
    {
        var payload = new ArrayBufferWriter<byte>();
        try
        {
            for (; ; )
            {
                lock (_gate)
                {
                    while (worker.Work == Work.None && !_closed)
                        Monitor.Wait(_gate);
                    if (_closed)
                        return;
                }

                if (worker.Work == Work.Send)
                {
                    worker.Sender.Send(worker.Runs.AsSpan(0, worker.Count));
                }
                else
                {
                    worker.Sender.FlushZeros();
                    payload.ResetWrittenCount();
                    new ChannelEndMessage(worker.Round).Write(payload);
                    worker.Writer.Write(FrameType.ChannelEnd, payload.WrittenSpan);
                    worker.Writer.Flush();
                }

                lock (_gate)
                {
                    worker.Work = Work.None;
                    Monitor.PulseAll(_gate);
                }
            }
        }
        catch (Exception e)
        {
            lock (_gate)
            {
                _error ??= e;
                Monitor.PulseAll(_gate);
            }
        }
    }

    /// <summary>Between two frames of a piece, on the connection's thread: keeps to the bandwidth.</summary>
    private void AfterFrame(Worker worker)
    {
        long bytes = worker.Writer.Bytes;
        TimeSpan wait = _bandwidth.Take(bytes - worker.Metered);
        worker.Metered = bytes;
        ThrowIfClosed();
        if (wait <= TimeSpan.Zero)
            return;
        worker.Writer.Flush();
        for (; wait > TimeSpan.Zero; wait = _bandwidth.Remaining())
        {
            lock (_gate)
            {
                if (!_closed)
                    Monitor.Wait(_gate, wait < Look ? TimeSpan.FromMilliseconds(Math.Max(1, wait.TotalMilliseconds)) : Look);
            }

            ThrowIfClosed();
        }
    }

    private void ThrowIfClosed()
    {
        if (Volatile.Read(ref _closed))
            throw new IOException("The migration has ended");
    }

    /// <summary>By turns, so that all links are used even when one would do.</summary>
    private Worker? FindIdle()
    {
        for (int i = 0; i < _workers.Count; i++)
        {
            Worker worker = _workers[_turn = (_turn + 1) % _workers.Count];
            if (worker.Work == Work.None)
                return worker;
        }

        return null;
    }

    private void Wait(Func<bool> done, Action look)
    {
        for (; ; )
        {
            lock (_gate)
            {
                if (_error is { } error)
                    throw new IOException(error.Message, error);
                if (done())
                    return;
                Monitor.Wait(_gate, Look);
            }

            look();
        }
    }

    private void AbortIfBlocked() => AbortIfBlocked(_silentPeer, $"The destination has taken no data for {_silentPeer.TotalSeconds} s");

    private ulong Sum(Func<Worker, ulong> of)
    {
        ulong sum = 0;
        foreach (Worker worker in _workers)
            sum += of(worker);
        return sum;
    }

    /// <summary>What a connection's thread is to do.</summary>
    internal enum Work
    {
        /// <summary>Nothing: the runs are the coordinating thread's.</summary>
        None,

        /// <summary>To send the runs.</summary>
        Send,

        /// <summary>To say that the round has ended.</summary>
        EndRound,
    }

    /// <summary>One connection. Its work is changed under the gate.</summary>
    internal sealed class Worker
    {
        internal Worker(
            GuestRam ram, MigrationChannel channel, PageCompression compression, Bandwidth bandwidth, Action<Worker> afterFrame)
        {
            Channel = channel;
            Writer = new FrameWriter(channel);
            Sender = new PageRunSender(ram, Writer, compression, bandwidth, () => afterFrame(this));
        }

        /// <summary>Filled by the coordinating thread while there is no work.</summary>
        internal DirtyRun[] Runs { get; } = new DirtyRun[RunsPerPiece];

        internal MigrationChannel Channel { get; }

        internal FrameWriter Writer { get; }

        internal PageRunSender Sender { get; }

        internal Thread? Thread { get; set; }

        internal Work Work { get; set; }

        internal int Count { get; set; }

        internal uint Round { get; set; }

        /// <summary>Bytes that the bandwidth has been told of.</summary>
        internal long Metered { get; set; }
    }
}
