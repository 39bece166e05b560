namespace Godwit.Migration.Tests;

/// <summary>A recorded migration, damaged in every way a wire or a bug could: the destination must say what is wrong and never run.</summary>
public sealed class DamagedStreamTests(DamagedStreamTests.Recorded recorded) : IClassFixture<DamagedStreamTests.Recorded>
{
    private readonly Recording _recording = recorded.Recording;

    [Fact]
    public void The_recording_itself_is_a_migration()
    {
        (IncomingOutcome outcome, Exception? cause, TestMachine machine) = _recording.Play(_recording.Bytes);
        using (machine)
        {
            Assert.Null(cause);
            Assert.Equal(IncomingOutcome.Completed, outcome);
            Assert.True(machine.Executing);
            Assert.Equal([1, 2, 3, 4, 5, 6, 7, 8, 9], machine.Devices[0].Loaded);
        }
    }

    [Fact]
    public void A_flipped_bit_in_any_byte_is_found()
    {
        int seed = Random.Shared.Next();
        var random = new Random(seed);
        for (int i = 0; i < _recording.Bytes.Length; i++)
        {
            byte[] bytes = [.. _recording.Bytes];
            bytes[i] ^= (byte)(1 << random.Next(8));
            AssertRefused(bytes, $"byte {i}, seed {seed}");
        }
    }

    [Fact]
    public void A_stream_that_ends_anywhere_is_found()
    {
        // Within the page only some points: they are all alike.
        for (int length = 0; length < _recording.Bytes.Length; length += length % 4096 > 2000 ? 97 : 1)
        {
            MigrationStreamException e = AssertRefused(_recording.Bytes.AsSpan(0, length).ToArray(), $"{length} bytes");
            Assert.True(e.Ended);
        }
    }

    [Fact]
    public void A_frame_that_is_lost_repeated_or_moved_is_found_by_its_number()
    {
        int preface = StreamFormat.PrefaceSize;
        int count = _recording.Frames.Count;
        for (int i = 0; i < count - 1; i++)
        {
            AssertSequence(Raw(Enumerable.Range(0, count).Where(j => j != i)), $"{i} lost");
            AssertSequence(Raw(Enumerable.Range(0, count).SelectMany(j => j == i ? new[] { j, j } : [j])), $"{i} repeated");
            AssertSequence(Raw(Enumerable.Range(0, count).Select(j => j == i ? i + 1 : j == i + 1 ? i : j)), $"{i} moved");
        }

        byte[] Raw(IEnumerable<int> frames) =>
            [.. _recording.Bytes[..preface], .. frames.SelectMany(j => _recording.Frame(j))];

        void AssertSequence(byte[] bytes, string what) => Assert.Equal("sequence", AssertRefused(bytes, what).Field);
    }

    [Fact]
    public void A_frame_that_is_lost_or_repeated_is_found_even_when_renumbered()
    {
        List<(FrameType Type, byte[] Payload)> all = [.. Enumerable.Range(0, _recording.Frames.Count).Select(i => (_recording.Frames[i].Type, _recording.Payload(i)))];
        // The last is Commit: without it the stream ends; after it nothing is read.
        for (int i = 0; i < all.Count - 1; i++)
        {
            AssertRefused(Recording.Compose(all.Where((_, j) => j != i)), $"{all[i].Type} lost");
            AssertRefused(Recording.Compose(all.SelectMany((frame, j) => j == i ? new[] { frame, frame } : [frame])), $"{all[i].Type} repeated");
        }

        AssertRefused(Recording.Compose(all.SkipLast(1)), "no commit");
        AssertRefused(Recording.Compose([all[0], all[^1]]), "only a commit");
    }

    [Fact]
    public void Every_frame_is_refused_where_it_does_not_belong()
    {
        List<(FrameType Type, byte[] Payload)> all = [.. Enumerable.Range(0, _recording.Frames.Count).Select(i => (_recording.Frames[i].Type, _recording.Payload(i)))];
        int prepare = all.FindIndex(frame => frame.Type == FrameType.Prepare);
        FrameType[] foreign = [FrameType.Accept, FrameType.RoundAck, FrameType.Prepared, FrameType.VerifyResult, FrameType.Running, FrameType.VerifyEnd];
        foreach (FrameType type in foreign)
        {
            StreamFormat.TryGetPayloadLimits(type, out int smallest, out _);
            MigrationStreamException e = AssertRefused(
                Recording.Compose(all.Take(2).Append((type, new byte[smallest])).Concat(all.Skip(2))), $"{type} from the source");
            Assert.Equal("type", e.Field);
            AssertRefused(Recording.Compose(all.Take(prepare + 1).Append((type, new byte[smallest])).Concat(all.Skip(prepare + 1))), $"{type} late");
        }

        // A keep-alive is welcome anywhere.
        byte[] kept = Recording.Compose(all.SelectMany(frame => new[] { frame, (FrameType.KeepAlive, []) }).SkipLast(1));
        (IncomingOutcome outcome, Exception? cause, TestMachine machine) = _recording.Play(kept);
        machine.Dispose();
        Assert.True(outcome == IncomingOutcome.Completed, cause?.Message);
    }

    [Theory]
    [InlineData(2UL, 0UL, 1UL, "block")]
    [InlineData(0x7FFF_FFFFUL, 0UL, 1UL, "block")]
    [InlineData(0xFFFF_FFFFUL, 0UL, 1UL, "block")]
    [InlineData(0x1_0000_0000UL, 0UL, 1UL, "reserved")]
    [InlineData(0UL, 512UL, 1UL, "first page")]
    [InlineData(0UL, 1UL << 63, 1UL, "first page")]
    [InlineData(0UL, ulong.MaxValue, 1UL, "first page")]
    [InlineData(0UL, 511UL, 2UL, "page count")]
    [InlineData(0UL, 1UL, ulong.MaxValue, "page count")]
    [InlineData(0UL, 0UL, 1UL << 63, "page count")]
    [InlineData(0UL, 0UL, 0UL, "page count")]
    public void Runs_outside_the_machine_are_refused(ulong block, ulong first, ulong count, string field)
    {
        foreach (FrameType type in new[] { FrameType.ZeroPages, FrameType.Pages })
        {
            byte[] payload = new byte[type == FrameType.Pages ? PageRun.PagesHead(1) + 4096 : PageRun.Size];
            BitConverter.TryWriteBytes(payload, block);
            BitConverter.TryWriteBytes(payload.AsSpan(8), first);
            BitConverter.TryWriteBytes(payload.AsSpan(16), count);
            MigrationStreamException e = AssertRefused(Replace(FrameType.ZeroPages, 0, (type, payload)), $"{type} {block} {first} {count}");
            Assert.Equal(type == FrameType.Pages && count != 1 ? "page count" : field, e.Field);
            Assert.Equal(type, e.Type);
        }
    }

    [Fact]
    public void Numbers_that_cannot_be_are_refused_by_name()
    {
        (FrameType Type, int Offset, byte[] Value, string Field)[] lies =
        [
            (FrameType.RoundBegin, 0, [9, 0, 0, 0], "round"),
            (FrameType.RoundBegin, 4, [2], "final"),
            (FrameType.RoundEnd, 0, [9, 0, 0, 0], "round"),
            (FrameType.RoundEnd, 4, [0, 0, 0, 0, 0, 0, 0, 0x80], "pages"),
            (FrameType.RoundEnd, 12, [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], "zero pages"),
            (FrameType.DeviceState, 0, [1], "device"),
            (FrameType.DeviceState, 7, [0x80], "device"),
            (FrameType.DeviceStateEnd, 0, [7], "device"),
            (FrameType.DeviceStateEnd, 15, [0x80], "bytes"),
            (FrameType.MachineStateBegin, 0, [1], "index"),
            (FrameType.MachineStateBegin, 3, [0x80], "index"),
            (FrameType.MachineStateBegin, 7, [0x80], "version"),
            (FrameType.MachineStateBegin, 8, [0xFF, 0xFF, 0xFF, 0x7F], "id length"),
            (FrameType.MachineStateBegin, 12, [0xFF], "id"),
            (FrameType.MachineStateBegin, 12, "X"u8.ToArray(), "id"),
            (FrameType.MachineStateEnd, 0, [1], "index"),
            (FrameType.MachineStateEnd, 11, [0x80], "bytes"),
            (FrameType.Prepare, 0, [9], "rounds"),
            (FrameType.Prepare, 4, [9], "devices"),
            (FrameType.Prepare, 8, [9], "states"),
            (FrameType.Commit, 0, [2], "running"),
            (FrameType.Description, 0, [0xFF, 0xFF, 0xFF, 0xFF], "entries"),
            (FrameType.Description, 4, [0xFF, 0xFF, 0xFF, 0xFF], "name length"),
            (FrameType.Description, 8, [0xFF], "name"),
            (FrameType.Description, 8, [10], "entry"),
        ];
        foreach ((FrameType type, int offset, byte[] value, string field) in lies)
        {
            int index = _recording.Frames.ToList().FindIndex(frame => frame.Type == type);
            byte[] payload = _recording.Payload(index);
            value.CopyTo(payload, offset);
            MigrationStreamException e = AssertRefused(Replace(type, 0, (type, payload)), $"{type} at {offset}");
            Assert.True(e.Field == field, $"{type} at {offset}: {e.Message}");
            Assert.Equal(type, e.Type);
            Assert.NotNull(e.Sequence);
        }
    }

    [Fact]
    public void States_grow_only_up_to_their_limit()
    {
        byte[] chunk = new byte[StreamFormat.MaxMachineStateChunk];
        int begin = _recording.Frames.ToList().FindIndex(frame => frame.Type == FrameType.MachineStateBegin);
        var frames = Enumerable.Range(0, begin + 1).Select(i => (_recording.Frames[i].Type, _recording.Payload(i)))
            .Concat(Enumerable.Repeat((FrameType.MachineStateData, chunk), (StreamFormat.MaxMachineState / chunk.Length) + 1));
        MigrationStreamException e = AssertRefused(Recording.Compose(frames), "too large a state");
        Assert.Contains($"may have {StreamFormat.MaxMachineState}", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_state_that_does_not_load_ahead_is_refused_within_a_round()
    {
        List<(FrameType Type, byte[] Payload)> all = [.. Enumerable.Range(0, _recording.Frames.Count).Select(i => (_recording.Frames[i].Type, _recording.Payload(i)))];
        int ahead = all.FindIndex(frame => frame.Type == FrameType.MachineStateBegin);
        int other = all.FindLastIndex(frame => frame.Type == FrameType.MachineStateBegin);
        Assert.Equal(FrameType.MachineStateEnd, all[ahead + 2].Type);
        all.InsertRange(ahead + 3, all.GetRange(other, 3));
        MigrationStreamException e = AssertRefused(Recording.Compose(all), "a vCPU's state while it runs");
        Assert.Equal("index", e.Field);
        Assert.Contains("no further state is loaded ahead", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void A_round_does_not_end_within_a_state()
    {
        List<(FrameType Type, byte[] Payload)> all = [.. Enumerable.Range(0, _recording.Frames.Count).Select(i => (_recording.Frames[i].Type, _recording.Payload(i)))];
        all.RemoveAt(all.FindIndex(frame => frame.Type == FrameType.MachineStateEnd));
        MigrationStreamException e = AssertRefused(Recording.Compose(all), "a state without an end");
        Assert.Equal(FrameType.RoundEnd, e.Type);
        Assert.Contains("the state of iommu has not ended", e.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(3)] // which had one checksum for all pages of a frame
    [InlineData(5)]
    public void Another_version_is_named(byte version)
    {
        byte[] other = [.. _recording.Bytes];
        other[8] = version;
        BitConverter.TryWriteBytes(other.AsSpan(12), FrameWriter.PrefaceCrc(other));
        MigrationStreamException e = AssertRefused(other, $"version {version}");
        Assert.Equal("version", e.Field);
        Assert.Equal($"{version}", e.Value);
        Assert.Contains("this side speaks version 4", e.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Another_protocol_is_named()
    {
        MigrationStreamException e = AssertRefused("GET / HTTP/1.1\r\n\r\n"u8.ToArray(), "a browser");
        Assert.Equal("magic", e.Field);
        Assert.Null(e.Sequence);
    }

    private byte[] Replace(FrameType type, int which, (FrameType Type, byte[] Payload) by)
    {
        int index = _recording.Frames.Select((frame, i) => (frame.Type, i)).Where(frame => frame.Type == type).ElementAt(which).i;
        return Recording.Compose(Enumerable.Range(0, _recording.Frames.Count)
            .Select(i => i == index ? by : (_recording.Frames[i].Type, _recording.Payload(i))));
    }

    private MigrationStreamException AssertRefused(byte[] bytes, string what)
    {
        (IncomingOutcome outcome, Exception? cause, TestMachine machine) = _recording.Play(bytes);
        using (machine)
        {
            Assert.True(outcome != IncomingOutcome.Completed, $"{what}: the destination took it");
            Assert.False(machine.Executing);
            Assert.False(machine.Arrived);
            Assert.DoesNotContain(machine.Calls.Calls, call => call.Contains("Start", StringComparison.Ordinal));
            Assert.True(cause is MigrationStreamException, $"{what}: {cause}");
            return (MigrationStreamException)cause;
        }
    }

    public sealed class Recorded : IDisposable
    {
        internal Recording Recording { get; } = new();

        public void Dispose() => Recording.Dispose();
    }
}
