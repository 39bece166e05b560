using System.Buffers;

namespace Godwit.Migration.Tests;

public sealed class DescriptionTests
{
    [Fact]
    public void Entries_are_in_ordinal_order_and_travel()
    {
        var description = new MachineDescription([new("b", "2"), new("B", "ü"), new("a", "")]);
        Assert.Equal(["B", "a", "b"], description.Entries.Select(entry => entry.Key));
        var payload = new ArrayBufferWriter<byte>();
        DescriptionMessage.Write(payload, description);
        MachineDescription read = DescriptionMessage.Read(new FrameHeader(FrameType.Description, payload.WrittenCount, 0, 0), payload.WrittenSpan);
        Assert.Equal(description.Entries, read.Entries);
        Assert.Empty(MachineDescription.Compare(description, read));
    }

    [Fact]
    public void Every_difference_is_found_in_order()
    {
        int seed = Random.Shared.Next();
        var random = new Random(seed);
        for (int run = 0; run < 200; run++)
        {
            Dictionary<string, string> left = Make();
            Dictionary<string, string> right = Make();
            var expected = left.Keys.Union(right.Keys).Order(StringComparer.Ordinal)
                .Select(name => new DescriptionDifference(name, left.GetValueOrDefault(name), right.GetValueOrDefault(name)))
                .Where(difference => difference.Source != difference.Destination);
            IReadOnlyList<DescriptionDifference> found = MachineDescription.Compare(new MachineDescription(left), new MachineDescription(right));
            Assert.True(expected.SequenceEqual(found), $"seed {seed}, run {run}");
            var payload = new ArrayBufferWriter<byte>();
            RefusalMessage.Write(payload, found);
            Assert.Equal(found, RefusalMessage.Read(new FrameHeader(FrameType.Refuse, payload.WrittenCount, 0, 0), payload.WrittenSpan));
        }

        Dictionary<string, string> Make() => Enumerable.Range(0, random.Next(8)).DistinctBy(_ => random.Next())
            .Select(_ => $"n{random.Next(10)}").Distinct().ToDictionary(name => name, _ => $"{random.Next(2)}", StringComparer.Ordinal);
    }

    [Fact]
    public void The_largest_descriptions_fit_their_frames()
    {
        // As different as can be: no name in common.
        MachineDescription left = Largest('a');
        MachineDescription right = Largest('b');
        var payload = new ArrayBufferWriter<byte>();
        DescriptionMessage.Write(payload, left);
        Assert.InRange(payload.WrittenCount, StreamFormat.MaxDescriptionBytes - 300, StreamFormat.MaxDescriptionBytes);
        payload.ResetWrittenCount();
        RefusalMessage.Write(payload, MachineDescription.Compare(left, right));
        Assert.InRange(payload.WrittenCount, 1, StreamFormat.MaxPayload);

        static MachineDescription Largest(char letter)
        {
            var entries = new List<KeyValuePair<string, string>>();
            int bytes = 4;
            for (int i = 0; i < StreamFormat.MaxDescriptionEntries; i++)
            {
                string name = $"{letter}{i}";
                string value = new(letter, 60);
                if (bytes + 8 + name.Length + value.Length > StreamFormat.MaxDescriptionBytes)
                    break;
                bytes += 8 + name.Length + value.Length;
                entries.Add(new(name, value));
            }

            return new MachineDescription(entries);
        }
    }

    [Fact]
    public void What_cannot_be_an_entry_is_named()
    {
        AssertRefused("twice", new("a", "1"), new("a", "2"));
        AssertRefused("0 bytes", new KeyValuePair<string, string>("", "1"));
        AssertRefused("256 bytes", new KeyValuePair<string, string>(new string('a', 256), "1"));
        AssertRefused("the limit is 1024", new KeyValuePair<string, string>("a", new string('1', 1025)));
        AssertRefused("control character", new KeyValuePair<string, string>("a\n", "1"));
        AssertRefused("control character", new KeyValuePair<string, string>("a", "\u001b[31m"));
        AssertRefused("the limit is 4096", [.. Enumerable.Range(0, 4097).Select(i => new KeyValuePair<string, string>($"{i}", ""))]);
        AssertRefused("the limit is 262144", [.. Enumerable.Range(0, 300).Select(i => new KeyValuePair<string, string>($"{i}", new string('x', 1000)))]);
    }

    private static void AssertRefused(string says, params KeyValuePair<string, string>[] entries) =>
        Assert.Contains(says, Assert.Throws<ArgumentException>(() => new MachineDescription(entries)).Message, StringComparison.Ordinal);
}
