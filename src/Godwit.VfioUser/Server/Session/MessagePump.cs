using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// The socket of a server. One thread executes commands; usually it is also the one that receives, so a command costs no hand-over
/// between threads. A thread that waits for the answer to a DMA message receives in its stead while nobody else does, and queues the
/// commands that come meanwhile. So an answer is always received, whoever is busy with whatever.
/// </summary>
internal sealed unsafe class MessagePump(SocketHandle socket, TimeSpan dmaTimeout, TimeProvider clock) : IDisposable
{
    /// <summary>Commands that may pile up while the command thread is busy and another one receives. A client that sends more is cut off.</summary>
    private const int MaxQueued = 65536;

    /// <summary>Their bytes, likewise.</summary>
    private const long MaxQueuedBytes = 64 * 1024 * 1024;

    /// <summary>Their descriptors, likewise: a process that has none left dies.</summary>
    private const int MaxQueuedFiles = 256;

    /// <summary>Messages kept for reuse.</summary>
    private const int MaxSpare = 8;

    /// <summary>Answers held back at most, in bytes.</summary>
    private const int MaxHeld = 8192;

    private readonly MessageReceiver _receiver = new(socket); // used by whoever has set _receiving
    private readonly byte[] _held = new byte[MaxHeld]; // used by the command thread
    private readonly object _gate = new();
    private readonly Lock _sending = new();
    private readonly Queue<IncomingMessage> _commands = new();
    private readonly Stack<IncomingMessage> _spare = new();
    private readonly Dictionary<ushort, DmaRequest> _requests = [];
    private readonly Stack<DmaRequest> _spareRequests = new();
    private int _heldBytes;
    private long _queuedBytes;
    private int _queuedFiles;
    private ushort _nextId;
    private int _waiting; // threads in Monitor.Wait, so that nobody is woken in vain
    private bool _receiving; // somebody is in ReceiveMessage
    private bool _abandoned;
    private string? _closed;

    /// <summary>Why the connection has ended, or null.</summary>
    public string? Closed => Volatile.Read(ref _closed);

    /// <summary>Whether the client has gone although nobody has noticed by receiving yet.</summary>
    public bool HasPeerHungUp() => Poll(PollRdHup, TimeSpan.Zero);

    /// <summary>POLLRDHUP (poll(2)).</summary>
    private const short PollRdHup = 0x2000;

    /// <summary>The next command in order; null when the connection has ended. The message must be given back.</summary>
    public IncomingMessage? Next()
    {
        lock (_gate)
        {
            while (true)
            {
                if (_commands.TryDequeue(out IncomingMessage? queued))
                {
                    _queuedBytes -= queued.Length;
                    _queuedFiles -= queued.FileCount;
                    return queued;
                }
                if (_closed is not null)
                    return null;
                if (!_receiving)
                {
                    _receiving = true;
                    break;
                }
                Wait(Timeout.InfiniteTimeSpan);
            }
        }
        IncomingMessage? message = null;
        try
        {
            while (Closed is null && (message = ReceiveMessage()) is null)
            {
            }
        }
        finally
        {
            StopReceiving();
        }
        return message;
    }

    /// <summary>Gives a message back.</summary>
    public void Return(IncomingMessage message)
    {
        message.Clear();
        lock (_gate)
        {
            if (_spare.Count < MaxSpare)
                _spare.Push(message);
        }
    }

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

    /// <summary>Sends a whole message, <paramref name="first"/> beginning with the header.</summary>
    public void Send(ReadOnlySpan<byte> first, ReadOnlySpan<byte> second, ReadOnlySpan<FileDescriptor> files)
    {
        try
        {
            lock (_sending)
                socket.Send(first, second, files);
        }
        catch (LinuxException e)
        {
            Close(e.Errno == Errno.EAGAIN ? "the client has left its socket full for too long" : $"sending failed: {e.Message}");
        }
    }

    /// <summary>
    /// Sends an answer to the command in hand. When <paramref name="mayWait"/> and further maps or unmaps are here already, it is held
    /// back to go out with theirs: a client that sends many at once is woken once. For the command thread.
    /// </summary>
    public void Answer(ReadOnlySpan<byte> message, ReadOnlySpan<FileDescriptor> files, bool mayWait)
    {
        if (mayWait && message.Length <= MaxHeld - _heldBytes)
        {
            message.CopyTo(_held.AsSpan(_heldBytes));
            _heldBytes += message.Length;
        }
        else
        {
            SendHeld();
            Send(message, [], files);
        }
    }

    /// <summary>Sends what is held back unless the next command is a map or unmap that is here already. For the command thread.</summary>
    public void SendHeldUnlessMore()
    {
        if (_heldBytes != 0 && !HasMappingAhead())
            SendHeld();
    }

    /// <summary>Sends what is held back. For the command thread, before it does anything that takes long.</summary>
    public void SendHeld()
    {
        if (_heldBytes == 0)
            return;
        Send(_held.AsSpan(0, _heldBytes), [], []);
        _heldBytes = 0;
    }

    /// <summary>Ends the connection, unless it has ended; everybody who waits is woken.</summary>
    public void Close(string reason)
    {
        lock (_gate)
        {
            if (_closed is not null)
                return;
            Volatile.Write(ref _closed, reason);
            // Requests that are being received into stay with their receiver, who fails at once as the socket is shut down.
            foreach (DmaRequest request in _requests.Values)
                request.Complete(Errno.ENOTCONN);
            _requests.Clear();
            Monitor.PulseAll(_gate);
        }
        socket.Shutdown();
    }

    /// <summary>Nobody will ask for commands any more: closes the descriptors of those that are left, and refuses those still to come.</summary>
    public void Abandon()
    {
        lock (_gate)
        {
            _abandoned = true;
            while (_commands.TryDequeue(out IncomingMessage? message))
                message.Clear();
        }
    }

    /// <summary>Closes what was received and never read; after everybody has stopped.</summary>
    public void Dispose() => _receiver.Dispose();

    private bool HasMappingAhead()
    {
        lock (_gate)
        {
            return !_receiving && _commands.Count == 0 && _receiver.TryPeek(out MessageHeader next)
                && next.Command is Command.DmaMap or Command.DmaUnmap;
        }
    }

    private Errno Request(Command command, ulong address, int count, byte* into, ReadOnlySpan<byte> data)
    {
        ushort id;
        DmaRequest? request;
        lock (_gate)
        {
            if (_closed is not null)
                return Errno.ENOTCONN;
            if (!_spareRequests.TryPop(out request))
                request = new DmaRequest();
            request.Prepare(command, address, count, into);
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
                Command = request.Command,
                Length = (uint)(sizeof(RequestMessage) + data.Length),
                Flags = HeaderFlags.Command,
            },
            Body = new DmaAccessBody { Address = request.Address, Count = (ulong)request.Count },
        };
        Send(MemoryMarshal.AsBytes(new ReadOnlySpan<RequestMessage>(in message)), data, []);
        Errno result = Await(id, request);
        lock (_gate)
        {
            if (_spareRequests.Count < MaxSpare)
                _spareRequests.Push(request); // done, so nobody else has it any more
        }
        return result;
    }

    private Errno Await(ushort id, DmaRequest request)
    {
        long start = clock.GetTimestamp();
        while (true)
        {
            lock (_gate)
            {
                while (!request.IsDone && (_receiving || _closed is not null))
                {
                    // A request that is claimed by the receiver cannot be left: its memory is being written.
                    TimeSpan left = dmaTimeout - clock.GetElapsedTime(start);
                    if (left <= TimeSpan.Zero && _requests.Remove(id))
                        return Errno.ETIMEDOUT;
                    Wait(left > TimeSpan.Zero ? left : Timeout.InfiniteTimeSpan);
                }
                if (request.IsDone)
                    return request.Error;
                _receiving = true;
            }
            try
            {
                ReceiveFor(id, request, start);
            }
            finally
            {
                StopReceiving();
            }
        }
    }

    /// <summary>Receives one message on behalf of a waiting request, or gives the request up when its time is over.</summary>
    private void ReceiveFor(ushort id, DmaRequest request, long start)
    {
        TimeSpan left = dmaTimeout - clock.GetElapsedTime(start);
        if (!_receiver.HasMessage && (left <= TimeSpan.Zero || !Poll(poll.POLLIN, left)))
        {
            lock (_gate)
            {
                if (_requests.Remove(id))
                    request.Complete(Errno.ETIMEDOUT);
            }
            return;
        }
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
            Close($"the client sent more than {MaxQueued} commands, {MaxQueuedBytes} bytes or {MaxQueuedFiles} descriptors instead of answering {request.Command.Name()}");
    }

    private void StopReceiving()
    {
        lock (_gate)
        {
            _receiving = false;
            if (_waiting != 0)
                Monitor.PulseAll(_gate);
        }
    }

    private void Wait(TimeSpan timeout)
    {
        _waiting++;
        Monitor.Wait(_gate, timeout);
        _waiting--;
    }

    private bool Poll(short events, TimeSpan timeout)
    {
        bool added = false;
        try
        {
            socket.DangerousAddRef(ref added);
            var entry = new pollfd { fd = socket.Number, events = events };
            // SAFETY: one entry, and the descriptor is held open.
            int result = poll.wait(&entry, 1, (int)Math.Min(timeout.TotalMilliseconds + 1, int.MaxValue));
            return result > 0;
        }
        finally
        {
            if (added)
                socket.DangerousRelease();
        }
    }

    /// <summary>Receives one message. A reply is completed here and null returned, as is when the connection has ended.</summary>
    private IncomingMessage? ReceiveMessage()
    {
        IncomingMessage message;
        lock (_gate)
        {
            if (!_spare.TryPop(out message!))
                message = new IncomingMessage();
        }
        bool command = false;
        try
        {
            command = ReceiveInto(message);
        }
        catch (LinuxException e)
        {
            Close($"receiving failed: {e.Message}");
        }
        if (command)
            return message;
        Return(message);
        return null;
    }

    private bool ReceiveInto(IncomingMessage message)
    {
        if (!_receiver.ReadHeader(out MessageHeader header, message.Files, out bool truncated))
            return Ended();
        message.Header = header;
        if (header.Length is < MessageHeader.Size or > MessageHeader.Size + WireLimits.MaxBody)
        {
            // Where the next message begins is unknown.
            if (header.IsCommand)
                Refuse(header, Errno.EINVAL);
            Close($"the client sent a message of {header.Length} bytes; the limits are {MessageHeader.Size} and {MessageHeader.Size + WireLimits.MaxBody}");
            return false;
        }
        int length = (int)header.Length - MessageHeader.Size;
        if (header.IsReply)
        {
            ReceiveReply(header, length);
            return false;
        }
        message.Prepare(length);
        if (!_receiver.Read(message.Body))
            return Ended();
        _receiver.TakeLate(message.Files, ref truncated);
        message.TooManyFiles = truncated;
        return true;
    }

    /// <summary>Answers a command with an error, unless it wants no answer. For the thread that received it.</summary>
    public void Refuse(MessageHeader command, Errno error)
    {
        if (!command.WantsReply)
            return;
        var reply = new MessageHeader
        {
            Id = command.Id,
            Command = command.Command,
            Length = MessageHeader.Size,
            Flags = HeaderFlags.Reply | HeaderFlags.Error,
            Error = (uint)error,
        };
        Send(MemoryMarshal.AsBytes(new ReadOnlySpan<MessageHeader>(in reply)), [], []);
    }

    private void ReceiveReply(MessageHeader header, int length)
    {
        DmaRequest? request;
        lock (_gate)
            _requests.Remove(header.Id, out request); // from here on only this thread completes it
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
                    request.Complete(error);
                    Monitor.PulseAll(_gate);
                }
            }
        }
    }

    private bool Ended()
    {
        Close(_receiver.EndedInMessage ? "the client closed the connection in the middle of a message" : "the client closed the connection");
        return false;
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
        public Command Command { get; private set; }

        public ulong Address { get; private set; }

        public int Count { get; private set; }

        public byte* Data { get; private set; }

        public Errno Error { get; private set; }

        public bool IsDone { get; private set; }

        public void Prepare(Command command, ulong address, int count, byte* data)
        {
            Command = command;
            Address = address;
            Count = count;
            Data = data;
            Error = Errno.None;
            IsDone = false;
        }

        public void Complete(Errno error)
        {
            Error = error;
            IsDone = true;
        }
    }
}
