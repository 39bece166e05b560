using Godwit.Migration;

namespace Godwit.Fuzz.Tests;

/// <summary>What a destination reads from the network before it believes anything: preface, frame headers, payloads.</summary>
public sealed class MigrationStreamTarget : IFuzzTarget
{
    /// <inheritdoc/>
    public static string Name => "migration-stream";

    /// <inheritdoc/>
    public static IEnumerable<byte[]> Seeds()
    {
        yield return [];
        yield return Stream(_ => { });
        yield return Stream(writer =>
        {
            writer.Write(FrameType.Accept, []);
            writer.Write(FrameType.KeepAlive, []);
        });
        yield return Stream(writer =>
        {
            for (int i = 0; i < 20; i++)
                writer.Write(FrameType.Failure, [0, 0, 0, 0], "the other side has failed"u8);
        });
        yield return Stream(writer =>
        {
            writer.Write(FrameType.RoundBegin, [1, 0, 0, 0, 0]);
            writer.Write(FrameType.ZeroPages, MigrationFramesTarget.Run(0, 1, 7));
            writer.Write(FrameType.Pages, MigrationFramesTarget.Pages(0, 9, 2));
            writer.Write(FrameType.Pages, MigrationFramesTarget.Pages(0, 1, 1));
        });
    }

    /// <inheritdoc/>
    public static void Run(ReadOnlySpan<byte> input)
    {
        using var stream = new MemoryStream(input.ToArray());
        var reader = new FrameReader(stream);
        try
        {
            reader.ReadPreface();
            while (true)
                reader.ReadPayload(reader.ReadHeader());
        }
        catch (MigrationStreamException refused)
        {
            Assert.NotEmpty(refused.Field);
            Assert.NotEmpty(refused.Limit);
        }
    }

    private static byte[] Stream(Action<FrameWriter> frames)
    {
        using var stream = new MemoryStream();
        using (var writer = new FrameWriter(stream))
        {
            writer.WritePreface();
            frames(writer);
            writer.Flush();
        }

        return stream.ToArray();
    }
}
