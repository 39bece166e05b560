using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// The socket of a server. One thread executes commands; usually it is also the one that receives, so a command costs no hand-over
/// between threads. A thread that waits for the answer to a DMA message receives in its stead while nobody else does, and queues the
/// commands that come meanwhile. So an answer is always received, whoever is busy with whatever.
/// </summary>
/// <param name="socket">The socket; not this class's.</param>
/// <param name="dmaTimeout">For the answer to a DMA message.</param>
/// <param name="clock">By which that is.</param>
/// <param name="end">Ends the client's connection with all its sockets and says why; null when there is only this one.</param>
internal sealed unsafe partial class MessagePump(SocketHandle socket, TimeSpan dmaTimeout, TimeProvider clock, Action<string>? end) : IDisposable
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
    private int _heldBytes;
    private bool _sendsAhead; // the client sent a map with descriptors and, before it had the answer, something else
    private long _queuedBytes;
    private int _queuedFiles;
    private int _waiting; // threads in Monitor.Wait, so that nobody is woken in vain
    private bool _receiving; // somebody is in ReceiveMessage
    private bool _abandoned;
    private string? _closed;

    /// <summary>Why the connection has ended, or null.</summary>
    public string? Closed => Volatile.Read(ref _closed);

    /// <summary>Whether the client has gone although nobody has noticed by receiving yet.</summary>
    public bool HasPeerHungUp()
    {
        bool added = false;
        try
        {
            socket.DangerousAddRef(ref added);
            var entry = new pollfd { fd = socket.Number, events = PollRdHup };
            // SAFETY: one entry, and the descriptor is held open.
            return poll.wait(&entry, 1, 0) > 0;
        }
        finally
        {
            if (added)
                socket.DangerousRelease();
        }
    }

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
                Wait();
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
    /// <param name="withFiles">The command in hand came with descriptors, so its receive has ended behind it, whatever else there was.</param>
    public void SendHeldUnlessMore(bool withFiles)
    {
        if (_heldBytes == 0 || HasMappingAhead(look: _sendsAhead))
            return;
        SendHeld();
        _sendsAhead = withFiles && HasMappingAhead(look: true); // who waits for each answer does not wait for the look
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
    public void Dispose()
    {
        _receiver.Dispose();
        _watch?.Dispose();
        _overdue?.Dispose();
    }

    /// <summary>Whether the next command is a map or unmap that was received already or, if asked to <paramref name="look"/>, can be.</summary>
    private bool HasMappingAhead(bool look)
    {
        lock (_gate)
        {
            if (_receiving || _commands.Count != 0)
                return false;
            if (_receiver.HasMessage || !look)
                return IsMappingAhead();
            _receiving = true;
        }
        try
        {
            _receiver.TakeWhatIsThere();
            return IsMappingAhead(); // whoever receives it from here on, this thread finds it
        }
        catch (LinuxException e)
        {
            Close($"receiving failed: {e.Message}");
            return false;
        }
        finally
        {
            StopReceiving();
        }
    }

    /// <summary>One that is answered, and takes along what is held: a reply that the peer made up, say, is not.</summary>
    private bool IsMappingAhead() =>
        _receiver.TryPeek(out MessageHeader next) && next.IsCommand && next.WantsReply && next.Command is (Command.DmaMap or Command.DmaUnmap);

    private void StopReceiving()
    {
        lock (_gate)
        {
            _receiving = false;
            _leader = null;
            if (_waiting != 0)
                Monitor.PulseAll(_gate);
        }
    }

    private void Wait()
    {
        _waiting++;
        Monitor.Wait(_gate);
        _waiting--;
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

    private bool Ended()
    {
        Close(_receiver.EndedInMessage ? "the client closed the connection in the middle of a message" : "the client closed the connection");
        return false;
    }
}
