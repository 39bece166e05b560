using System.Buffers.Binary;

namespace Godwit.Migration;

/// <summary>Consecutive pages of one RAM block: the first 32 bytes of Pages, ZeroPages, CompressedPages and PageChecksums frames.</summary>
/// <param name="Block">Index of the block in the machine's order.</param>
/// <param name="FirstPage">First page within the block.</param>
/// <param name="Count">Pages, at least 1.</param>
/// <remarks><code>
///  0       4       8            16           24          32
///  │ block │ zero  │ first page │ page count │ zero      │
/// </code></remarks>
public readonly record struct PageRun(int Block, ulong FirstPage, ulong Count)
{
    /// <summary>Bytes on the wire: a whole stripe of <see cref="StreamChecksum"/>, so that the pages after it are aligned to stripes.</summary>
    public const int Size = 32;

    /// <summary>Bytes before the contents of a Pages frame: the run, then a <see cref="StreamChecksum"/> of each page, then zeros to whole stripes.</summary>
    /// <param name="pages">Pages in the frame, 1 to <see cref="StreamFormat.MaxPagesPerFrame"/>.</param>
    public static int PagesHead(int pages) =>
        Size + (((pages * sizeof(uint)) + StreamChecksum.Stripe - 1) & ~(StreamChecksum.Stripe - 1));

    /// <summary>Pages in a Pages frame with that many bytes of payload.</summary>
    public static int PagesIn(int length) => (length - Size) / Memory.RamPage.Size; // what else is before them is less than a page

    /// <summary>Writes it.</summary>
    public void Write(Span<byte> destination)
    {
        BinaryPrimitives.WriteUInt64LittleEndian(destination, (uint)Block);
        BinaryPrimitives.WriteUInt64LittleEndian(destination[8..], FirstPage);
        BinaryPrimitives.WriteUInt64LittleEndian(destination[16..], Count);
        BinaryPrimitives.WriteUInt64LittleEndian(destination[24..], 0);
    }

    /// <summary>
    /// Reads it from the start of <paramref name="payload"/>. For frames with contents the count must fit the frame's length; whether
    /// the block exists and holds the pages is for the caller to check.
    /// </summary>
    /// <exception cref="MigrationStreamException">A field cannot be.</exception>
    public static PageRun Read(in FrameHeader header, ReadOnlySpan<byte> payload)
    {
        var reader = new PayloadReader(header, payload[..Size]);
        uint block = reader.ReadUInt32("block", int.MaxValue);
        reader.ReadZeros(4, "reserved");
        ulong first = reader.ReadUInt64("first page");
        ulong count = reader.ReadUInt64("page count");
        reader.ReadZeros(8, "reserved");
        if (count == 0)
            reader.Fail("page count", count, "at least 1");
        bool fits = header.Type switch
        {
            FrameType.Pages => count == (ulong)PagesIn(header.Length) && header.Length == PagesHead((int)count) + ((int)count * Memory.RamPage.Size),
            FrameType.PageChecksums => count <= StreamFormat.MaxChecksumsPerFrame && header.Length == Size + ((int)count * PageChecksum.Size),
            _ => true,
        };
        if (!fits)
            reader.Fail("page count", count, $"the frame's length of {header.Length} does not fit it");
        return new PageRun((int)block, first, count);
    }
}
