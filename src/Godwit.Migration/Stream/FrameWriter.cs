using System.Buffers.Binary;
using System.Diagnostics;
using System.Numerics;
using System.Runtime.InteropServices;
using Godwit.Interop.Linux;
using Godwit.Memory;

namespace Godwit.Migration;

/// <summary>
/// Writes one direction of a migration stream: gives each frame its number and checksums and collects small frames into large writes.
/// Any thread may call; frames do not mix.
/// </summary>
/// <remarks>
/// Frames are built in one native buffer that stays in the processor's cache. Of pages only the head is: their contents go to the socket
/// straight from guest memory, checksummed just before, while they are in the cache. Where the stream cannot gather (TLS) they are copied into
/// the buffer, checksummed on their way.
/// </remarks>
public sealed unsafe class FrameWriter : IDisposable
{
    // Written out when this much has gathered. Above it a system call costs nothing beside the copy; much more would leave the L2 cache.
    private const int FlushAt = 256 << 10;
    private const int Capacity = FlushAt + StreamFormat.HeaderSize + StreamFormat.MaxPayload;

    // Pieces of one write: 64 pages in frames of their own, and what is between them. Far below the kernel's IOV_MAX (1024).
    private const int MaxPieces = 130;

    private readonly Lock _gate = new();
    private readonly Stream _stream;
    private readonly IGatheringStream? _gathering;
    private readonly socket.iovec[] _pieces = new socket.iovec[MaxPieces];
    private byte* _buffer;
    private int _used;
    private int _pieceCount; // they go out before the buffer's rest
    private int _inPieces; // bytes of the buffer that are in them
    private int _elsewhere; // bytes in them that are not in the buffer
    private string? _broken; // why nothing can be written any more
    private ulong _sequence;
    private long _bytes;
    private double _sentBytes; // recent ones and the time they took
    private double _sentSeconds;

    /// <summary>Writes to <paramref name="stream"/>, which stays the caller's.</summary>
    public FrameWriter(Stream stream)
    {
        _stream = stream;
        _gathering = stream as IGatheringStream;
        // SAFETY: Capacity bytes, freed once in Dispose; every use is below Capacity.
        _buffer = (byte*)NativeMemory.AlignedAlloc(Capacity, 4096);
    }

    /// <summary>Frames written.</summary>
    public ulong Frames
    {
        get
        {
            lock (_gate)
                return _sequence;
        }
    }

    /// <summary>Bytes written, headers and what is still gathered included.</summary>
    public long Bytes => Volatile.Read(ref _bytes);

    /// <summary>Whether anything was written.</summary>
    internal bool Begun => Bytes > 0;

    /// <summary>What the stream takes, by the time that recent writes took; infinite before there were any. The writing thread's.</summary>
    internal double BytesPerSecond => _sentSeconds > 0 ? _sentBytes / _sentSeconds : double.PositiveInfinity;

    /// <summary>Writes what must come first in each direction.</summary>
    public void WritePreface()
    {
        lock (_gate)
        {
            Span<byte> preface = Reserve(StreamFormat.PrefaceSize);
            BinaryPrimitives.WriteUInt64LittleEndian(preface, StreamFormat.Magic);
            BinaryPrimitives.WriteUInt32LittleEndian(preface[8..], StreamFormat.Version);
            BinaryPrimitives.WriteUInt32LittleEndian(preface[12..], PrefaceCrc(preface));
        }
    }

    /// <summary>Writes a frame; it goes out with a later one or with <see cref="Flush"/>.</summary>
    /// <exception cref="ArgumentOutOfRangeException">The payload does not have the size that such a frame has.</exception>
    /// <exception cref="IOException">The stream is gone; every later call fails too.</exception>
    public void Write(FrameType type, ReadOnlySpan<byte> payload)
    {
        lock (_gate)
            WriteCore(type, payload, default);
    }

    /// <summary>Writes a frame whose payload is in two pieces.</summary>
    /// <inheritdoc cref="Write(FrameType, ReadOnlySpan{byte})"/>
    public void Write(FrameType type, ReadOnlySpan<byte> head, ReadOnlySpan<byte> body)
    {
        lock (_gate)
            WriteCore(type, head, body);
    }

    /// <summary>Hands everything gathered to the stream.</summary>
    /// <exception cref="IOException">The stream is gone.</exception>
    public void Flush()
    {
        lock (_gate)
            FlushCore();
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        lock (_gate)
        {
            _broken ??= "it has been closed";
            // SAFETY: set to null, so it is freed once.
            NativeMemory.AlignedFree(_buffer);
            _buffer = null;
        }
    }

    /// <summary>
    /// Sends <paramref name="type"/> now unless another thread is writing (then there is no need to) or nothing was written yet. For keep-alives.
    /// </summary>
    internal bool TryWriteNow(FrameType type)
    {
        if (!_gate.TryEnter())
            return false;
        try
        {
            // Nothing may come before the preface: on a busy machine the timer can be there first.
            if (_broken is not null || !Begun)
                return false;
            WriteCore(type, default, default);
            FlushCore();
            return true;
        }
        finally
        {
            _gate.Exit();
        }
    }

    /// <summary>
    /// Writes one Pages frame of <paramref name="run"/>, whose contents start at <paramref name="source"/> and may be changing: they are read
    /// once and are what their checksums say.
    /// </summary>
    /// <remarks>The caller vouches that the run's pages are readable from <paramref name="source"/>.</remarks>
    internal void WritePages(in PageRun run, byte* source)
    {
        int bytes = PageBytes(run);
        lock (_gate)
        {
            int headBytes = StreamFormat.HeaderSize + PageRun.PagesHead((int)run.Count);
            Span<byte> frame = Reserve(headBytes + bytes);
            // SAFETY: Reserve made room for the pages behind the head; the source is the caller's word.
            FillHead(run, frame[..headBytes], source, copyTo: _buffer + _used - bytes);
            FlushIfFull();
        }
    }

    /// <summary>
    /// As <see cref="WritePages"/>, but straight from <paramref name="source"/> where the stream can: a page that changes meanwhile is not
    /// what its checksum says.
    /// </summary>
    /// <remarks>The caller vouches that the run's pages are readable from <paramref name="source"/> until they are flushed.</remarks>
    internal void SendPages(in PageRun run, byte* source)
    {
        if (_gathering is not { CanGather: true })
        {
            WritePages(run, source);
            return;
        }

        int bytes = PageBytes(run);
        lock (_gate)
        {
            FillHead(run, Reserve(StreamFormat.HeaderSize + PageRun.PagesHead((int)run.Count)), source, copyTo: null);
            EndPiece();
            _pieces[_pieceCount++] = new socket.iovec { iov_base = source, iov_len = (nuint)bytes };
            _elsewhere += bytes;
            Volatile.Write(ref _bytes, _bytes + bytes);
            FlushIfFull();
        }
    }

    internal static uint PrefaceCrc(ReadOnlySpan<byte> preface) => ~BitOperations.Crc32C(
        BitOperations.Crc32C(uint.MaxValue, BinaryPrimitives.ReadUInt64LittleEndian(preface)),
        BinaryPrimitives.ReadUInt32LittleEndian(preface[8..]));

    private void WriteCore(FrameType type, ReadOnlySpan<byte> head, ReadOnlySpan<byte> body)
    {
        int length = checked(head.Length + body.Length);
        if (!StreamFormat.TryGetPayloadLimits(type, out int smallest, out int largest) || length < smallest || length > largest)
            throw new ArgumentOutOfRangeException(nameof(body), length, $"A {type} frame has {smallest} to {largest} bytes");
        Span<byte> frame = Reserve(StreamFormat.HeaderSize + length);
        Span<byte> payload = frame[StreamFormat.HeaderSize..];
        head.CopyTo(payload);
        body.CopyTo(payload[head.Length..]);
        Number(frame, type, length, StreamChecksum.Of(payload[..StreamFormat.CheckedBytes(type, length)]));
        FlushIfFull();
    }

    private static int PageBytes(in PageRun run)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(run.Count, (ulong)StreamFormat.MaxPagesPerFrame);
        return (int)run.Count * RamPage.Size;
    }

    /// <summary>Fills a Pages frame up to its pages, whose checksums are those of what is copied, if it is.</summary>
    private void FillHead(in PageRun run, Span<byte> frame, byte* source, byte* copyTo)
    {
        Span<byte> head = frame[StreamFormat.HeaderSize..];
        run.Write(head);
        int count = (int)run.Count;
        Span<byte> sums = head[PageRun.Size..];
        for (int page = 0; page < count; page++)
        {
            var sum = new StreamChecksum();
            long offset = (long)page * RamPage.Size;
            // SAFETY: a page of the run, and of the room for it, both the caller's word.
            if (copyTo is null)
                sum.Append(source + offset, RamPage.Size);
            else
                sum.AppendCopy(source + offset, copyTo + offset, RamPage.Size);
            BinaryPrimitives.WriteUInt32LittleEndian(sums[(page * sizeof(uint))..], sum.Finish(default));
        }

        sums[(count * sizeof(uint))..].Clear();
        Number(frame, FrameType.Pages, head.Length + (count * RamPage.Size), StreamChecksum.Of(head));
    }

    private void Number(Span<byte> frame, FrameType type, int length, uint checksum) =>
        new FrameHeader(type, length, _sequence++, checksum).Write(frame);

    private Span<byte> Reserve(int bytes)
    {
        ThrowIfBroken();
        Debug.Assert(_used + bytes <= Capacity, "a frame fits behind what is not yet full");
        // SAFETY: below FlushAt are in use between calls, and no frame is longer than the rest.
        var result = new Span<byte>(_buffer + _used, bytes);
        _used += bytes;
        Volatile.Write(ref _bytes, _bytes + bytes);
        return result;
    }

    private void ThrowIfBroken()
    {
        if (_broken is { } why)
            throw new IOException($"Nothing can be written to the migration stream any more: {why}");
    }

    private void FlushIfFull()
    {
        // The next frame of pages takes two pieces, and the rest of the buffer one.
        if (_used + _elsewhere >= FlushAt || _pieceCount > MaxPieces - 3)
            FlushCore();
    }

    private void FlushCore()
    {
        ThrowIfBroken();
        if (_used == 0)
            return;
        long began = Stopwatch.GetTimestamp();
        try
        {
            if (_pieceCount == 0)
            {
                // SAFETY: the first _used bytes of the buffer are written.
                _stream.Write(new ReadOnlySpan<byte>(_buffer, _used));
            }
            else
            {
                EndPiece();
                _gathering!.Write(_pieces.AsSpan(0, _pieceCount));
            }
        }
        catch (Exception e)
        {
            // Part of a frame may be out; nothing that came after would be understood.
            _broken = e.Message;
            throw;
        }

        const double Memory = 32 << 20;
        int sent = _used + _elsewhere;
        double fade = Math.Pow(0.5, sent / Memory);
        _sentBytes = (_sentBytes * fade) + sent;
        _sentSeconds = (_sentSeconds * fade) + Stopwatch.GetElapsedTime(began).TotalSeconds;
        (_used, _pieceCount, _inPieces, _elsewhere) = (0, 0, 0, 0);
    }

    /// <summary>Makes a piece of what is in the buffer and in none yet.</summary>
    private void EndPiece()
    {
        if (_used == _inPieces)
            return;
        // SAFETY: within what has been written to the buffer.
        _pieces[_pieceCount++] = new socket.iovec { iov_base = _buffer + _inPieces, iov_len = (nuint)(_used - _inPieces) };
        _inPieces = _used;
    }
}
