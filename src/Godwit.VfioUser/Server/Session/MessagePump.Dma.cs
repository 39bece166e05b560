using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <content>
/// DMA by messages. Nobody waits for an answer with a limit of his own: now and then somebody looks which requests are overdue, and gives
/// them up. Where a thread is in the middle of a message that does not go on, nothing but the end of the connection brings it back.
/// </content>
internal sealed unsafe partial class MessagePump
{
    private readonly Dictionary<ushort, DmaRequest> _requests = []; // whose answers have not begun to come
    private readonly Stack<DmaRequest> _spareRequests = new();
    private readonly AnswerTime _time = new(clock, dmaTimeout);
    private DmaRequest? _claimed; // guarded by _gate: whose answer is being received
    private DmaRequest? _leader; // guarded by _gate: whose thread is receiving, in the middle of a message perhaps
    private ITimer? _watch; // guarded by _gate: from the first request on
    private EventFd? _overdue; // made with _watch: wakes who waits for something to receive
    private ushort _nextId;

    /// <summary>DMA_READ by message. Fills <paramref name="destination"/> or tells why not.</summary>
    public Errno DmaRead(ulong address, Span<byte> destination)
    {
        // SAFETY: pinned until the request has left the table and nobody receives into it.
        fixed (byte* pointer = destination)
        {
            return Request(Command.DmaRead, address, destination.Length, pointer, []);
        }
    }

    /// <summary>DMA_WRITE by message.</summary>
    public Errno DmaWrite(ulong address, ReadOnlySpan<byte> data) =>
        Request(Command.DmaWrite, address, data.Length, null, data);

    private Errno Request(Command command, ulong address, int count, byte* into, ReadOnlySpan<byte> data)
    {
        ushort id;
        DmaRequest? request;
        lock (_gate)
        {
            if (_closed is not null)
                return Errno.ENOTCONN;
            if (_watch is null && TryBeginWatching() is var error && error != Errno.None)
                return error;
            if (!_spareRequests.TryPop(out request))
                request = new DmaRequest();
            request.Prepare(command, address, count, into, _time.Now);
            do
                id = _nextId++;
            while (_requests.ContainsKey(id) && _requests.Count <= ushort.MaxValue);
            if (!_requests.TryAdd(id, request))
                return Errno.EBUSY; // 65536 under way
        }
        var message = new RequestMessage
        {
            Header = new MessageHeader
            {
                Id = id,
                Command = command,
                Length = (uint)(sizeof(RequestMessage) + data.Length),
                Flags = HeaderFlags.Command,
            },
            Body = new DmaAccessBody { Address = address, Count = (ulong)count },
        };
        Send(MemoryMarshal.AsBytes(new ReadOnlySpan<RequestMessage>(in message)), data, []);
        Errno result = Await(request);
        lock (_gate)
        {
            if (_spareRequests.Count < MaxSpare)
                _spareRequests.Push(request); // done, so nobody else has it any more
        }
        return result;
    }

    private Errno Await(DmaRequest request)
    {
        while (true)
        {
            lock (_gate)
            {
                while (!request.IsDone && (_receiving || _closed is not null))
                    Wait();
                if (request.IsDone)
                    return request.Error;
                _receiving = true;
            }
            try
            {
                ReceiveFor(request);
            }
            finally
            {
                StopReceiving();
            }
        }
    }

    /// <summary>Receives one message on behalf of a waiting request, unless its time is over first.</summary>
    private void ReceiveFor(DmaRequest request)
    {
        if (!_receiver.HasMessage && !AwaitReadable())
            return;
        lock (_gate)
            _leader = request;
        IncomingMessage? command = ReceiveMessage();
        if (command is null)
            return;
        bool abandoned;
        bool tooMany = false;
        lock (_gate)
        {
            abandoned = _abandoned;
            if (!abandoned)
            {
                _commands.Enqueue(command);
                _queuedBytes += command.Length;
                _queuedFiles += command.FileCount;
                tooMany = _commands.Count > MaxQueued || _queuedBytes > MaxQueuedBytes || _queuedFiles > MaxQueuedFiles;
            }
        }
        if (abandoned)
        {
            Refuse(command.Header, Errno.EINVAL);
            Return(command);
        }
        else if (tooMany)
        {
            Close($"the client sent more than {MaxQueued} commands, {MaxQueuedBytes} bytes or {MaxQueuedFiles} descriptors instead of answering {request.Command.Name()}");
        }
    }

    /// <summary>Waits until something is there to receive, the end of the stream included. False: not now, look whether the request is done.</summary>
    private bool AwaitReadable()
    {
        EventFd overdue = _overdue!;
        bool added = false;
        try
        {
            socket.DangerousAddRef(ref added);
            // SAFETY: two entries in this frame; the socket is held open, and the eventfd is disposed after everybody has stopped.
            pollfd* entries = stackalloc pollfd[2];
            entries[0] = new pollfd { fd = socket.Number, events = poll.POLLIN };
            entries[1] = new pollfd { fd = overdue.Number, events = poll.POLLIN };
            if (poll.wait(entries, 2, -1) <= 0)
                return false; // a signal
            if (entries[1].revents != 0)
            {
                overdue.Drain();
                return false;
            }
            return true;
        }
        finally
        {
            if (added)
                socket.DangerousRelease();
        }
    }

    /// <summary>Under the lock. Fails when no descriptor is left.</summary>
    private Errno TryBeginWatching()
    {
        try
        {
            _overdue = EventFd.Create();
        }
        catch (LinuxException e)
        {
            return e.Errno;
        }
        _time.Look();
        _watch = clock.CreateTimer(static state => ((MessagePump)state!).GiveUpOverdue(), this, _time.Period, _time.Period);
        return Errno.None;
    }

    private void GiveUpOverdue()
    {
        Command? stopped = null;
        lock (_gate)
        {
            if (_closed is not null)
                return;
            _time.Look();
            TimeSpan now = _time.Now;
            bool any = false;
            foreach ((ushort id, DmaRequest request) in _requests)
            {
                if (!IsOverdue(request, now))
                    continue;
                _requests.Remove(id);
                request.Complete(Errno.ETIMEDOUT);
                any = true;
            }
            if (any)
            {
                Monitor.PulseAll(_gate);
                _overdue!.Signal();
            }
            // Only at the second look: at the first, who receives may be about to finish.
            if (_leader is { IsDone: true } leader && leader.LookAgain())
                stopped = leader.Command;
            if (_claimed is { } claimed && IsOverdue(claimed, now) && claimed.LookAgain())
                stopped = claimed.Command;
        }
        if (stopped is { } command)
            (end ?? Close)($"the client stopped in the middle of a message while the device waited for its answer to {command.Name()}");
    }

    private bool IsOverdue(DmaRequest request, TimeSpan now) => now - request.StartedAt >= dmaTimeout;

    private void ReceiveReply(MessageHeader header, int length)
    {
        DmaRequest? request;
        lock (_gate)
        {
            _requests.Remove(header.Id, out request); // from here on only this thread completes it
            _claimed = request;
        }
        Errno error = Errno.EPROTO;
        try
        {
            if (request is null || request.Command != header.Command || header.ReplyErrno != Errno.None)
            {
                // An answer that came too late, or a refusal: some peers send a body along.
                error = header.ReplyErrno == Errno.None ? Errno.EPROTO : header.ReplyErrno;
                if (!_receiver.Discard(length))
                    Ended();
                return;
            }
            DmaAccessBody body = default;
            int expected = sizeof(DmaAccessBody) + (request.Data is null ? 0 : request.Count);
            if (length != expected)
            {
                if (!_receiver.Discard(length))
                    Ended();
                return;
            }
            // SAFETY: the request waits until it is completed below, and its memory has Count bytes.
            if (!_receiver.Read(MemoryMarshal.AsBytes(new Span<DmaAccessBody>(ref body)))
                || (request.Data is not null && !_receiver.Read(new Span<byte>(request.Data, request.Count))))
            {
                Ended();
                return;
            }
            if (body.Address == request.Address && body.Count == (ulong)request.Count)
                error = Errno.None;
        }
        finally
        {
            if (request is not null)
            {
                lock (_gate)
                {
                    _claimed = null;
                    request.Complete(error);
                    Monitor.PulseAll(_gate);
                }
            }
        }
    }

    [StructLayout(LayoutKind.Sequential, Pack = 1)]
    private struct RequestMessage
    {
        public MessageHeader Header;
        public DmaAccessBody Body;
    }

    /// <summary>A DMA message under way. In the table, anybody may complete it under the lock; out of it, only who took it out.</summary>
    private sealed class DmaRequest
    {
        private bool _looked;

        public Command Command { get; private set; }

        public ulong Address { get; private set; }

        public int Count { get; private set; }

        public byte* Data { get; private set; }

        /// <summary>In the time for answers.</summary>
        public TimeSpan StartedAt { get; private set; }

        public Errno Error { get; private set; }

        public bool IsDone { get; private set; }

        public void Prepare(Command command, ulong address, int count, byte* data, TimeSpan now)
        {
            Command = command;
            Address = address;
            Count = count;
            Data = data;
            StartedAt = now;
            Error = Errno.None;
            IsDone = false;
            _looked = false;
        }

        public void Complete(Errno error)
        {
            Error = error;
            IsDone = true;
        }

        /// <summary>Whether this was asked before.</summary>
        public bool LookAgain()
        {
            bool before = _looked;
            _looked = true;
            return before;
        }
    }
}
