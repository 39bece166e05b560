using System.Buffers;

namespace Godwit.Migration;

/// <summary>A page by block and place within it.</summary>
/// <param name="Block">Index of the block in the machine's order.</param>
/// <param name="Page">Page within the block.</param>
public readonly record struct PagePlace(int Block, ulong Page);

/// <summary>How the destination's pages compare with the source's checksums.</summary>
/// <param name="Compared">Pages compared.</param>
/// <param name="Differing">Pages that differ.</param>
/// <param name="First">The first of those, at most <see cref="StreamFormat.MaxDifferencesListed"/>.</param>
public sealed record VerifyResultMessage(ulong Compared, ulong Differing, IReadOnlyList<PagePlace> First)
{
    internal const int FixedSize = 20;

    /// <summary>Writes it.</summary>
    public void Write(IBufferWriter<byte> writer)
    {
        writer.PutUInt64(Compared);
        writer.PutUInt64(Differing);
        writer.PutUInt32((uint)First.Count);
        foreach (PagePlace place in First)
        {
            writer.PutUInt64((uint)place.Block);
            writer.PutUInt64(place.Page);
        }
    }

    /// <summary>Reads it.</summary>
    /// <exception cref="MigrationStreamException">A field cannot be.</exception>
    public static VerifyResultMessage Read(in FrameHeader header, ReadOnlySpan<byte> payload)
    {
        var reader = new PayloadReader(header, payload);
        ulong compared = reader.ReadUInt64("compared");
        ulong differing = reader.ReadUInt64("differing", compared);
        uint count = reader.ReadUInt32("listed", StreamFormat.MaxDifferencesListed);
        var first = new List<PagePlace>();
        for (uint i = 0; i < count; i++)
            first.Add(new PagePlace((int)reader.ReadUInt64("block", int.MaxValue), reader.ReadUInt64("page")));
        reader.End();
        return new VerifyResultMessage(compared, differing, first);
    }
}
