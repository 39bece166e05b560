using System.Buffers.Binary;
using System.Diagnostics;
using System.Numerics;
using System.Runtime.InteropServices;
using Godwit.Memory;

namespace Godwit.Migration;

/// <summary>
/// Writes one direction of a migration stream: gives each frame its number and checksums and collects small frames into large writes.
/// Any thread may call; frames do not mix.
/// </summary>
/// <remarks>
/// Frames are built in one native buffer that stays in the processor's cache: a page is read from guest memory once, checksummed on its way
/// into the buffer, and the kernel copies it from there. Sending straight from guest memory would save that copy, but then the checksum
/// could not be of what was sent: the guest writes meanwhile.
/// </remarks>
public sealed unsafe class FrameWriter : IDisposable
{
    // Written out when this much has gathered. Above it a system call costs nothing beside the copy; much more would leave the L2 cache.
    private const int FlushAt = 256 << 10;
    private const int Capacity = FlushAt + StreamFormat.HeaderSize + StreamFormat.MaxPayload;

    private readonly Lock _gate = new();
    private readonly Stream _stream;
    private byte* _buffer;
    private int _used;
    private string? _broken; // why nothing can be written any more
    private ulong _sequence;
    private long _bytes;
    private double _sentBytes; // recent ones and the time they took
    private double _sentSeconds;

    /// <summary>Writes to <paramref name="stream"/>, which stays the caller's.</summary>
    public FrameWriter(Stream stream)
    {
        _stream = stream;
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

    /// <summary>Writes one Pages frame of <paramref name="run"/>, whose contents start at <paramref name="source"/> and may be changing.</summary>
    /// <remarks>The caller vouches that the run's pages are readable from <paramref name="source"/>.</remarks>
    internal void WritePages(in PageRun run, byte* source)
    {
        ArgumentOutOfRangeException.ThrowIfGreaterThan(run.Count, (ulong)StreamFormat.MaxPagesPerFrame);
        int bytes = (int)run.Count * RamPage.Size;
        lock (_gate)
        {
            Span<byte> frame = Reserve(StreamFormat.HeaderSize + PageRun.Size + bytes);
            Span<byte> head = frame.Slice(StreamFormat.HeaderSize, PageRun.Size);
            run.Write(head);
            var sum = new StreamChecksum();
            sum.Append(head);
            // SAFETY: Reserve made room for the pages behind the head; the source is the caller's word.
            sum.AppendCopy(source, _buffer + _used - bytes, bytes);
            Number(frame, FrameType.Pages, PageRun.Size + bytes, sum.Finish(default));
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
        Number(frame, type, length, StreamChecksum.Of(payload));
        FlushIfFull();
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
        if (_used >= FlushAt)
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
            // SAFETY: the first _used bytes of the buffer are written.
            _stream.Write(new ReadOnlySpan<byte>(_buffer, _used));
        }
        catch (Exception e)
        {
            // Part of a frame may be out; nothing that came after would be understood.
            _broken = e.Message;
            throw;
        }

        const double Memory = 32 << 20;
        double fade = Math.Pow(0.5, _used / Memory);
        _sentBytes = (_sentBytes * fade) + _used;
        _sentSeconds = (_sentSeconds * fade) + Stopwatch.GetElapsedTime(began).TotalSeconds;
        _used = 0;
    }
}
