using System.Buffers;
using System.Net.Sockets;
using Godwit.Interop.Linux;
using Godwit.Memory;

namespace Godwit.Migration.Tests;

/// <summary>Peers of a handover that say or send what they may not: told by name, and nothing has happened.</summary>
public sealed class HostileHandoverTests
{
    public static TheoryData<string, string> Sources => new()
    {
        { "no files", "descriptors is 0; 2 must come with it" },
        { "one file", "descriptors is 1; 2 must come with it" },
        { "three files", "descriptors is 3; 2 must come with it" },
        { "same file twice", "another block has it already" },
        { "other order", "name is high; block 0 is low here" },
        { "one block", "count is 1; this machine has 2 blocks of RAM" },
        { "65 blocks", "count is 65; at most 64" },
        { "another size", "bytes of high is 18446744073709551615; the block has 2097152 here" },
        { "long file", "size of the file of high is 4194304 bytes; the block has 2097152" },
        { "unsealed file", "seals of the file of high is 0x0" },
        { "a socket", "kind of the file of high is no regular file" },
        { "too many files", "more than 64 descriptors" },
        { "pages", "type is RoundBegin; RamFiles are expected here" },
        { "pages after", "type is RoundBegin; the source may not say this in a handover" },
        { "files twice", "type is RamFiles; the source may not say this in a handover" },
        { "device", "type is DeviceState; the source may not say this in a handover" },
        { "rounds", "rounds is 1; a handover has none" },
        { "no states", "states is 0; 0 of 2 have arrived" },
        { "commit", "type is Commit; the source may not say this in a handover" },
    };

    [Theory]
    [MemberData(nameof(Sources))]
    public void A_source_is_refused_by_what_is_wrong_and_the_next_one_is_taken(string lie, string expected)
    {
        using var pair = new Pair(
            new TestMachine(mebibytes: 4, devices: 0, twoBlocks: true), new TestMachine(mebibytes: 4, devices: 0, running: false, twoBlocks: true), transport: "local");
        pair.Listen();
        string told = Lie(lie, pair.ListenUri["local:".Length..], pair.SourceMachine);
        Assert.Contains(expected, told, StringComparison.Ordinal);
        pair.WaitForDestination(MigrationState.Setup);
        Assert.Empty(pair.IncomingFailures);
        pair.Migrate();
        Assert.True(pair.Source.Status.State == MigrationState.Completed, pair.Source.Status.Error);
        Assert.Null(TestMachine.FirstDifference(pair.SourceMachine, pair.DestinationMachine));
    }

    [Fact]
    public void A_destination_that_has_the_files_too_early_is_refused()
    {
        using var machine = new TestMachine(devices: 0);
        using var directory = new TempDirectory();
        string path = directory.File("liar.sock");
        using var listener = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(new UnixDomainSocketEndPoint(path));
        listener.Listen();
        var liar = new Thread(() =>
        {
            using Socket socket = listener.Accept();
            using var stream = new NetworkStream(socket);
            using var writer = new FrameWriter(stream);
            writer.WritePreface();
            writer.Write(FrameType.RamFilesTaken, default);
            writer.Flush();
            try
            {
                while (socket.Receive(new byte[4096]) > 0)
                {
                }
            }
            catch (SocketException)
            {
                // It has hung up with something unread.
            }
        })
        { IsBackground = true };
        liar.Start();
        using var ended = new ManualResetEventSlim();
        using var controller = new MigrationController(machine, TimeProvider.System);
        controller.StateChanged += state =>
        {
            if (MigrationProgress.IsOver(state))
                ended.Set();
        };
        controller.Start($"local:{path}");
        Assert.True(ended.Wait(Pair.Patience));
        Assert.Contains("the destination may not say this now", controller.Status.Error, StringComparison.Ordinal);
        Assert.True(machine.Executing);
        Assert.DoesNotContain("StopForSwitchover", machine.Calls.Calls);
        Assert.True(liar.Join(Pair.Patience));
    }

    [Fact]
    public void Any_bytes_in_place_of_the_message_are_read_or_refused_by_field()
    {
        int seed = Random.Shared.Next();
        var random = new Random(seed);
        var good = new ArrayBufferWriter<byte>();
        var message = new RamFilesMessage([new("low", 2 << 20), new("höher", 6 << 20)]);
        message.Write(good);
        Assert.Equal(message.Blocks, RamFilesMessage.Read(Header(good.WrittenCount), good.WrittenSpan).Blocks);
        for (int length = 0; length < good.WrittenCount; length++)
            Assert.Throws<MigrationStreamException>(() => RamFilesMessage.Read(Header(length), good.WrittenSpan[..length]));
        for (int i = 0; i < 2000; i++)
        {
            byte[] bytes = good.WrittenSpan.ToArray();
            for (int flips = random.Next(1, 4); flips > 0; flips--)
                bytes[random.Next(bytes.Length)] ^= (byte)(1 << random.Next(8));
            try
            {
                Assert.InRange(RamFilesMessage.Read(Header(bytes.Length), bytes).Blocks.Count, 0, StreamFormat.MaxRamFiles);
            }
            catch (MigrationStreamException e)
            {
                Assert.False(string.IsNullOrEmpty(e.Field), $"seed {seed}");
            }
        }
    }

    private static FrameHeader Header(int length) => new(FrameType.RamFiles, length, 1, 0);

    /// <summary>A source that lies; returns what the destination says to that.</summary>
    private static string Lie(string lie, string path, TestMachine machine)
    {
        using var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        socket.Connect(new UnixDomainSocketEndPoint(path));
        using var stream = new Carrier(socket);
        using var writer = new FrameWriter(stream);
        var payload = new ArrayBufferWriter<byte>();
        writer.WritePreface();
        DescriptionMessage.Write(payload, StreamDescription.Of(machine, handover: true));
        writer.Write(FrameType.Description, payload.WrittenSpan);
        writer.Flush();
        var reader = new FrameReader(stream);
        reader.ReadPreface();
        FrameHeader header;
        do
        {
            header = reader.ReadHeader();
            reader.ReadPayload(header);
        }
        while (header.Type != FrameType.Accept);

        RamBlock low = machine.Ram.Blocks[0];
        RamBlock high = machine.Ram.Blocks[1];
        using FileDescriptor odd = lie switch
        {
            "long file" => MemFd.Create("long", 2 * RamBlock.SizeUnit),
            "unsealed file" => Unsealed((long)high.Size),
            "a socket" => OneSocket(),
            _ => high.File.Duplicate(),
        };
        IReadOnlyList<FileDescriptor> files = lie switch
        {
            "no files" => [],
            "one file" => [low.File],
            "three files" => [low.File, high.File, high.File],
            "same file twice" => [low.File, low.File],
            "too many files" => [.. Enumerable.Repeat(low.File, StreamFormat.MaxRamFiles + 1)],
            _ => [low.File, odd],
        };
        KeyValuePair<string, ulong>[] blocks = lie switch
        {
            "same file twice" => [new("low", low.Size), new("high", high.Size)],
            "other order" => [new("high", low.Size), new("low", high.Size)],
            "one block" => [new("low", low.Size)],
            "65 blocks" => [.. Enumerable.Range(0, 65).Select(i => new KeyValuePair<string, ulong>($"b{i}", 1))],
            "another size" => [new("low", low.Size), new("high", ulong.MaxValue)],
            _ => [new("low", low.Size), new("high", high.Size)],
        };
        try
        {
            if (lie != "pages")
                Say(stream, writer, FrameType.RamFiles, files, new RamFilesMessage(blocks).Write);
            switch (lie)
            {
                case "pages" or "pages after":
                    Say(stream, writer, FrameType.RoundBegin, [], new RoundBeginMessage(1, false).Write);
                    break;
                case "files twice":
                    Say(stream, writer, FrameType.RamFiles, files, new RamFilesMessage(blocks).Write);
                    break;
                case "device":
                    Say(stream, writer, FrameType.DeviceState, [], static to => to.Write(new byte[DeviceChunk.Size + 1]));
                    break;
                case "rounds":
                    Say(stream, writer, FrameType.Prepare, [], new PrepareMessage(1, 0, 2).Write);
                    break;
                case "no states":
                    Say(stream, writer, FrameType.Prepare, [], new PrepareMessage(0, 0, 0).Write);
                    break;
                case "commit":
                    Say(stream, writer, FrameType.Commit, [], new CommitMessage(true).Write);
                    break;
            }
        }
        catch (IOException)
        {
            // It has been refused already; what was said to that is read below.
        }

        for (; ; )
        {
            header = reader.ReadHeader();
            ReadOnlySpan<byte> said = reader.ReadPayload(header);
            if (header.Type == FrameType.Failure)
                return FailureMessage.Read(header, said).Text;
        }
    }

    private static void Say(Carrier carrier, FrameWriter writer, FrameType type, IReadOnlyList<FileDescriptor> files, Action<IBufferWriter<byte>> write)
    {
        var payload = new ArrayBufferWriter<byte>();
        write(payload);
        if (files.Count > 0)
            carrier.Files.SendWithNext(files);
        writer.Write(type, payload.WrittenSpan);
        writer.Flush();
    }

    private static SocketHandle OneSocket()
    {
        (SocketHandle first, SocketHandle second) = SocketHandle.CreatePair();
        second.Dispose();
        return first;
    }

    private static FileDescriptor Unsealed(long size)
    {
        FileDescriptor file = FileDescriptor.Adopt(mman.memfd_create("unsealed", mman.MFD_CLOEXEC | mman.MFD_ALLOW_SEALING));
        Assert.Equal(0, unistd.ftruncate(file, size));
        return file;
    }

    /// <summary>A socket's bytes with descriptors beside them.</summary>
    private sealed class Carrier(Socket socket) : NetworkStream(socket)
    {
        public FilePassage Files { get; } = new();

        public override void Write(ReadOnlySpan<byte> buffer)
        {
            try
            {
                while (!buffer.IsEmpty)
                    buffer = buffer[Files.Send(Socket, buffer)..];
            }
            catch (SocketException e)
            {
                throw new IOException(e.Message, e);
            }
        }

        protected override void Dispose(bool disposing)
        {
            Files.Dispose();
            base.Dispose(disposing);
        }
    }
}
