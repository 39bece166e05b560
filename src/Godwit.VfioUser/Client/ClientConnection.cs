using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// The socket of a client: any thread sends, one thread receives, replies find their request by id. The connection ends once, for one
/// reason; then the receive thread completes every slot, so nobody waits for ever and nobody's memory is written afterwards.
/// </summary>
internal sealed unsafe class ClientConnection : IDisposable
{
    private readonly SocketHandle _socket;
    private readonly VfioUserClientOptions _options;
    private readonly DmaMessageWorker _dma;
    private readonly QueuedOperations _queued = new();
    private readonly Lock _sending = new();
    private readonly object _slotsGate = new();
    private readonly RequestSlot[] _slots = new RequestSlot[RequestSlot.Count];
    private readonly Stack<int> _freeSlots = new(RequestSlot.Count);
    private readonly TaskCompletionSource<string> _lost = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Thread _receiver;
    private readonly ITimer _watchdog;
    private Fault? _fault;
    private bool _closed; // guarded by _slotsGate: no slot is handed out any more
    private int _disposed;

    public ClientConnection(SocketHandle socket, string path, VfioUserClientOptions options, IDmaMessageHandler dma)
    {
        _socket = socket;
        _options = options;
        Path = path;
        socket.SetSendTimeout(options.ReplyTimeout);
        for (int i = RequestSlot.Count - 1; i >= 0; i--)
        {
            _slots[i] = new RequestSlot(i);
            _freeSlots.Push(i);
        }
        _dma = new DmaMessageWorker(this, dma);
        _receiver = new Thread(Receive) { IsBackground = true, Name = $"vfio-user {System.IO.Path.GetFileName(path)}" };
        _receiver.Start();
        // One look every quarter of the time-out instead of a timer for each request.
        TimeSpan period = options.ReplyTimeout / 4;
        _watchdog = options.Clock.CreateTimer(static state => ((ClientConnection)state!).CheckTimeouts(), this, period, period);
    }

    /// <summary>Where it is connected to.</summary>
    public string Path { get; }

    /// <summary>Completes when the connection has ended other than by <see cref="Dispose"/>.</summary>
    public Task<string> Lost => _lost.Task;

    /// <summary>Sends a request and waits for its reply.</summary>
    /// <param name="command">The command.</param>
    /// <param name="name">How to call it in errors.</param>
    /// <param name="body">Its fixed part, at most <see cref="RequestSlot.HeadCapacity"/> bytes.</param>
    /// <param name="data">What follows.</param>
    /// <param name="files">Descriptors to send along.</param>
    /// <param name="replyHead">Receives the fixed part of the reply.</param>
    /// <param name="replyData">Receives what follows.</param>
    /// <param name="file">A descriptor that came with the reply; the caller's.</param>
    /// <returns>Bytes of the reply's body, at most the room given.</returns>
    /// <exception cref="VfioUserRemoteException">The peer refused.</exception>
    /// <exception cref="VfioUserDisconnectedException">The connection has gone.</exception>
    /// <exception cref="VfioUserProtocolException">The peer broke the protocol, now or before.</exception>
    public int Call(
        Command command,
        string name,
        ReadOnlySpan<byte> body,
        ReadOnlySpan<byte> data,
        ReadOnlySpan<FileDescriptor> files,
        Span<byte> replyHead,
        Span<byte> replyData,
        out FileDescriptor? file)
    {
        // SAFETY: replyData stays pinned until the slot is complete, and only the receive thread completes it, after its last write.
        fixed (byte* pointer = replyData)
        {
            RequestSlot slot = Acquire();
            slot.Prepare(command, replyHead.Length, pointer, replyData.Length, _options.Clock.GetTimestamp());
            SendRequest(command, slot.Id, wantsReply: true, body, data, files);
            slot.Wait();

            Errno error = slot.Error;
            bool lost = slot.Lost;
            int length = slot.ReplyLength;
            file = slot.File;
            slot.Head[..Math.Min(replyHead.Length, length)].CopyTo(replyHead);
            Return(slot);
            if (lost)
                ThrowLost();
            if (error != Errno.None)
            {
                file?.Dispose();
                throw new VfioUserRemoteException(name, error);
            }
            return length;
        }
    }

    /// <summary>Sends a request without wanting a reply.</summary>
    public void Post(Command command, ReadOnlySpan<byte> body, ReadOnlySpan<byte> data)
    {
        if (Volatile.Read(ref _fault) is not null)
            ThrowLost();
        SendRequest(command, id: ushort.MaxValue, wantsReply: false, body, data, []);
    }

    /// <summary>Sends a map or unmap whose answer <see cref="Flush"/> collects. Waits only when too many are under way.</summary>
    public void Queue(Command command, DmaRange range, ReadOnlySpan<byte> body, ReadOnlySpan<FileDescriptor> files, int replyHead)
    {
        RequestSlot slot = Acquire();
        (int generation, int operation) = _queued.Begin();
        slot.PrepareQueued(command, replyHead, range, generation, operation, _options.Clock.GetTimestamp());
        SendRequest(command, slot.Id, wantsReply: true, body, [], files);
    }

    /// <summary>Waits for the answers to everything queued before this call and tells what was refused.</summary>
    public IReadOnlyList<DmaOperationFailure> Flush()
    {
        if (!_queued.Flush(out IReadOnlyList<DmaOperationFailure> failures))
            ThrowLost();
        return failures;
    }

    /// <summary>Sends one whole message. A failure ends the connection.</summary>
    public void Send(ReadOnlySpan<byte> first, ReadOnlySpan<byte> second, ReadOnlySpan<FileDescriptor> files)
    {
        try
        {
            lock (_sending)
                _socket.Send(first, second, files);
        }
        catch (LinuxException e)
        {
            Fail(e.Errno == Errno.EAGAIN ? $"the device took no message for {_options.ReplyTimeout}" : $"sending failed: {e.Message}");
        }
        catch (ObjectDisposedException)
        {
            // A descriptor of the message or the socket was disposed meanwhile. Part of the message may be out: the stream is unusable.
            Fail("a descriptor was disposed while a message with it was sent");
        }
    }

    /// <summary>Ends the connection because a reply was not as it must be, and throws.</summary>
    [DoesNotReturn]
    public void Violated(string what)
    {
        Fail(what, protocol: true);
        throw new VfioUserProtocolException($"vfio-user {Path}: {what}");
    }

    /// <summary>Ends the connection for <paramref name="reason"/>, unless it has ended already.</summary>
    public void Fail(string reason, bool protocol = false)
    {
        if (Interlocked.CompareExchange(ref _fault, new Fault(reason, protocol), null) is not null)
            return;
        try
        {
            _socket.Shutdown(); // wakes the receive thread, which tells everybody
        }
        catch (ObjectDisposedException)
        {
            // Dispose has come first; the receive thread has ended.
        }
    }

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
            return;
        _watchdog.Dispose();
        Fail("this client was disposed");
        _dma.Stop();
        if (Thread.CurrentThread != _receiver)
            _receiver.Join();
        _dma.Join();
        _socket.Dispose();
    }

    private RequestSlot Acquire()
    {
        lock (_slotsGate)
        {
            while (true)
            {
                if (_closed)
                    ThrowLost();
                if (_freeSlots.TryPop(out int index))
                    return _slots[index];
                Monitor.Wait(_slotsGate);
            }
        }
    }

    private void Return(RequestSlot slot)
    {
        slot.Release();
        lock (_slotsGate)
        {
            _freeSlots.Push(slot.Index);
            if (_freeSlots.Count == 1)
                Monitor.PulseAll(_slotsGate);
        }
    }

    [SkipLocalsInit]
    private void SendRequest(Command command, ushort id, bool wantsReply, ReadOnlySpan<byte> body, ReadOnlySpan<byte> data, ReadOnlySpan<FileDescriptor> files)
    {
        Span<byte> first = stackalloc byte[MessageHeader.Size + RequestSlot.HeadCapacity];
        Wire.Put(first, new MessageHeader
        {
            Id = id,
            Command = command,
            Length = (uint)(MessageHeader.Size + body.Length + data.Length),
            Flags = HeaderFlags.Command | (wantsReply ? 0 : HeaderFlags.NoReply),
        });
        body.CopyTo(first[MessageHeader.Size..]);
        Send(first[..(MessageHeader.Size + body.Length)], data, files);
    }

    [DoesNotReturn]
    private void ThrowLost()
    {
        Fault fault = Volatile.Read(ref _fault) ?? new Fault("the connection has ended", false);
        throw fault.Protocol
            ? new VfioUserProtocolException($"vfio-user {Path}: {fault.Reason}")
            : new VfioUserDisconnectedException($"vfio-user {Path}: {fault.Reason}");
    }

    private void CheckTimeouts()
    {
        foreach (RequestSlot slot in _slots)
        {
            if (slot.IsPending && _options.Clock.GetElapsedTime(slot.StartedAt) > _options.ReplyTimeout)
            {
                Fail($"no reply to {slot.Command.Name()} within {_options.ReplyTimeout}");
                return;
            }
        }
    }

    private void Receive()
    {
        try
        {
            while (ReceiveMessage())
            {
            }
        }
        catch (LinuxException e)
        {
            Fail($"receiving failed: {e.Message}");
        }
        Fault fault = Volatile.Read(ref _fault)!;
        lock (_slotsGate)
        {
            _closed = true;
            Monitor.PulseAll(_slotsGate);
        }
        foreach (RequestSlot slot in _slots)
        {
            if (slot.IsPending)
                Complete(slot, Errno.None, 0, lost: true);
        }
        _dma.Stop();
        if (Volatile.Read(ref _disposed) == 0)
            _lost.TrySetResult(fault.Reason);
    }

    /// <summary>Receives and handles one message; false when the connection has ended, its reason being set.</summary>
    [SkipLocalsInit]
    private bool ReceiveMessage()
    {
        MessageHeader header;
        Span<byte> headerBytes = stackalloc byte[MessageHeader.Size];
        Span<int> numbers = stackalloc int[WireLimits.MaxMessageFds];
        int received = _socket.Receive(headerBytes, numbers, out int fileCount, out bool truncated);
        FileDescriptor? file = AdoptFirst(numbers[..fileCount]);
        try
        {
            if (received == 0)
                return Ended("the device closed the connection");
            if (received < headerBytes.Length && !ReceiveAll(headerBytes[received..]))
                return false;
            header = MemoryMarshal.Read<MessageHeader>(headerBytes);
            if (truncated)
                return Violation($"{header.Command.Name()} came with more than {WireLimits.MaxMessageFds} descriptors");
            if (header.Length is < MessageHeader.Size or > MessageHeader.Size + WireLimits.MaxBody)
                return Violation($"a message of {header.Length} bytes came; the limits are {MessageHeader.Size} and {MessageHeader.Size + WireLimits.MaxBody}");
            int length = (int)header.Length - MessageHeader.Size;
            return header.IsReply ? ReceiveReply(header, length, ref file)
                : header.IsCommand ? ReceiveCommand(header, length)
                : Violation($"a message of type {header.Flags & HeaderFlags.TypeMask} came");
        }
        finally
        {
            file?.Dispose();
        }
    }

    private bool ReceiveReply(MessageHeader header, int length, ref FileDescriptor? file)
    {
        RequestSlot slot = _slots[header.Id & (RequestSlot.Count - 1)];
        if (!slot.IsPending || slot.Id != header.Id)
            return Violation($"a reply to {header.Command.Name()} with unknown id {header.Id} came");
        if (slot.Command != header.Command)
            return Violation($"{slot.Command.Name()} was answered with {header.Command.Name()}");

        Errno error = header.ReplyErrno;
        if (error != Errno.None)
        {
            // Some servers send a body along; nobody wants it.
            if (!Discard(length))
                return false;
        }
        else
        {
            int head = Math.Min(length, slot.HeadSize);
            if (length - head > slot.DataCapacity)
                return Violation($"the reply to {header.Command.Name()} has {length} bytes, {slot.HeadSize + slot.DataCapacity} at most were asked for");
            // SAFETY: the slot is pending, so its memory is valid for DataCapacity bytes, checked above.
            if (!ReceiveAll(slot.Head[..head]) || !ReceiveAll(new Span<byte>(slot.Data, length - head)))
                return false;
            if (header.Command == Command.DeviceGetRegionInfo)
            {
                slot.File = file;
                file = null;
            }
        }
        Complete(slot, error, error == Errno.None ? length : 0, lost: false);
        return true;
    }

    private void Complete(RequestSlot slot, Errno error, int length, bool lost)
    {
        if (!slot.IsQueued)
        {
            slot.Complete(error, length, lost);
            return;
        }
        DmaOperationFailure? failure = error == Errno.None
            ? null
            : new DmaOperationFailure(slot.QueuedOperation, slot.Command.Name(), slot.QueuedRange, error);
        int generation = slot.QueuedGeneration;
        Return(slot);
        _queued.End(generation, failure, lost);
    }

    private bool ReceiveCommand(MessageHeader header, int length)
    {
        DmaJob job = _dma.Prepare(header, length);
        if (!ReceiveAll(job.Body))
        {
            _dma.Discard(job);
            return false;
        }
        _dma.Enqueue(job);
        return true;
    }

    private bool ReceiveAll(Span<byte> destination)
    {
        while (!destination.IsEmpty)
        {
            int received = _socket.Receive(destination);
            if (received == 0)
                return Ended("the device closed the connection in the middle of a message");
            destination = destination[received..];
        }
        return true;
    }

    private bool Discard(int length)
    {
        Span<byte> buffer = stackalloc byte[1024];
        while (length > 0)
        {
            int now = Math.Min(length, buffer.Length);
            if (!ReceiveAll(buffer[..now]))
                return false;
            length -= now;
        }
        return true;
    }

    private bool Ended(string reason)
    {
        Fail(reason);
        return false;
    }

    private bool Violation(string reason)
    {
        Fail(reason, protocol: true);
        return false;
    }

    /// <summary>Owns every descriptor that came; keeps the first, closes the rest: no reply has two.</summary>
    private static FileDescriptor? AdoptFirst(ReadOnlySpan<int> numbers)
    {
        FileDescriptor? first = null;
        foreach (int number in numbers)
        {
            var file = FileDescriptor.Adopt(number);
            if (first is null)
                first = file;
            else
                file.Dispose();
        }
        return first;
    }

    private sealed record Fault(string Reason, bool Protocol);
}
