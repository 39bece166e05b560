using System.Text;
using System.Text.Json;

namespace Godwit.Monitor.Tests;

public sealed class JsonFramerTests
{
    private static readonly JsonSerializerOptions Indented = new() { WriteIndented = true };

    [Fact]
    public void Messages_need_nothing_between_them()
    {
        Assert.Equal(["""{"a":1}""", """{"b":[1,2]}""", "[{}]"], Frames("""{"a":1}{"b":[1,2]} [{}]"""));
    }

    [Fact]
    public void Braces_quotes_and_backslashes_inside_strings_are_text()
    {
        const string Message = """{"a":"}]{[\"\\","b":"\\"}""";
        Assert.Equal([Message], Frames(Message));
    }

    [Fact]
    public void Any_chunking_gives_the_same_messages()
    {
        int seed = Environment.TickCount;
        var random = new Random(seed);
        for (int round = 0; round < 300; round++)
        {
            string[] messages = [.. Enumerable.Range(0, random.Next(1, 8)).Select(_ => RandomMessage(random))];
            byte[] stream = Encoding.UTF8.GetBytes(string.Concat(messages.Select(m => m + Separator(random))));
            Assert.True(messages.SequenceEqual(Chunked(stream, random), StringComparer.Ordinal), $"seed {seed}, round {round}");
        }
    }

    [Theory]
    [InlineData("hello\n{\"a\":1}", "'h'")]
    [InlineData("}\n{\"a\":1}", "'}'")]
    [InlineData("{]\n{\"a\":1}", "']'")]
    [InlineData("{\"open\n{\"a\":1}", "byte 0x0a")]
    [InlineData("{\"bell\u0007\"}\n{\"a\":1}", "byte 0x07")]
    public void After_nonsense_the_next_line_is_heard(string stream, string named)
    {
        string[] frames = Frames(stream);
        Assert.Equal(2, frames.Length);
        Assert.StartsWith("error: ", frames[0], StringComparison.Ordinal);
        Assert.Contains(named, frames[0], StringComparison.Ordinal);
        Assert.Equal("""{"a":1}""", frames[1]);
    }

    [Fact]
    public void Byte_ff_drops_what_was_begun()
    {
        byte[] stream = [.. "{\"a\":{"u8, 0xff, .. "{\"b\":1}"u8];
        Assert.Equal(["""{"b":1}"""], Chunked(stream, new Random(1)));
    }

    [Fact]
    public void A_message_of_the_greatest_length_passes_and_one_byte_more_does_not()
    {
        string longest = "{\"a\":\"" + new string('x', 100 - 8) + "\"}";
        Assert.Equal([longest], Frames(longest, maxLength: 100));
        Assert.Equal("fatal: the message is longer than 99 bytes", Frames(longest, maxLength: 99)[0]);
    }

    [Fact]
    public void Nesting_is_bounded()
    {
        Assert.Single(Frames("[[[]]]", maxDepth: 3), "[[[]]]");
        Assert.Equal("fatal: the message nests deeper than 2 levels", Frames("[[[]]]", maxDepth: 2)[0]);
    }

    [Fact]
    public void Sixty_four_levels_keep_their_kinds_apart()
    {
        string good = string.Concat(Enumerable.Repeat("[{\"a\":", 32)) + "1" + string.Concat(Enumerable.Repeat("}]", 32));
        Assert.Equal([good], Frames(good));
        string bad = string.Concat(Enumerable.Repeat("[{\"a\":", 32)) + "1]";
        Assert.StartsWith("error: ", Assert.Single(Frames(bad)), StringComparison.Ordinal);
    }

    private static string[] Frames(string stream, int maxLength = 1 << 20, int maxDepth = 64)
    {
        var framer = new JsonFramer(maxLength, maxDepth);
        ReadOnlySpan<byte> rest = Encoding.UTF8.GetBytes(stream);
        return [.. Read(framer, rest)];
    }

    private static List<string> Chunked(byte[] stream, Random random)
    {
        var framer = new JsonFramer(1 << 20, 64);
        var frames = new List<string>();
        for (int at = 0; at < stream.Length;)
        {
            int length = Math.Min(random.Next(1, 20), stream.Length - at);
            frames.AddRange(Read(framer, stream.AsSpan(at, length)));
            at += length;
        }

        return frames;
    }

    private static List<string> Read(JsonFramer framer, ReadOnlySpan<byte> rest)
    {
        var frames = new List<string>();
        while (framer.TryRead(ref rest, out JsonFrame frame))
        {
            frames.Add(frame.Error is null
                ? Encoding.UTF8.GetString(frame.Text.Span)
                : $"{(frame.Fatal ? "fatal" : "error")}: {frame.Error}");
        }

        return frames;
    }

    private static string RandomMessage(Random random)
    {
        var values = Enumerable.Range(0, random.Next(0, 6)).ToDictionary(
            i => $"k{i}\"{{",
            _ => new string([.. Enumerable.Range(0, random.Next(0, 30)).Select(_ => "ab\\\"{}[],:é\n"[random.Next(12)])]),
            StringComparer.Ordinal);
        return JsonSerializer.Serialize(values, random.Next(2) == 0 ? Indented : null);
    }

    private static string Separator(Random random) => random.Next(4) switch
    {
        0 => "\r\n",
        1 => " \t ",
        _ => string.Empty,
    };
}
