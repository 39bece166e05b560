using System.Buffers.Binary;
using Godwit.Memory;
using Godwit.Migration;

namespace Godwit.Fuzz.Tests;

/// <summary>
/// Frames of RAM whose headers and checksums are right, so that every damage gets as far as the pages: an input is a program of
/// type (1 byte), length of payload (2 bytes), payload.
/// </summary>
public sealed class MigrationFramesTarget : IFuzzTarget
{
    private const ulong FirstBlock = 512;
    private const ulong SecondBlock = 512;

    /// <inheritdoc/>
    public static string Name => "migration-frames";

    /// <inheritdoc/>
    public static IEnumerable<byte[]> Seeds()
    {
        yield return Frame(FrameType.Pages, Pages(0, 0, 1));
        yield return [.. Frame(FrameType.Pages, Pages(0, 510, 2)), .. Frame(FrameType.ZeroPages, Run(0, 0, FirstBlock)), .. Frame(FrameType.Pages, Pages(1, 511, 1))];
        yield return [.. Frame(FrameType.ZeroPages, Run(0, 0, FirstBlock)), .. Frame(FrameType.ZeroPages, Run(1, 0, SecondBlock))];
        yield return Frame(FrameType.CompressedPages, [.. Run(0, 3, 4), 1, 0, 0, 0, 0, 0, 0, 0, 0x1f, 0, 1, 0, 0xff, 0xff]);
        yield return Frame(FrameType.PageChecksums, [.. Run(1, 0, 2), .. new byte[32]]);
    }

    /// <inheritdoc/>
    public static void Run(ReadOnlySpan<byte> input)
    {
        using var ram = new GuestRam();
        ram.Add("main", FirstBlock * RamPage.Size);
        ram.Add("more", SecondBlock * RamPage.Size);
        var receiver = new RamReceiver(ram);
        receiver.BeginRound();
        var verification = new Verification(ram);
        using var codec = new PageCodec();
        using var stream = new MemoryStream(Written(input));
        var reader = new FrameReader(stream);
        reader.ReadPreface();
        while (reader.Bytes < stream.Length - StreamFormat.PrefaceSize)
        {
            FrameHeader header = reader.ReadHeader();
            try
            {
                Take(receiver, verification, codec, reader, header);
            }
            catch (MigrationStreamException refused)
            {
                Assert.NotEmpty(refused.Field);
                Assert.NotEmpty(refused.Limit);
                return; // as a destination does
            }
            catch (IOException)
            {
                return; // no such library here
            }

            Assert.True(receiver.Arrived <= ram.PageCount);
            Assert.True(receiver.Arrived <= receiver.Pages + receiver.ZeroPages);
        }
    }

    internal static byte[] Run(int block, ulong first, ulong count)
    {
        byte[] run = new byte[PageRun.Size];
        new PageRun(block, first, count).Write(run);
        return run;
    }

    /// <summary>A Pages frame's payload whose pages are what their checksums say.</summary>
    internal static byte[] Pages(int block, ulong first, int count)
    {
        int head = PageRun.PagesHead(count);
        byte[] payload = new byte[head + (count * RamPage.Size)];
        Run(block, first, (ulong)count).CopyTo(payload, 0);
        for (int page = 0; page < count; page++)
        {
            Span<byte> contents = payload.AsSpan(head + (page * RamPage.Size), RamPage.Size);
            contents.Fill((byte)(page + 1));
            BinaryPrimitives.WriteUInt32LittleEndian(payload.AsSpan(PageRun.Size + (page * sizeof(uint))), StreamChecksum.Of(contents));
        }

        return payload;
    }

    private static void Take(RamReceiver receiver, Verification verification, PageCodec codec, FrameReader reader, in FrameHeader header)
    {
        if (header.Type == FrameType.Pages)
        {
            receiver.ReceivePages(reader, header);
            return;
        }

        ReadOnlySpan<byte> payload = reader.ReadPayload(header);
        switch (header.Type)
        {
            case FrameType.ZeroPages:
                receiver.ReceiveZeros(header, payload);
                break;
            case FrameType.CompressedPages:
                receiver.ReceiveCompressed(header, payload, codec);
                break;
            case FrameType.PageChecksums:
                verification.Compare(header, payload, receiver);
                break;
            case FrameType.RoundEnd:
                receiver.EndRound(header, RoundEndMessage.Read(header, payload));
                break;
        }
    }

    private static byte[] Frame(FrameType type, ReadOnlySpan<byte> payload)
    {
        byte[] frame = new byte[3 + payload.Length];
        frame[0] = (byte)type;
        BinaryPrimitives.WriteUInt16LittleEndian(frame.AsSpan(1), (ushort)payload.Length);
        payload.CopyTo(frame.AsSpan(3));
        return frame;
    }

    /// <summary>The input's frames as they would be sent. One of a size that no such frame has cannot be, and is left out.</summary>
    private static byte[] Written(ReadOnlySpan<byte> input)
    {
        using var stream = new MemoryStream();
        using var writer = new FrameWriter(stream);
        writer.WritePreface();
        while (input.Length >= 3)
        {
            var type = (FrameType)input[0];
            int length = Math.Min(BinaryPrimitives.ReadUInt16LittleEndian(input[1..]), input.Length - 3);
            if (StreamFormat.TryGetPayloadLimits(type, out int smallest, out int largest) && length >= smallest && length <= largest)
                writer.Write(type, input.Slice(3, length));
            input = input[(3 + length)..];
        }

        writer.Flush();
        return stream.ToArray();
    }
}
