using System.Buffers;
using System.Net.Sockets;

namespace Godwit.Migration.Tests;

/// <summary>Migrations whose pages go over several connections.</summary>
public sealed class PageChannelTests
{
    private const int Mebibytes = 96; // more pieces than connections

    [Theory]
    [InlineData("unix", 2)]
    [InlineData("unix", 16)]
    [InlineData("tcp", 3)]
    public void A_busy_machine_arrives_whole(string transport, int channels)
    {
        using var pair = new Pair(
            new TestMachine(Mebibytes, twoBlocks: true), new TestMachine(Mebibytes, running: false, twoBlocks: true), transport: transport);
        pair.SourceMachine.Fill(21);
        pair.SourceMachine.AddDirtyingVcpu(22, pages: 8192);
        pair.Source.Parameters = new MigrationParameters { Channels = channels, VerifyPages = true, DowntimeLimit = TimeSpan.FromSeconds(30) };
        pair.Migrate();
        MigrationStatus status = pair.Source.Status;
        Assert.True(status.State == MigrationState.Completed, status.Error);
        Assert.Equal(0, status.Verification!.PagesDiffering);
        Assert.True(status.OverheadBytes >= 0);
        pair.WaitForDestination(MigrationState.Completed);
        Assert.True(pair.DestinationMachine.Executing);
        Assert.False(pair.SourceMachine.Executing);
    }

    /// <summary>Connection 0 is the control connection.</summary>
    [Theory]
    [InlineData(0, 40_000)]
    [InlineData(0, 200)]
    [InlineData(1, 0)]
    [InlineData(1, 40)]
    [InlineData(1, 3_000_000)]
    [InlineData(2, 10_000_000)]
    public void A_connection_that_is_cut_fails_the_migration_and_the_source_runs_on(int connection, long after)
    {
        using var pair = new Pair(new TestMachine(Mebibytes), new TestMachine(Mebibytes, running: false));
        pair.SourceMachine.Fill(23);
        pair.Source.Parameters = new MigrationParameters { Channels = 2, MinimumPrecopy = TimeSpan.FromHours(1) };
        pair.Listen();
        using (var cutter = new Cutter(pair.ListenUri["unix:".Length..], connection, after))
        {
            pair.Source.Start(cutter.Address);
            Assert.Equal(MigrationState.Failed, pair.WaitForSource(MigrationState.Failed, MigrationState.Completed));
        }

        Assert.True(pair.SourceMachine.Executing);
        Assert.False(pair.SourceMachine.Ram.Dirty.Enabled);
        pair.WaitForDestination(MigrationState.Setup, MigrationState.Failed);
        Assert.False(pair.DestinationMachine.Arrived);
        if (pair.Destination.Status.State == MigrationState.Setup)
        {
            // Nothing was loaded: the same destination takes the next attempt, and nothing of this one is left in it.
            pair.Source.Parameters = new MigrationParameters { Channels = 2, VerifyPages = true };
            pair.Migrate();
            Assert.True(pair.Source.Status.State == MigrationState.Completed, pair.Source.Status.Error);
        }
    }

    [Fact]
    public void A_cancel_is_told_over_the_control_connection()
    {
        using var pair = new Pair(new TestMachine(Mebibytes, devices: 0), new TestMachine(Mebibytes, devices: 0, running: false));
        pair.SourceMachine.Fill(24);
        pair.Source.Parameters = new MigrationParameters { Channels = 3, MaxBandwidth = 1 << 20 };
        pair.Listen();
        pair.Source.Start(pair.Address);
        Assert.True(SpinWait.SpinUntil(() => pair.Source.Status.NormalPages > 0, Pair.Patience));
        pair.Source.Cancel();
        Assert.Equal(MigrationState.Cancelled, pair.WaitForSource(MigrationState.Cancelled, MigrationState.Failed, MigrationState.Completed));
        pair.WaitForDestination(MigrationState.Setup);
        Assert.Contains("the source cancelled", pair.Destination.Status.Error, StringComparison.Ordinal);
    }

    [Fact]
    public void Strangers_are_turned_away_while_connections_are_expected()
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        string? wrongToken = null;
        string? notAttaching = null;
        pair.DestinationMachine.Calls.On("nvme0.BeginLoad", () =>
        {
            var payload = new ArrayBufferWriter<byte>();
            new AttachMessage(0, 12345).Write(payload);
            wrongToken = Answer(pair.ListenUri, FrameType.Attach, payload.WrittenSpan);
            notAttaching = Answer(pair.ListenUri, FrameType.RoundAck, new byte[RoundAckMessage.Size]);
        });
        pair.Source.Parameters = new MigrationParameters { Channels = 2 };
        pair.Migrate();
        Assert.True(pair.Source.Status.State == MigrationState.Completed, pair.Source.Status.Error);
        Assert.Contains("busy", wrongToken, StringComparison.Ordinal);
        Assert.Contains("busy", notAttaching, StringComparison.Ordinal);
    }

    [Fact]
    public void What_is_one_connection_cannot_be_several()
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        pair.Source.Parameters = new MigrationParameters { Channels = 2 };
        pair.Source.Start("exec:cat");
        pair.WaitForSource(MigrationState.Failed);
        Assert.Contains("exec:cat is one connection", pair.Source.Status.Error, StringComparison.Ordinal);
        Assert.Throws<ArgumentOutOfRangeException>(() => pair.Source.Parameters = new MigrationParameters { Channels = 0 });
        Assert.Throws<ArgumentOutOfRangeException>(() => pair.Source.Parameters = new MigrationParameters { Channels = StreamFormat.MaxChannels + 1 });
    }

    [Theory]
    [InlineData("wrong round", "the round that ends is 1")]
    [InlineData("control frame", "such a connection carries pages only")]
    [InlineData("no such page", "block main has 1024")]
    [InlineData("damage", "payload checksum")]
    [InlineData("second attach", "busy")]
    public void A_page_channel_that_says_what_it_may_not_is_not_believed(string lie, string says)
    {
        using var pair = new Pair(new TestMachine(), new TestMachine(running: false));
        pair.Listen();
        string path = pair.ListenUri["unix:".Length..];
        var payload = new ArrayBufferWriter<byte>();
        using var control = new HandMade(path);
        DescriptionMessage.Write(payload, StreamDescription.Of(pair.SourceMachine));
        control.Say(FrameType.Description, payload.WrittenSpan);
        control.Expect(FrameType.Description);
        control.Expect(FrameType.Accept);
        payload.ResetWrittenCount();
        new ChannelsMessage(2, 77).Write(payload);
        control.Say(FrameType.Channels, payload.WrittenSpan);
        control.Expect(FrameType.ChannelsReady);
        using HandMade channel = Attach(path);
        channel.Expect(FrameType.Accept);
        if (lie == "second attach")
        {
            using HandMade second = Attach(path);
            Assert.Contains(says, second.Expect(FrameType.Failure), StringComparison.Ordinal);
            return;
        }

        payload.ResetWrittenCount();
        new RoundBeginMessage(1, Final: false).Write(payload);
        control.Say(FrameType.RoundBegin, payload.WrittenSpan);
        byte[] page = PagesPayload.Of(new PageRun(0, lie == "no such page" ? 1024UL : 0, 1), new byte[Memory.RamPage.Size]);
        switch (lie)
        {
            case "wrong round":
                channel.Say(FrameType.ChannelEnd, [7, 0, 0, 0]);
                break;
            case "control frame":
                channel.Say(FrameType.Commit, [1]);
                break;
            case "no such page":
                channel.Say(FrameType.Pages, page);
                break;
            case "damage":
                channel.SayDamaged(FrameType.Pages, page);
                break;
        }

        Assert.Contains(says, control.Expect(FrameType.Failure), StringComparison.Ordinal);
        control.Dispose();
        pair.WaitForDestination(MigrationState.Setup);
        Assert.Contains("page channel 0: ", pair.Destination.Status.Error, StringComparison.Ordinal);
        pair.Migrate();
        Assert.True(pair.Source.Status.State == MigrationState.Completed, pair.Source.Status.Error);
    }

    [Fact]
    public void A_hundred_cancelled_migrations_leave_nothing_behind()
    {
        // Without devices, so that nothing is loaded and the same destination takes them all.
        using var pair = new Pair(new TestMachine(devices: 0), new TestMachine(devices: 0, running: false));
        pair.Listen();
        pair.Source.Parameters = new MigrationParameters { Channels = 2, MinimumPrecopy = TimeSpan.FromHours(1) };
        bool cancelling = true;
        pair.Source.PassStarted += round =>
        {
            if (cancelling && round == 2)
                pair.Source.Cancel();
        };
        int before = 0;
        for (int i = 0; i < 100; i++)
        {
            // What is made once, by either side, is made by then.
            if (i == 10)
                before = Descriptors();
            pair.Source.Start(pair.Address);
            pair.WaitForSource(MigrationState.Cancelled);
            Assert.True(pair.SourceMachine.Executing);
            pair.WaitForDestination(MigrationState.Setup);
        }

        // Other tests of the process have descriptors, too; a leak of one by every migration would show above them.
        int after = Descriptors();
        Assert.True(after < before + 60, $"{before} descriptors became {after}");
        cancelling = false;
        pair.Source.Parameters = new MigrationParameters { Channels = 2, VerifyPages = true };
        pair.Migrate();
        Assert.True(pair.Source.Status.State == MigrationState.Completed, pair.Source.Status.Error);
    }

    private static int Descriptors() => Directory.GetFileSystemEntries("/proc/self/fd").Length;

    private static HandMade Attach(string path)
    {
        var payload = new ArrayBufferWriter<byte>();
        new AttachMessage(0, 77).Write(payload);
        var channel = new HandMade(path);
        channel.Say(FrameType.Attach, payload.WrittenSpan);
        return channel;
    }

    private static string Answer(string uri, FrameType type, ReadOnlySpan<byte> payload)
    {
        using var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        socket.Connect(new UnixDomainSocketEndPoint(uri["unix:".Length..]));
        using var stream = new NetworkStream(socket);
        using var writer = new FrameWriter(stream);
        writer.WritePreface();
        writer.Write(type, payload);
        writer.Flush();
        var reader = new FrameReader(stream);
        reader.ReadPreface();
        FrameHeader header = reader.ReadHeader();
        Assert.Equal(FrameType.Failure, header.Type);
        return FailureMessage.Read(header, reader.ReadPayload(header)).Text;
    }

    /// <summary>A connection of a source that says what the test has it say.</summary>
    private sealed class HandMade : IDisposable
    {
        private readonly NetworkStream _stream;
        private readonly FrameWriter _writer;
        private readonly FrameReader _reader;
        private bool _heard;

        public HandMade(string path)
        {
            var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            socket.Connect(new UnixDomainSocketEndPoint(path));
            _stream = new NetworkStream(socket, ownsSocket: true);
            _writer = new FrameWriter(_stream);
            _reader = new FrameReader(_stream);
            _writer.WritePreface();
        }

        public void Say(FrameType type, ReadOnlySpan<byte> payload)
        {
            _writer.Write(type, payload);
            _writer.Flush();
        }

        public void SayDamaged(FrameType type, byte[] payload)
        {
            byte[] frame = new byte[StreamFormat.HeaderSize + payload.Length];
            new FrameHeader(type, payload.Length, 1, StreamChecksum.Of(payload.AsSpan(0, StreamFormat.CheckedBytes(type, payload.Length))) ^ 1).Write(frame);
            payload.CopyTo(frame, StreamFormat.HeaderSize);
            _stream.Write(frame);
        }

        public string Expect(FrameType type)
        {
            if (!_heard)
                _reader.ReadPreface();
            _heard = true;
            FrameHeader header = _reader.ReadHeader();
            ReadOnlySpan<byte> payload = _reader.ReadPayload(header);
            string text = header.Type == FrameType.Failure ? FailureMessage.Read(header, payload).Text : "";
            Assert.True(header.Type == type, $"{header.Type} instead of {type}: {text}");
            return text;
        }

        public void Dispose()
        {
            _writer.Dispose();
            _stream.Dispose();
        }
    }

    /// <summary>Passes connections on and cuts one of them, both ways, after so many bytes of the source.</summary>
    private sealed class Cutter : IDisposable
    {
        private readonly TempDirectory _directory = new();
        private readonly Socket _listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        private readonly List<Thread> _threads = [];
        private readonly Thread _acceptor;
        private readonly string _target;

        public Cutter(string target, int connection, long after)
        {
            _target = target;
            _listener.Bind(new UnixDomainSocketEndPoint(_directory.File("cut.sock")));
            _listener.Listen();
            _acceptor = new Thread(() => Accept(connection, after)) { IsBackground = true };
            _acceptor.Start();
        }

        public string Address => $"unix:{_directory.File("cut.sock")}";

        public void Dispose()
        {
            _listener.Shutdown(SocketShutdown.Both);
            _listener.Dispose();
            Assert.True(_acceptor.Join(Pair.Patience));
            foreach (Thread thread in _threads)
                Assert.True(thread.Join(Pair.Patience));
            _directory.Dispose();
        }

        private void Accept(int connection, long after)
        {
            try
            {
                for (int i = 0; ; i++)
                {
                    Socket source = _listener.Accept();
                    var destination = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                    destination.Connect(new UnixDomainSocketEndPoint(_target));
                    long limit = i == connection ? after : long.MaxValue;
                    Start(() => Copy(source, destination, limit));
                    Start(() => Copy(destination, source, long.MaxValue));
                }
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                // The test is over.
            }
        }

        private void Start(Action work)
        {
            var thread = new Thread(() => work()) { IsBackground = true };
            _threads.Add(thread);
            thread.Start();
        }

        private static void Copy(Socket from, Socket to, long limit)
        {
            byte[] buffer = new byte[64 << 10];
            try
            {
                while (limit > 0 && from.Receive(buffer.AsSpan(0, (int)Math.Min(buffer.Length, limit))) is > 0 and var count)
                {
                    for (int sent = 0; sent < count;)
                        sent += to.Send(buffer.AsSpan(sent, count - sent));
                    limit -= count;
                }
            }
            catch (Exception e) when (e is SocketException or ObjectDisposedException)
            {
                // One side has gone.
            }

            MigrationChannel.Close(from);
            MigrationChannel.Close(to);
        }
    }
}
