using System.Buffers.Binary;
using Godwit.Memory;

namespace Godwit.Migration;

/// <summary>
/// Reads one direction of a migration stream, checking every frame before its payload is believed. One thread at a time.
/// </summary>
/// <example>
/// <code>
/// reader.ReadPreface();
/// for (;;)
/// {
///     FrameHeader header = reader.ReadHeader();
///     ReadOnlySpan&lt;byte&gt; payload = reader.ReadPayload(header);
///     …
/// }
/// </code>
/// </example>
public sealed unsafe class FrameReader
{
    // What one read may take beyond the frame at hand. Small frames come in batches this way; of a large one at most this much is copied twice.
    private const int LookAhead = 16 << 10;

    private readonly Stream _stream;
    private readonly byte[] _ahead = GC.AllocateUninitializedArray<byte>(LookAhead);
    private readonly byte[] _pagesHead = GC.AllocateUninitializedArray<byte>(PageRun.PagesHead(StreamFormat.MaxPagesPerFrame));
    private byte[]? _payload;
    private int _start;
    private int _end;
    private ulong _sequence;
    private long _bytes;

    /// <summary>Reads from <paramref name="stream"/>, which stays the caller's.</summary>
    public FrameReader(Stream stream) => _stream = stream;

    /// <summary>Frames whose header has been read.</summary>
    public ulong Frames => _sequence;

    /// <summary>Bytes of the frames read.</summary>
    public long Bytes => Volatile.Read(ref _bytes);

    /// <summary>Reads what must come first in each direction.</summary>
    /// <exception cref="MigrationStreamException">The peer speaks something else, or another version.</exception>
    public void ReadPreface()
    {
        Span<byte> preface = stackalloc byte[StreamFormat.PrefaceSize];
        Read(preface, null, null, "preface");
        ulong magic = BinaryPrimitives.ReadUInt64LittleEndian(preface);
        if (magic != StreamFormat.Magic)
        {
            string limit = TlsHandshake.LooksLikeTls(preface[0])
                ? "the peer speaks TLS, and this side has no certificate for it"
                : $"a migration stream begins with 0x{StreamFormat.Magic:x16}";
            throw new MigrationStreamException(null, null, "magic", $"0x{magic:x16}", limit);
        }

        uint crc = BinaryPrimitives.ReadUInt32LittleEndian(preface[12..]);
        if (crc != FrameWriter.PrefaceCrc(preface))
            throw new MigrationStreamException(null, null, "CRC", FrameHeader.Hex(crc), $"its bytes give {FrameHeader.Hex(FrameWriter.PrefaceCrc(preface))}");
        uint version = BinaryPrimitives.ReadUInt32LittleEndian(preface[8..]);
        if (version != StreamFormat.Version)
            throw new MigrationStreamException(null, null, "version", $"{version}", $"this side speaks version {StreamFormat.Version}");
    }

    /// <summary>Reads the next frame's header. Its payload must be read before the next call.</summary>
    /// <exception cref="MigrationStreamException">The stream ends, or the frame is damaged, out of order or unknown.</exception>
    /// <exception cref="IOException">The stream is gone.</exception>
    public FrameHeader ReadHeader()
    {
        Span<byte> bytes = stackalloc byte[StreamFormat.HeaderSize];
        Read(bytes, _sequence, null, "header");
        FrameHeader header = FrameHeader.Read(bytes, _sequence);
        _sequence++;
        Volatile.Write(ref _bytes, _bytes + StreamFormat.HeaderSize + header.Length);
        return header;
    }

    /// <summary>Reads and checks the payload that belongs to <paramref name="header"/>. Valid until the next call.</summary>
    /// <remarks>The pages of a Pages frame are not compared with their checksums: a guest that runs may change them on their way.</remarks>
    /// <exception cref="MigrationStreamException">The stream ends, or the payload is damaged.</exception>
    /// <exception cref="IOException">The stream is gone.</exception>
    public ReadOnlySpan<byte> ReadPayload(in FrameHeader header)
    {
        // The size is this side's constant, not the peer's length.
        _payload ??= GC.AllocateUninitializedArray<byte>(StreamFormat.MaxPayload);
        Span<byte> payload = _payload.AsSpan(0, header.Length);
        Read(payload, header.Sequence, header.Type, "payload");
        Check(header, StreamChecksum.Of(payload[..StreamFormat.CheckedBytes(header.Type, payload.Length)]));
        return payload;
    }

    /// <summary>Reads and checks the head of a Pages frame; <see cref="ReadPages"/> must follow.</summary>
    internal PageRun ReadPagesHead(in FrameHeader header)
    {
        Span<byte> head = _pagesHead.AsSpan(0, StreamFormat.CheckedBytes(FrameType.Pages, header.Length));
        Read(head, header.Sequence, header.Type, "page run");
        Check(header, StreamChecksum.Of(head));
        return PageRun.Read(header, head);
    }

    /// <summary>Reads the contents of a Pages frame straight into place.</summary>
    /// <param name="header">The frame.</param>
    /// <param name="run">Its run, as <see cref="ReadPagesHead"/> returned it.</param>
    /// <param name="destination">The caller vouches that the run's pages there are writable and written by nobody else.</param>
    /// <param name="torn">Receives, bit by bit, the pages that are not what their checksums say.</param>
    /// <returns>Whether there are any.</returns>
    internal bool ReadPages(in FrameHeader header, in PageRun run, byte* destination, Span<ulong> torn)
    {
        int count = (int)run.Count;
        // SAFETY: the run's page count was compared with the frame's length; the destination is the caller's word.
        Read(new Span<byte>(destination, count * RamPage.Size), header.Sequence, header.Type, "pages");
        torn.Clear();
        bool any = false;
        ReadOnlySpan<byte> sums = _pagesHead.AsSpan(PageRun.Size);
        for (int page = 0; page < count; page++)
        {
            var sum = new StreamChecksum();
            // SAFETY: a page of those just read.
            sum.Append(destination + ((long)page * RamPage.Size), RamPage.Size);
            if (sum.Finish(default) == BinaryPrimitives.ReadUInt32LittleEndian(sums[(page * sizeof(uint))..]))
                continue;
            torn[page / 64] |= 1UL << (page % 64);
            any = true;
        }

        return any;
    }

    private static void Check(in FrameHeader header, uint checksum)
    {
        if (checksum != header.PayloadChecksum)
        {
            MigrationStreamException.Throw(header, "payload checksum", FrameHeader.Hex(header.PayloadChecksum),
                $"the payload's bytes give {FrameHeader.Hex(checksum)}");
        }
    }

    private void Read(Span<byte> destination, ulong? sequence, FrameType? type, string what)
    {
        int done = 0;
        while (done < destination.Length)
        {
            int buffered = _end - _start;
            if (buffered > 0)
            {
                int take = Math.Min(buffered, destination.Length - done);
                _ahead.AsSpan(_start, take).CopyTo(destination[done..]);
                _start += take;
                done += take;
                continue;
            }

            int read;
            if (destination.Length - done >= LookAhead)
            {
                read = _stream.Read(destination[done..]);
                done += read;
            }
            else
            {
                read = _stream.Read(_ahead);
                (_start, _end) = (0, read);
            }

            if (read == 0)
                throw MigrationStreamException.Truncated(sequence, type, what, done, destination.Length);
        }
    }
}
