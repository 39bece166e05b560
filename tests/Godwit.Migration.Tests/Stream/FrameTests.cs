using System.Buffers;
using Godwit.Memory;

namespace Godwit.Migration.Tests;

public sealed class FrameTests
{
    [Fact]
    public void What_is_written_is_read()
    {
        int seed = Random.Shared.Next();
        var random = new Random(seed);
        var stream = new MemoryStream();
        var sent = new List<(FrameType, byte[])>();
        using (var writer = new FrameWriter(stream))
        {
            writer.WritePreface();
            for (int i = 0; i < 300; i++)
            {
                FrameType type = random.Next(3) switch { 0 => FrameType.DeviceState, 1 => FrameType.MachineStateData, _ => FrameType.KeepAlive };
                StreamFormat.TryGetPayloadLimits(type, out int smallest, out int largest);
                byte[] payload = new byte[random.Next(smallest, Math.Min(largest, random.Next(5) == 0 ? largest : 300) + 1)];
                random.NextBytes(payload);
                int cut = random.Next(payload.Length + 1);
                writer.Write(type, payload.AsSpan(0, cut), payload.AsSpan(cut));
                sent.Add((type, payload));
            }

            writer.Flush();
            Assert.Equal(stream.Length, writer.Bytes);
            Assert.Equal(300UL, writer.Frames);
        }

        stream.Position = 0;
        var reader = new FrameReader(new Dribble(stream, random));
        reader.ReadPreface();
        foreach ((FrameType type, byte[] payload) in sent)
        {
            FrameHeader header = reader.ReadHeader();
            Assert.Equal(type, header.Type);
            Assert.True(reader.ReadPayload(header).SequenceEqual(payload), $"seed {seed}");
        }

        Assert.Equal(stream.Length, reader.Bytes + StreamFormat.PrefaceSize);
        MigrationStreamException end = Assert.Throws<MigrationStreamException>(() => reader.ReadHeader());
        Assert.True(end.Ended);
        Assert.Equal((300UL, "header"), (end.Sequence, end.Field));
    }

    [Fact]
    public unsafe void Pages_go_from_guest_memory_to_guest_memory()
    {
        using var from = new GuestRam();
        using var to = new GuestRam();
        RamBlock source = from.Add("main", 2 << 20);
        RamBlock target = to.Add("main", 2 << 20);
        byte[] contents = new byte[2 << 20];
        Random.Shared.NextBytes(contents);
        source.Write(0, contents, DirtySource.Vmm);
        var stream = new MemoryStream();
        using (var writer = new FrameWriter(stream))
        {
            writer.WritePages(new PageRun(0, 0, 256), source.Pointer);
            writer.WritePages(new PageRun(0, 256, 1), source.Pointer + (256 << 12));
            writer.Flush();
        }

        stream.Position = 0;
        var receiver = new RamReceiver(to);
        receiver.BeginRound();
        var reader = new FrameReader(stream);
        for (int i = 0; i < 2; i++)
            receiver.ReceivePages(reader, reader.ReadHeader());
        byte[] arrived = new byte[257 << 12];
        target.Read(0, arrived);
        Assert.True(arrived.AsSpan().SequenceEqual(contents.AsSpan(0, arrived.Length)));
        Assert.Equal(257UL, receiver.Pages);
        Assert.Equal(257UL, receiver.Arrived);

        // Any other reader sees the same frame.
        stream.Position = 0;
        reader = new FrameReader(stream);
        FrameHeader header = reader.ReadHeader();
        ReadOnlySpan<byte> payload = reader.ReadPayload(header);
        Assert.Equal(new PageRun(0, 0, 256), PageRun.Read(header, payload));
        Assert.True(payload[PageRun.PagesHead(256)..].SequenceEqual(contents.AsSpan(0, 1 << 20)));
    }

    [Fact]
    public void The_checksum_is_the_one_described()
    {
        // CRC32C of the ASCII digits 1 to 9 (RFC 3720 B.4 and every table of CRCs): shorter than a stripe, after four empty lanes.
        Assert.Equal(0xE3069283u, Crc(uint.MaxValue, "123456789"u8) ^ uint.MaxValue);
        int seed = Random.Shared.Next();
        var random = new Random(seed);
        for (int length = 0; length < 300; length++)
        {
            byte[] bytes = new byte[length];
            random.NextBytes(bytes);
            uint[] lanes = [uint.MaxValue, uint.MaxValue, uint.MaxValue, uint.MaxValue];
            int whole = length / 32 * 32;
            for (int i = 0; i < whole; i += 8)
                lanes[i / 8 % 4] = Crc(lanes[i / 8 % 4], bytes.AsSpan(i, 8));
            uint sum = uint.MaxValue;
            foreach (uint lane in lanes)
                sum = Crc(sum, BitConverter.GetBytes(lane));
            Assert.True(~Crc(sum, bytes.AsSpan(whole)) == StreamChecksum.Of(bytes), $"{length} bytes, seed {seed}");
        }

        static uint Crc(uint crc, ReadOnlySpan<byte> bytes)
        {
            foreach (byte value in bytes)
            {
                crc ^= value;
                for (int bit = 0; bit < 8; bit++)
                    crc = (crc >> 1) ^ ((crc & 1) * 0x82F63B78); // the reflected Castagnoli polynomial
            }

            return crc;
        }
    }

    [Fact]
    public void Every_bit_of_a_checksummed_text_matters()
    {
        byte[] bytes = new byte[4096 + 32 + 5];
        Random.Shared.NextBytes(bytes);
        uint right = StreamChecksum.Of(bytes);
        for (int bit = 0; bit < bytes.Length * 8; bit++)
        {
            bytes[bit / 8] ^= (byte)(1 << (bit % 8));
            Assert.NotEqual(right, StreamChecksum.Of(bytes));
            bytes[bit / 8] ^= (byte)(1 << (bit % 8));
        }
    }

    [Fact]
    public void A_payload_of_the_wrong_size_is_the_writers_error()
    {
        using var writer = new FrameWriter(new MemoryStream());
        foreach (FrameType type in Enum.GetValues<FrameType>())
        {
            Assert.True(StreamFormat.TryGetPayloadLimits(type, out int smallest, out int largest));
            Assert.InRange(largest, smallest, StreamFormat.MaxPayload);
            if (smallest > 0)
                Assert.Throws<ArgumentOutOfRangeException>(() => writer.Write(type, new byte[smallest - 1]));
            Assert.Throws<ArgumentOutOfRangeException>(() => writer.Write(type, new byte[largest + 1]));
        }

        Assert.Throws<ArgumentOutOfRangeException>(() => writer.Write(0, default));
        Assert.Throws<ArgumentOutOfRangeException>(() => writer.Write((FrameType)24, default));
        Assert.Equal(0UL, writer.Frames);
    }

    [Fact]
    public void A_length_is_believed_only_within_what_its_type_may_have()
    {
        Span<byte> bytes = stackalloc byte[StreamFormat.HeaderSize];
        foreach (FrameType type in Enum.GetValues<FrameType>())
        {
            StreamFormat.TryGetPayloadLimits(type, out _, out int largest);
            foreach (int length in new[] { largest + 1, int.MaxValue, -1, int.MinValue })
            {
                new FrameHeader(type, length, 5, 0).Write(bytes);
                byte[] copy = bytes.ToArray();
                MigrationStreamException e = Assert.Throws<MigrationStreamException>(() => FrameHeader.Read(copy, 5));
                Assert.Equal(("length", $"{(uint)length}", 5UL, type), (e.Field, e.Value, e.Sequence, e.Type));
            }
        }

        foreach (uint type in new[] { 0u, (uint)Enum.GetValues<FrameType>().Max() + 1, 0x8000_0000u, uint.MaxValue })
        {
            new FrameHeader((FrameType)type, 0, 5, 0).Write(bytes);
            byte[] copy = bytes.ToArray();
            Assert.Equal("type", Assert.Throws<MigrationStreamException>(() => FrameHeader.Read(copy, 5)).Field);
        }
    }

    [Fact]
    public void Nothing_is_written_after_a_failure()
    {
        using var writer = new FrameWriter(new BrokenStream());
        writer.Write(FrameType.Accept, default);
        string why = Assert.Throws<IOException>(writer.Flush).Message;
        Assert.EndsWith(why, Assert.Throws<IOException>(() => writer.Write(FrameType.Accept, default)).Message, StringComparison.Ordinal);
        Assert.Throws<IOException>(writer.Flush);
        Assert.False(writer.TryWriteNow(FrameType.KeepAlive));
    }

    [Fact]
    public void Texts_are_cut_at_a_character_and_made_printable()
    {
        var payload = new ArrayBufferWriter<byte>();
        new FailureMessage(true, string.Concat(Enumerable.Repeat("äöü\u001b\n", 2000))).Write(payload);
        Assert.InRange(payload.WrittenCount, StreamFormat.MaxFailureBytes - 3, StreamFormat.MaxFailureBytes + 1);
        FailureMessage read = FailureMessage.Read(new FrameHeader(FrameType.Failure, payload.WrittenCount, 0, 0), payload.WrittenSpan);
        Assert.True(read.Cancelled);
        Assert.StartsWith("äöü  äöü  ", read.Text, StringComparison.Ordinal);
        Assert.EndsWith("…", read.Text, StringComparison.Ordinal);
        Assert.DoesNotContain(read.Text, char.IsControl);
    }

    [Fact]
    public void Allocating_nothing_while_pages_are_written_and_read()
    {
        using var ram = new GuestRam();
        RamBlock block = ram.Add("main", 2 << 20);
        block.Write(0, new byte[] { 1 }, DirtySource.Vmm);
        var stream = new MemoryStream(4 << 20);
        using var writer = new FrameWriter(stream);
        Assert.Equal(0, Allocations.Of(() =>
        {
            stream.Position = 0;
            Write(writer, block);
            writer.Flush();
        }));

        var reader = new FrameReader(stream);
        var receiver = new RamReceiver(ram);
        using var second = new FrameWriter(stream); // numbered from the start, as the reader expects
        Assert.Equal(0, Allocations.Of(() =>
        {
            stream.Position = 0;
            Write(second, block);
            second.Flush();
            stream.Position = 0;
            for (int i = 0; i < 64; i++)
                receiver.ReceivePages(reader, reader.ReadHeader());
        }));

        static unsafe void Write(FrameWriter writer, RamBlock block)
        {
            for (ulong page = 0; page < 64; page++)
                writer.WritePages(new PageRun(0, page, 1), block.Pointer + (page << 12));
        }
    }

    /// <summary>Gives a few bytes at a time, as sockets do.</summary>
    private sealed class Dribble(Stream inner, Random random) : Stream
    {
        public override bool CanRead => true;
        public override bool CanSeek => false;
        public override bool CanWrite => false;
        public override long Length => throw new NotSupportedException();
        public override long Position { get => throw new NotSupportedException(); set => throw new NotSupportedException(); }
        public override int Read(Span<byte> buffer) => inner.Read(buffer[..Math.Min(buffer.Length, random.Next(1, random.Next(2) == 0 ? 20 : 100_000))]);
        public override int Read(byte[] buffer, int offset, int count) => Read(buffer.AsSpan(offset, count));
        public override void Flush() => throw new NotSupportedException();
        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();
        public override void SetLength(long value) => throw new NotSupportedException();
        public override void Write(byte[] buffer, int offset, int count) => throw new NotSupportedException();
    }

    private sealed class BrokenStream : MemoryStream
    {
        public override void Write(ReadOnlySpan<byte> buffer) => throw new IOException("broken");
    }
}
