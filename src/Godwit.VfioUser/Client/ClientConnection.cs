using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// The socket of a client: any thread sends, one at a time receives, replies find their request by id. The connection ends once, for
/// one reason; then whoever receives completes every slot, so nobody waits for ever and nobody's memory is written afterwards.
/// </summary>
internal sealed unsafe partial class ClientConnection : IMessageSender, IDisposable
{
    private readonly SocketHandle _socket;
    private readonly VfioUserClientOptions _options;
    private readonly DmaMessageWorker _dma;
    private readonly QueuedOperations _queued = new();
    private readonly Lock _sending = new();
    private readonly Lock _flushing = new();
    private readonly MessageReceiver _receiver;
    private readonly object _slotsGate = new();
    private readonly RequestSlot?[] _slots = new RequestSlot?[RequestSlot.Count]; // made when first used: most clients never have many under way
    private readonly Stack<int> _freeSlots = new(RequestSlot.Count);
    private readonly TaskCompletionSource<string> _lost = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private readonly Thread _background;
    private readonly AnswerTime _time;
    private readonly ITimer _watchdog;
    private Fault? _fault;
    private int _inFlight; // slots in use
    private bool _closed; // guarded by _slotsGate: no slot is handed out any more
    private int _disposed;

    public ClientConnection(SocketHandle socket, string path, VfioUserClientOptions options, DmaAnswers answers)
    {
        _socket = socket;
        _options = options;
        Path = path;
        socket.SetSendTimeout(options.ReplyTimeout);
        for (int i = RequestSlot.Count - 1; i >= 0; i--)
            _freeSlots.Push(i);
        _dma = new DmaMessageWorker(this, answers);
        _receiver = new MessageReceiver(socket);
        _background = new Thread(ReceiveInBackground) { IsBackground = true, Name = $"vfio-user {System.IO.Path.GetFileName(path)}" };
        // A look now and then instead of a timer for each request.
        _time = new AnswerTime(options.Clock, options.ReplyTimeout);
        _watchdog = options.Clock.CreateTimer(static state => ((ClientConnection)state!).CheckTimeouts(), this, _time.Period, _time.Period);
        _background.Start();
    }

    /// <summary>Where it is connected to.</summary>
    public string Path { get; }

    /// <summary>Looked at now and then, with the time-outs: null, or what the device does wrong beside the socket.</summary>
    public Func<string?>? Watch { get; set; }

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
    /// <param name="received">Takes descriptors that come with the reply; the caller's, whatever happens. Null wants none.</param>
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
        List<FileDescriptor>? received = null)
    {
        // SAFETY: replyData stays pinned until the slot is complete; only the receiver completes it, after its last write.
        fixed (byte* pointer = replyData)
        {
            TimeSpan now = _time.Now;
            RequestSlot slot;
            lock (_slotsGate)
            {
                slot = Acquire();
                slot.Prepare(command, replyHead.Length, pointer, replyData.Length, received, now);
            }
            SendRequest(command, slot.Id, wantsReply: true, body, data, files);
            if (!TryLead(slot))
                slot.Wait();

            Errno error = slot.Error;
            bool lost = slot.Lost;
            int length = slot.ReplyLength;
            slot.Head[..Math.Min(replyHead.Length, length)].CopyTo(replyHead);
            Return(slot);
            if (lost)
                ThrowLost();
            if (error != Errno.None)
                throw new VfioUserRemoteException(name, error);
            return length;
        }
    }

    /// <summary>Sends a request without wanting a reply.</summary>
    public void Post(Command command, ReadOnlySpan<byte> body, ReadOnlySpan<byte> data)
    {
        ThrowIfLost();
        SendRequest(command, id: ushort.MaxValue, wantsReply: false, body, data, []);
    }

    /// <summary>Sends a map or unmap whose answer <see cref="Flush"/> collects. Waits only when too many are under way.</summary>
    public void Queue(Command command, DmaRange range, ReadOnlySpan<byte> body, ReadOnlySpan<FileDescriptor> files, int replyHead)
    {
        TimeSpan now = _time.Now;
        RequestSlot slot;
        lock (_slotsGate)
        {
            slot = Acquire();
            (int generation, int operation) = _queued.Begin();
            slot.PrepareQueued(command, replyHead, range, generation, operation, now);
        }
        if (Volatile.Read(ref _inFlight) == WakeReceiverAt)
            WakeReceiver();
        SendRequest(command, slot.Id, wantsReply: true, body, [], files);
    }

    /// <summary>Counts a map or unmap as refused that the device is not asked for, in its place among those that are sent.</summary>
    public void QueueRefused(Command command, DmaRange range, Errno error)
    {
        ThrowIfLost();
        (int generation, int operation) = _queued.Begin();
        _queued.End(generation, new DmaOperationFailure(operation, command.Name(), range, error), lost: false);
    }

    /// <summary>Waits for the answers to everything queued before this call and tells what was refused.</summary>
    public IReadOnlyList<DmaOperationFailure> Flush()
    {
        IReadOnlyList<DmaOperationFailure> failures;
        bool alive;
        lock (_flushing)
        {
            int generation = _queued.Turn();
            TryLead(generation);
            alive = _queued.Await(generation, out failures);
        }
        if (!alive)
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

    /// <summary>Throws why the connection has ended, if it has.</summary>
    public void ThrowIfLost()
    {
        if (Volatile.Read(ref _fault) is not null)
            ThrowLost();
    }

    /// <summary>Throws why the connection has ended.</summary>
    [DoesNotReturn]
    public void ThrowLost()
    {
        Fault fault = Volatile.Read(ref _fault) ?? new Fault("the connection has ended", false);
        throw fault.Protocol
            ? new VfioUserProtocolException($"vfio-user {Path}: {fault.Reason}")
            : new VfioUserDisconnectedException($"vfio-user {Path}: {fault.Reason}");
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
        _dma.Stop(); // the receiver may wait for room there, behind a handler that waits for whom the receiver would wake
        try
        {
            _socket.Shutdown(); // wakes the receiver, which tells everybody
        }
        catch (ObjectDisposedException)
        {
            // Dispose has come first; nobody receives any more.
        }
    }

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
            return;
        _watchdog.Dispose();
        Fail("this client was disposed");
        if (Thread.CurrentThread != _background)
            _background.Join();
        _dma.Join();
        _receiver.Dispose();
        _socket.Dispose();
    }

    /// <summary>
    /// A free slot, waiting for one if need be. The caller holds <see cref="_slotsGate"/> until the slot is pending: who ends the connection closes the
    /// gate before looking for pending slots, and would find none in one that is taken and not yet pending.
    /// </summary>
    private RequestSlot Acquire()
    {
        while (true)
        {
            if (_closed)
                ThrowLost();
            if (_freeSlots.TryPop(out int index))
            {
                Volatile.Write(ref _inFlight, RequestSlot.Count - _freeSlots.Count);
                return _slots[index] ??= new RequestSlot(index);
            }
            Monitor.Wait(_slotsGate);
        }
    }

    private void Return(RequestSlot slot)
    {
        slot.Release();
        lock (_slotsGate)
        {
            _freeSlots.Push(slot.Index);
            Volatile.Write(ref _inFlight, RequestSlot.Count - _freeSlots.Count);
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

    private void CheckTimeouts()
    {
        if (Watch?.Invoke() is { } complaint)
            Fail(complaint, protocol: true);
        _time.Look();
        TimeSpan now = _time.Now;
        foreach (RequestSlot? slot in _slots)
        {
            if (slot is { IsPending: true } && now - slot.StartedAt > _options.ReplyTimeout)
            {
                Fail($"no reply to {slot.Command.Name()} within {_options.ReplyTimeout}");
                return;
            }
        }
    }

    private sealed record Fault(string Reason, bool Protocol);
}
