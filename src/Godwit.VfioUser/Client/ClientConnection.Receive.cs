using System.Diagnostics;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <content>
/// Receiving. A thread that waits for a reply receives itself while nobody else does, so a request costs no hand-over between threads;
/// a thread in the background receives for everybody else, and what the device sends unasked. To keep it from being woken by every
/// reply, it rests for a moment after somebody else has received.
/// </content>
internal sealed unsafe partial class ClientConnection
{
    /// <summary>How long the background thread leaves the socket alone after a waiting thread had it: what comes unasked may wait as long.</summary>
    private static readonly TimeSpan Rest = TimeSpan.FromMilliseconds(1);

    /// <summary>
    /// Requests under way at which the background thread receives even so: their answers, in small pieces, fill a socket at about 200,
    /// and then the device stands still.
    /// </summary>
    private const int WakeReceiverAt = 96;

    private readonly object _receiving = new();
    private readonly List<FileDescriptor> _files = []; // of the message in hand
    private bool _isReceiving; // guarded by _receiving; whoever set it uses _receiver
    private bool _hasEnded; // guarded by _receiving; nobody receives any more
    private long _restUntil; // guarded by _receiving; in ticks of Stopwatch
    private volatile bool _hasDeviceCommands;

    /// <summary>Receives until <paramref name="slot"/> is complete, unless somebody else receives.</summary>
    private bool TryLead(RequestSlot slot)
    {
        if (!TryBeginReceiving())
            return false;
        int ahead = slot.DataCapacity >= MessageReceiver.DirectSize ? MessageHeader.Size + slot.HeadSize : MessageReceiver.BufferSize;
        while (!slot.IsDone || _receiver.HasMessage)
        {
            if (!ReceiveMessage(ahead))
                break; // the slot is complete: lost
        }
        EndReceiving(othersWait: Volatile.Read(ref _inFlight) > 1);
        return true;
    }

    /// <summary>Receives until all of a generation of queued requests are answered, unless somebody else receives.</summary>
    private void TryLead(int generation)
    {
        if (_queued.IsAnswered(generation) || !TryBeginReceiving())
            return;
        while (!_queued.IsAnswered(generation) || _receiver.HasMessage)
        {
            if (!ReceiveMessage())
                break;
        }
        EndReceiving(othersWait: Volatile.Read(ref _inFlight) > 0);
    }

    private bool TryBeginReceiving()
    {
        lock (_receiving)
        {
            if (_isReceiving || _hasEnded)
                return false;
            _isReceiving = true;
            return true;
        }
    }

    private void EndReceiving(bool othersWait)
    {
        lock (_receiving)
        {
            _isReceiving = false;
            if (othersWait || _hasDeviceCommands || _hasEnded)
            {
                _restUntil = 0;
                Monitor.Pulse(_receiving);
            }
            else
            {
                _restUntil = Stopwatch.GetTimestamp() + Rest.Ticks * (Stopwatch.Frequency / TimeSpan.TicksPerSecond);
            }
        }
    }

    private void WakeReceiver()
    {
        lock (_receiving)
        {
            _restUntil = 0;
            Monitor.Pulse(_receiving);
        }
    }

    private void ReceiveInBackground()
    {
        while (true)
        {
            lock (_receiving)
            {
                while (!_hasEnded && MustRest())
                    Monitor.Wait(_receiving, Rest);
                if (_hasEnded)
                    return;
            }
            AwaitReadable();
            lock (_receiving)
            {
                if (_hasEnded || MustRest())
                    continue; // somebody who waits has it, or had it a moment ago
                _isReceiving = true;
            }
            while (ReceiveMessage() && _receiver.HasMessage)
            {
            }
            EndReceiving(othersWait: true);
        }
    }

    /// <summary>Whether the background thread leaves the socket alone. Under the lock.</summary>
    private bool MustRest() => _isReceiving || Stopwatch.GetTimestamp() < _restUntil;

    /// <summary>Waits until something is there to receive, the end of the stream included.</summary>
    private void AwaitReadable()
    {
        // SAFETY: one entry in this frame; the socket is disposed after this thread has ended.
        var entry = new pollfd { fd = _socket.Number, events = poll.POLLIN };
        poll.wait(&entry, 1, -1); // when interrupted, the receive waits instead
    }

    /// <summary>Receives and handles one message; false when the connection has ended and everybody has been told.</summary>
    private bool ReceiveMessage(int ahead = MessageReceiver.BufferSize)
    {
        bool alive = false;
        try
        {
            alive = HandleMessage(ahead);
        }
        catch (LinuxException e)
        {
            Fail($"receiving failed: {e.Message}");
        }
        foreach (FileDescriptor file in _files)
            file.Dispose(); // nobody asked for it
        _files.Clear();
        if (!alive)
            Finish();
        return alive;
    }

    private bool HandleMessage(int ahead)
    {
        if (!_receiver.ReadHeader(out MessageHeader header, _files, out bool truncated, ahead))
            return Ended();
        if (truncated)
            return TooManyFiles(header);
        if (header.Length is < MessageHeader.Size or > MessageHeader.Size + WireLimits.MaxBody)
            return Violation($"a message of {header.Length} bytes came; the limits are {MessageHeader.Size} and {MessageHeader.Size + WireLimits.MaxBody}");
        int length = (int)header.Length - MessageHeader.Size;
        return header.IsReply ? ReceiveReply(header, length)
            : header.IsCommand ? ReceiveCommand(header, length)
            : Violation($"a message of type {header.Flags & HeaderFlags.TypeMask} came");
    }

    /// <summary>Nobody will receive any more: completes every slot.</summary>
    private void Finish()
    {
        Fault fault = Volatile.Read(ref _fault)!;
        lock (_receiving)
        {
            _hasEnded = true;
            Monitor.Pulse(_receiving);
        }
        lock (_slotsGate)
        {
            _closed = true;
            Monitor.PulseAll(_slotsGate);
        }
        foreach (RequestSlot? slot in _slots)
        {
            if (slot is { IsPending: true })
                Complete(slot, Errno.None, 0, lost: true);
        }
        if (Volatile.Read(ref _disposed) == 0)
            _lost.TrySetResult(fault.Reason);
    }

    private bool ReceiveReply(MessageHeader header, int length)
    {
        RequestSlot? slot = _slots[header.Id & (RequestSlot.Count - 1)];
        if (slot is not { IsPending: true } || slot.Id != header.Id)
            return Violation($"a reply to {header.Command.Name()} with unknown id {header.Id} came");
        if (slot.Command != header.Command)
            return Violation($"{slot.Command.Name()} was answered with {header.Command.Name()}");

        Errno error = header.ReplyErrno;
        if (error != Errno.None)
        {
            // Some servers send a body along; nobody wants it.
            if (!_receiver.Discard(length))
                return Ended();
        }
        else
        {
            int head = Math.Min(length, slot.HeadSize);
            if (length - head > slot.DataCapacity)
                return Violation($"the reply to {header.Command.Name()} has {length} bytes, {slot.HeadSize + slot.DataCapacity} at most were asked for");
            // SAFETY: the slot is pending, so its memory is valid for DataCapacity bytes, checked above.
            if (!_receiver.Read(slot.Head[..head]) || !_receiver.Read(new Span<byte>(slot.Data, length - head)))
                return Ended();
            bool truncated = false;
            _receiver.TakeLate(_files, ref truncated);
            if (truncated)
                return TooManyFiles(header);
            if (slot.Files is { } wanted)
            {
                wanted.AddRange(_files);
                _files.Clear();
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
        if (!_receiver.Read(job.Body))
        {
            _dma.Discard(job);
            return Ended();
        }
        _hasDeviceCommands = true;
        _dma.Enqueue(job);
        return true;
    }

    private bool TooManyFiles(MessageHeader header) =>
        Violation($"{header.Command.Name()} came with more than {WireLimits.MaxMessageFds} descriptors");

    private bool Ended()
    {
        Fail(_receiver.EndedInMessage ? "the device closed the connection in the middle of a message" : "the device closed the connection");
        return false;
    }

    private bool Violation(string reason)
    {
        Fail(reason, protocol: true);
        return false;
    }
}
