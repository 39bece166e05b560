using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// Takes messages off a socket, several with one system call where several are there. Used by one thread at a time. Descriptors belong
/// to the message that their bytes begin or go on with: the kernel ends a receive after the piece that carries some, so that is the last
/// message that has begun in what was received.
/// </summary>
internal sealed class MessageReceiver(SocketHandle socket) : IDisposable
{
    /// <summary>Room for some hundred maps or their answers. Larger bodies go where they belong without a stop here.</summary>
    public const int BufferSize = 16 * 1024;

    /// <summary>From here on a piece of a body is received straight to its place.</summary>
    public const int DirectSize = 2048;

    private readonly byte[] _buffer = GC.AllocateUninitializedArray<byte>(BufferSize);
    private readonly Queue<Arrival> _arrivals = new();
    private readonly Queue<FileDescriptor> _files = new();
    private int _start; // unread bytes are those from _start to _end
    private int _end;
    private long _origin; // place in the stream of the buffer's first byte
    private long _walked; // place of the first message that has not been looked at
    private long _lastBegun; // place of the last message that has begun
    private long _current; // place of the message whose header was read last
    private int _filesOfLast; // descriptors that came with the message at _lastBegun
    private bool _inMessage;

    /// <summary>Whether the end of the stream came in the middle of a message.</summary>
    public bool EndedInMessage { get; private set; }

    /// <summary>Whether a whole message, or one that never can be, is here already.</summary>
    public bool HasMessage
    {
        get
        {
            int available = _end - _start;
            if (available < MessageHeader.Size)
                return false;
            uint length = MemoryMarshal.Read<MessageHeader>(_buffer.AsSpan(_start)).Length;
            return length <= (uint)available || length > MessageHeader.Size + WireLimits.MaxBody;
        }
    }

    /// <summary>The header of the next message, if the whole message is here.</summary>
    public bool TryPeek(out MessageHeader header)
    {
        int available = _end - _start;
        header = available >= MessageHeader.Size ? MemoryMarshal.Read<MessageHeader>(_buffer.AsSpan(_start)) : default;
        return header.Length >= MessageHeader.Size && header.Length <= (uint)available;
    }

    /// <summary>
    /// Waits for the next header. The body before must have been read. False at the end of the stream.
    /// </summary>
    /// <param name="header">The header, unchecked.</param>
    /// <param name="files">Receives the descriptors that are here by now, the caller's; see <see cref="TakeLate"/>.</param>
    /// <param name="truncated">The message came with more descriptors than are taken.</param>
    /// <param name="ahead">
    /// Most bytes to take off the socket at once. Who expects a message with much data asks for what comes before that: the data then
    /// goes to its place without a stop here.
    /// </param>
    public bool ReadHeader(out MessageHeader header, List<FileDescriptor> files, out bool truncated, int ahead = BufferSize)
    {
        header = default;
        truncated = false;
        _inMessage = _end != _start;
        while (_end - _start < MessageHeader.Size)
        {
            if (!Fill(Math.Max(ahead, MessageHeader.Size)))
                return false;
            _inMessage = true;
        }
        _current = _origin + _start;
        header = MemoryMarshal.Read<MessageHeader>(_buffer.AsSpan(_start));
        _start += MessageHeader.Size;
        while (_arrivals.TryPeek(out Arrival arrival) && arrival.Place < _current)
        {
            _arrivals.Dequeue(); // late ones that nobody took
            for (int i = 0; i < arrival.Count; i++)
                _files.Dequeue().Dispose();
        }
        TakeLate(files, ref truncated);
        return true;
    }

    /// <summary>
    /// Takes the descriptors that have come since the header was read: a peer may send what it says in pieces and its descriptors with any of
    /// them. After the body was read, that is all of them.
    /// </summary>
    /// <param name="files">Receives them; the caller's.</param>
    /// <param name="truncated">Set when the message came with more descriptors than are taken, else left alone.</param>
    public void TakeLate(List<FileDescriptor> files, ref bool truncated)
    {
        while (_arrivals.TryPeek(out Arrival arrival) && arrival.Place == _current)
        {
            _arrivals.Dequeue();
            truncated |= arrival.Truncated;
            for (int i = 0; i < arrival.Count; i++)
                files.Add(_files.Dequeue());
        }
    }

    /// <summary>
    /// Takes what is on the socket by now, without waiting: with descriptors that is one message at a time. The end of the stream is left to who
    /// reads on.
    /// </summary>
    [SkipLocalsInit]
    public void TakeWhatIsThere()
    {
        Span<int> numbers = stackalloc int[WireLimits.MaxMessageFds];
        MakeRoom();
        if (_end < BufferSize && socket.TryReceive(_buffer.AsSpan(_end), numbers, out int received, out int count, out bool truncated) && received != 0)
        {
            Adopt(numbers[..count]);
            Filled(received, count, truncated);
        }
    }

    /// <summary>Fills <paramref name="destination"/> with the next bytes. False at the end of the stream.</summary>
    public bool Read(Span<byte> destination)
    {
        while (!destination.IsEmpty)
        {
            if (_start != _end)
            {
                int available = Math.Min(_end - _start, destination.Length);
                _buffer.AsSpan(_start, available).CopyTo(destination);
                _start += available;
                destination = destination[available..];
            }
            else if (destination.Length < DirectSize)
            {
                if (!Fill(BufferSize))
                    return false;
            }
            else
            {
                // The buffer is empty and the rest is this message's, so nothing is read past its end.
                int received = Receive(destination, all: true, out int count, out bool truncated);
                if (received == 0)
                    return End();
                _origin += received;
                Arrived(count, truncated);
                destination = destination[received..];
            }
        }
        return true;
    }

    /// <summary>Passes over bytes of a body. False at the end of the stream.</summary>
    [SkipLocalsInit]
    public bool Discard(int length)
    {
        Span<byte> piece = stackalloc byte[1024];
        while (length > 0)
        {
            int now = Math.Min(length, piece.Length);
            if (!Read(piece[..now]))
                return false;
            length -= now;
        }
        return true;
    }

    /// <summary>Closes descriptors whose message was never read. The socket is not this class's.</summary>
    public void Dispose()
    {
        while (_files.TryDequeue(out FileDescriptor? file))
            file.Dispose();
        _arrivals.Clear();
    }

    private bool Fill(int most)
    {
        MakeRoom();
        int received = Receive(_buffer.AsSpan(_end, Math.Min(most, BufferSize - _end)), all: false, out int count, out bool truncated);
        if (received == 0)
            return End();
        Filled(received, count, truncated);
        return true;
    }

    private void MakeRoom()
    {
        if (_start == _end)
        {
            _origin += _start;
            _start = _end = 0;
        }
        else if (_end == BufferSize)
        {
            _origin += _start;
            _buffer.AsSpan(_start, _end - _start).CopyTo(_buffer);
            _end -= _start;
            _start = 0;
        }
    }

    private void Filled(int received, int count, bool truncated)
    {
        _end += received;
        Walk();
        Arrived(count, truncated);
    }

    /// <summary>Receives; descriptors go to the end of <see cref="_files"/>.</summary>
    [SkipLocalsInit]
    private int Receive(Span<byte> destination, bool all, out int count, out bool truncated)
    {
        Span<int> numbers = stackalloc int[WireLimits.MaxMessageFds];
        int received = socket.Receive(destination, numbers, out count, out truncated, all);
        Adopt(numbers[..count]);
        return received;
    }

    private void Adopt(ReadOnlySpan<int> numbers)
    {
        foreach (int number in numbers)
            _files.Enqueue(FileDescriptor.Adopt(number));
    }

    /// <summary>Notes whose the descriptors are that came last. Pieces of one message bring no more than one message may.</summary>
    private void Arrived(int count, bool truncated)
    {
        if (count == 0 && !truncated)
            return;
        if (_filesOfLast > WireLimits.MaxMessageFds - count)
        {
            // They are the last of the queue, which turns once round to lose them.
            for (int i = _files.Count; i > 0; i--)
            {
                FileDescriptor file = _files.Dequeue();
                if (i > count)
                    _files.Enqueue(file);
                else
                    file.Dispose();
            }
            count = 0;
            truncated = true;
        }
        _filesOfLast += count;
        _arrivals.Enqueue(new Arrival(_lastBegun, count, truncated));
    }

    /// <summary>Finds where the last message begins.</summary>
    private void Walk()
    {
        long end = _origin + _end;
        while (_walked < end)
        {
            if (_lastBegun != _walked)
                _filesOfLast = 0;
            _lastBegun = _walked;
            if (end - _walked < MessageHeader.Size)
                return; // looked at again when the rest of its header is here
            uint length = MemoryMarshal.Read<MessageHeader>(_buffer.AsSpan((int)(_walked - _origin))).Length;
            _walked += Math.Max(length, MessageHeader.Size);
        }
    }

    private bool End()
    {
        EndedInMessage = _inMessage;
        return false;
    }

    /// <summary>Descriptors that came with the message at a place in the stream.</summary>
    private readonly record struct Arrival(long Place, int Count, bool Truncated);
}
