using System.Net.Security;
using System.Net.Sockets;
using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.Migration;

/// <summary>
/// One connection between source and destination. One thread reads and one writes at a time; <see cref="Abort"/> may come from any other
/// and makes both return at once. In plain text until <see cref="Secure"/>.
/// </summary>
internal sealed unsafe class MigrationChannel : Stream, IGatheringStream
{
    // Asked for; the kernel gives what net.core.{r,w}mem_max allows.
    private const int SocketBuffer = 4 << 20;

    // A write is handed over in pieces so that progress of a slow link shows.
    private const int WritePiece = 256 << 10;

    private readonly Socket _socket;
    private readonly IChannelPeer? _peer;
    private readonly FilePassage? _files;
    private readonly TimeProvider _clock;
    private long _lastRead;
    private long _lastWrite;
    private long _writing; // when the write under way began, or 0
    private string? _abortReason;
    private SslStream? _secure;
    private int _firstByte = -1; // of what has been read, or -1

    /// <summary>Takes over a connected socket, and what stands at its other end if that ends with it.</summary>
    /// <param name="socket">The socket.</param>
    /// <param name="clock">For times since something happened.</param>
    /// <param name="peer">What stands at the other end.</param>
    /// <param name="files">Takes descriptors that come over the socket; without, the kernel drops them.</param>
    internal MigrationChannel(Socket socket, TimeProvider clock, IChannelPeer? peer = null, FilePassage? files = null)
    {
        _socket = socket;
        _files = files;
        _peer = peer;
        _clock = clock;
        _lastRead = _lastWrite = clock.GetTimestamp();
        socket.SendBufferSize = SocketBuffer;
        socket.ReceiveBufferSize = SocketBuffer;
        if (socket.ProtocolType == ProtocolType.Tcp)
            socket.NoDelay = true;
    }

    /// <summary>Why it was aborted, or null.</summary>
    internal string? AbortReason => Volatile.Read(ref _abortReason);

    /// <summary>What is known of how the other end went away, as the end of a sentence, or nothing.</summary>
    internal string EndNote => _peer?.EndNote ?? "";

    /// <summary>The first byte that was ever read, or null.</summary>
    internal byte? FirstByte => _firstByte < 0 ? null : (byte)_firstByte;

    /// <inheritdoc/>
    public bool CanGather => _secure is null && _files is null;

    /// <summary>Descriptors beside the bytes; null where none can come.</summary>
    internal FilePassage? Files => _files;

    /// <summary>Whether it speaks TLS.</summary>
    internal bool IsSecure => _secure is not null;

    /// <summary>How long nothing has arrived.</summary>
    internal TimeSpan QuietFor => _clock.GetElapsedTime(Volatile.Read(ref _lastRead));

    /// <summary>How long nothing has been sent.</summary>
    internal TimeSpan IdleFor => _clock.GetElapsedTime(Volatile.Read(ref _lastWrite));

    /// <summary>How long the write under way has made no progress; 0 when none is.</summary>
    internal TimeSpan BlockedFor => Volatile.Read(ref _writing) is var began && began == 0 ? TimeSpan.Zero : _clock.GetElapsedTime(began);

    public override bool CanRead => true;

    public override bool CanWrite => true;

    public override bool CanSeek => false;

    public override long Length => throw new NotSupportedException();

    public override long Position { get => throw new NotSupportedException(); set => throw new NotSupportedException(); }

    /// <summary>Ends both directions now; a read or write under way fails with <paramref name="reason"/>. The first reason stays.</summary>
    internal void Abort(string reason)
    {
        Interlocked.CompareExchange(ref _abortReason, reason, null);
        Close(_socket);
    }

    /// <summary>From now on everything goes through TLS. Before anything else is read or written, on the thread that will do both.</summary>
    /// <param name="authenticate">Does the handshake; what it throws is thrown.</param>
    internal void Secure(Action<SslStream> authenticate)
    {
        var secure = new SslStream(new RawStream(this), leaveInnerStreamOpen: true);
        try
        {
            authenticate(secure);
        }
        catch
        {
            secure.Dispose();
            throw;
        }

        _secure = secure;
    }

    /// <summary>Aborts when the timer that is returned has not been disposed of within the time of a handshake.</summary>
    internal ITimer StartDeadline(TimeProvider clock, string what) => clock.CreateTimer(
        state => Abort($"{what} within {TlsHandshake.Deadline.TotalSeconds} s"), null, TlsHandshake.Deadline, Timeout.InfiniteTimeSpan);

    /// <summary>Waits for the first byte and leaves it where it is; null at the end of the stream.</summary>
    internal byte? Peek()
    {
        Span<byte> first = stackalloc byte[1];
        try
        {
            return _socket.Receive(first, SocketFlags.Peek) == 0 ? null : first[0];
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            throw Failure("reading", e);
        }
    }

    /// <summary>From now on a write that takes longer fails.</summary>
    internal void LimitWrites(TimeSpan atMost)
    {
        try
        {
            _socket.SendTimeout = (int)atMost.TotalMilliseconds;
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            throw Failure("closing", e);
        }
    }

    /// <summary>Tells the peer that nothing more comes.</summary>
    internal void FinishWriting()
    {
        try
        {
            _socket.Shutdown(SocketShutdown.Send);
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            throw Failure("closing", e);
        }
    }

    /// <summary>Tells the peer that nothing more comes, and reads and forgets what it still sends until it closes or the time is over.</summary>
    /// <remarks>
    /// Closing a TCP connection with unread data resets it, and a reset overtakes what was sent last: the peer would not learn why.
    /// The time is the kernel's, not the injected clock's: it only bounds a courtesy.
    /// </remarks>
    internal void FinishAndDrain(TimeSpan atMost)
    {
        try
        {
            _socket.Shutdown(SocketShutdown.Send);
            _socket.ReceiveTimeout = (int)atMost.TotalMilliseconds;
            byte[] waste = GC.AllocateUninitializedArray<byte>(64 << 10);
            long began = Environment.TickCount64;
            while (Environment.TickCount64 - began < atMost.TotalMilliseconds && _socket.Receive(waste) > 0)
            {
            }
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // The peer has gone already, which is all that was waited for.
        }
    }

    public override int Read(Span<byte> buffer)
    {
        if (_secure is not { } secure)
            return ReadRaw(buffer);
        try
        {
            int read = secure.Read(buffer);
            return read > 0 || AbortReason is not { } reason ? read : throw new IOException(reason);
        }
        catch (Exception e) when (e is IOException or ObjectDisposedException)
        {
            throw Failure("reading", e.GetBaseException());
        }
    }

    public override void Write(ReadOnlySpan<byte> buffer)
    {
        if (_secure is not { } secure)
        {
            WriteRaw(buffer);
            return;
        }

        try
        {
            secure.Write(buffer);
        }
        catch (Exception e) when (e is IOException or ObjectDisposedException)
        {
            throw Failure("writing", e.GetBaseException());
        }
    }

    /// <inheritdoc/>
    public void Write(ReadOnlySpan<socket.iovec> pieces)
    {
        // Sent in parts, so that progress of a slow link shows.
        const int PartPieces = 128;
        socket.iovec* part = stackalloc socket.iovec[PartPieces];
        nuint done = 0; // of the first piece
        try
        {
            while (!pieces.IsEmpty)
            {
                Volatile.Write(ref _writing, Math.Max(1, _clock.GetTimestamp()));
                int count = 0;
                nuint bytes = 0;
                for (; count < Math.Min(pieces.Length, PartPieces) && bytes < WritePiece; count++)
                {
                    nuint skip = count == 0 ? done : 0;
                    // SAFETY: within the piece, whose memory is the caller's word.
                    part[count].iov_base = (byte*)pieces[count].iov_base + skip;
                    part[count].iov_len = Math.Min(pieces[count].iov_len - skip, WritePiece - bytes);
                    bytes += part[count].iov_len;
                }

                nuint sent = Send(part, count);
                for (; !pieces.IsEmpty && sent >= pieces[0].iov_len - done; pieces = pieces[1..])
                    (sent, done) = (sent - (pieces[0].iov_len - done), 0);
                done += sent;
                Volatile.Write(ref _lastWrite, _clock.GetTimestamp());
            }
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException or LinuxException)
        {
            throw Failure("writing", e);
        }
        finally
        {
            Volatile.Write(ref _writing, 0);
        }
    }

    private nuint Send(socket.iovec* pieces, int count)
    {
        // 0 for no limit. The kernel's own (SO_SNDTIMEO) ends the call as well, with EAGAIN, and counts; a socket that was inherited may be one that never waits.
        TimeSpan limit = TimeSpan.FromMilliseconds(_socket.SendTimeout);
        long began = _clock.GetTimestamp();
        for (; ; )
        {
            // SAFETY: the pieces are readable, by the caller's word, until the call returns.
            nint sent = socket.sendmsg(_socket.SafeHandle, pieces, count, socket.MSG_NOSIGNAL);
            if (sent >= 0)
                return (nuint)sent;
            var error = (Errno)Marshal.GetLastPInvokeError();
            if (error == Errno.EINTR)
                continue;
            if (error != Errno.EAGAIN)
                throw new LinuxException("sendmsg", null, error);
            TimeSpan left = limit - _clock.GetElapsedTime(began);
            bool inTime = limit == TimeSpan.Zero
                ? _socket.Poll(Timeout.InfiniteTimeSpan, SelectMode.SelectWrite)
                : left >= TimeSpan.Zero && _socket.Poll(left, SelectMode.SelectWrite);
            if (!inTime)
                throw new SocketException((int)SocketError.TimedOut);
        }
    }

    private int ReadRaw(Span<byte> buffer)
    {
        int read;
        try
        {
            read = _files is null ? _socket.Receive(buffer, SocketFlags.None) : _files.Receive(_socket, buffer);
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException or LinuxException)
        {
            throw Failure("reading", e);
        }

        if (read == 0 && AbortReason is { } reason)
            throw new IOException(reason);
        if (_firstByte < 0 && read > 0)
            _firstByte = buffer[0];
        Volatile.Write(ref _lastRead, _clock.GetTimestamp());
        return read;
    }

    private void WriteRaw(ReadOnlySpan<byte> buffer)
    {
        try
        {
            while (!buffer.IsEmpty)
            {
                Volatile.Write(ref _writing, Math.Max(1, _clock.GetTimestamp()));
                ReadOnlySpan<byte> piece = buffer[..Math.Min(buffer.Length, WritePiece)];
                int written = _files is null ? _socket.Send(piece, SocketFlags.None) : _files.Send(_socket, piece);
                buffer = buffer[written..];
                Volatile.Write(ref _lastWrite, _clock.GetTimestamp());
            }
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException or LinuxException)
        {
            throw Failure("writing", e);
        }
        finally
        {
            Volatile.Write(ref _writing, 0);
        }
    }

    public override int Read(byte[] buffer, int offset, int count) => Read(buffer.AsSpan(offset, count));

    public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));

    public override void Flush()
    {
    }

    public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

    public override void SetLength(long value) => throw new NotSupportedException();

    /// <summary>Shuts down first: threads blocked in the socket then return whatever kind of socket it is.</summary>
    internal static void Close(Socket socket)
    {
        try
        {
            socket.Shutdown(SocketShutdown.Both);
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // Not connected any more, or closed by another thread: closing it is what is wanted.
        }

        socket.Dispose();
    }

    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            Close(_socket);
            _secure?.Dispose();
            _peer?.Dispose();
            _files?.Dispose();
        }

        base.Dispose(disposing);
    }

    private IOException Failure(string what, Exception e) =>
        AbortReason is { } reason ? new IOException(reason, e) : new IOException($"The connection broke while {what}: {e.Message}{EndNote}", e);

    /// <summary>The socket below TLS.</summary>
    private sealed class RawStream(MigrationChannel channel) : Stream
    {
        public override bool CanRead => true;

        public override bool CanWrite => true;

        public override bool CanSeek => false;

        public override long Length => throw new NotSupportedException();

        public override long Position { get => throw new NotSupportedException(); set => throw new NotSupportedException(); }

        public override int Read(Span<byte> buffer) => channel.ReadRaw(buffer);

        public override void Write(ReadOnlySpan<byte> buffer) => channel.WriteRaw(buffer);

        public override int Read(byte[] buffer, int offset, int count) => Read(buffer.AsSpan(offset, count));

        public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));

        public override void Flush()
        {
        }

        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

        public override void SetLength(long value) => throw new NotSupportedException();
    }
}
