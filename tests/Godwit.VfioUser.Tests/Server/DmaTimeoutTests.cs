using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>Clients that answer a DMA message late, not at all, or stop in the middle of something: the time that takes is the clock's.</summary>
public sealed class DmaTimeoutTests
{
    private const int Size = 0x2000;

    private static readonly TimeSpan Limit = TimeSpan.FromHours(1);

    /// <summary>Which thread of the server receives, and on which socket.</summary>
    public static TheoryData<string> Receivers => ["session", "device in an access", "device on the twin socket"];

    [Theory]
    [MemberData(nameof(Receivers))]
    public void A_message_without_an_answer_fails_and_the_late_answer_is_dropped(string receiver)
    {
        using var world = new World(receiver);
        using RawMessage question = world.Ask();
        world.Clock.Advance(Limit - TimeSpan.FromMinutes(1));
        Assert.Null(world.Answer);
        world.Clock.Advance(Limit / 4);
        world.AwaitAnswer(false);
        world.DmaPeer.Reply(question.Header, RawPeer.Bytes(question.As<DmaAccessBody>(), new byte[Size]));
        Assert.Equal(Errno.None, world.Peer.Try(Command.DeviceReset, []));
        // And the next one is as good as ever.
        using RawMessage next = world.Ask();
        world.DmaPeer.Reply(next.Header, RawPeer.Bytes(next.As<DmaAccessBody>(), new byte[Size]));
        world.AwaitAnswer(true);
    }

    [Theory]
    [MemberData(nameof(Receivers))]
    public void An_answer_that_came_while_the_process_was_stopped_is_taken(string receiver)
    {
        using var world = new World(receiver);
        using RawMessage question = world.Ask();
        world.Clock.Jump(Limit * 3);
        world.DmaPeer.Reply(question.Header, RawPeer.Bytes(question.As<DmaAccessBody>(), new byte[Size]));
        world.AwaitAnswer(true);
        // One that does not come is still overdue at the end of its time.
        world.Ask().Dispose();
        world.Clock.Jump(Limit * 3);
        world.Clock.Advance(Limit);
        world.AwaitAnswer(false);
    }

    [Theory]
    [MemberData(nameof(Receivers))]
    public void A_client_that_stops_in_the_middle_of_its_answer_is_gone(string receiver)
    {
        using var world = new World(receiver);
        using RawMessage question = world.Ask();
        byte[] answer = RawPeer.Message(question.Header with { Flags = HeaderFlags.Reply }, RawPeer.Bytes(question.As<DmaAccessBody>(), [.. Enumerable.Repeat((byte)0x55, Size)]));
        world.DmaPeer.SendBytes(answer.AsSpan(0, answer.Length - 1));
        Assert.True(SpinWait.SpinUntil(() => world.FirstByte == 0x55, TestServer.Patience)); // it is being received
        world.Clock.Advance(Limit - TimeSpan.FromMinutes(1));
        Assert.Null(world.Answer);
        world.Clock.Advance(Limit / 2);
        world.AwaitAnswer(false);
        world.AssertGone("stopped in the middle of a message while the device waited for its answer to DMA_READ");
    }

    [Fact]
    public void A_client_that_goes_on_in_time_is_none_the_worse_for_it()
    {
        using var world = new World("session");
        using RawMessage question = world.Ask();
        byte[] answer = RawPeer.Message(question.Header with { Flags = HeaderFlags.Reply }, RawPeer.Bytes(question.As<DmaAccessBody>(), [.. Enumerable.Repeat((byte)0x55, Size)]));
        world.DmaPeer.SendBytes(answer.AsSpan(0, answer.Length - 1));
        Assert.True(SpinWait.SpinUntil(() => world.FirstByte == 0x55, TestServer.Patience));
        world.Clock.Advance(Limit); // one look, at which nothing happens yet
        world.DmaPeer.SendBytes(answer.AsSpan(answer.Length - 1));
        world.AwaitAnswer(true);
        world.Clock.Advance(Limit);
        Assert.Equal(Errno.None, world.Peer.Try(Command.DeviceReset, []));
    }

    [Fact]
    public void A_client_that_stops_in_the_middle_of_a_command_does_not_hold_a_device_that_waits_for_an_answer()
    {
        using var world = new World("device in an access");
        world.Ask().Dispose();
        byte[] command = RawPeer.Message(new MessageHeader { Id = 9, Command = Command.RegionWrite }, RawPeer.Bytes(new RegionAccessBody { Count = Size }, new byte[Size]));
        world.Peer.SendBytes(command.AsSpan(0, command.Length - 1));
        // Whether the device's thread is in that command by now or not.
        Assert.True(SpinWait.SpinUntil(() =>
        {
            world.Clock.Advance(Limit / 4);
            return world.Answer is not null;
        }, TestServer.Patience));
        Assert.False(world.Answer);
    }

    /// <summary>A client that is asked for memory, and the device that asks.</summary>
    private sealed class World : IDisposable
    {
        private readonly TestServer _server;
        private readonly IDeviceHost _host;
        private readonly bool _inAccess;
        private readonly byte[] _data = new byte[Size];
        private readonly List<Background> _threads = [];
        private readonly RawPeer? _twin;
        private object? _answer; // a bool, boxed so that it is seen whole

        public World(string receiver)
        {
            _inAccess = receiver == "device in an access";
            _server = new TestServer(configure: o => o with { DmaReplyTimeout = Limit, Clock = Clock });
            Peer = RawPeer.Connect(_server.Path);
            bool twin = receiver == "device on the twin socket";
            string json = twin ? """{"capabilities":{"max_msg_fds":1,"twin_socket":{"supported":true}}}""" : RawPeer.QemuVersionJson;
            using (RawMessage version = Peer.Call(Command.Version, RawPeer.VersionBody(0, 0, json)))
            {
                if (twin)
                    _twin = new RawPeer(SocketHandle.DuplicateOf(Assert.Single(version.Files)));
            }
            _host = TestServer.Take(_server.Device.Connections);
            _server.Device.OnWrite = (_, _, _) => Read();
            Assert.Equal(Errno.None, Peer.Try(Command.DmaMap, RawPeer.Bytes(new DmaMapBody { ArgSize = 32, Flags = 3, Address = 0x10000, Size = Size })));
        }

        public ManualClock Clock { get; } = new();

        public RawPeer Peer { get; }

        public RawPeer DmaPeer => _twin ?? Peer;

        /// <summary>What the device got, or null while it waits.</summary>
        public bool? Answer => (bool?)Volatile.Read(ref _answer);

        public byte FirstByte => Volatile.Read(ref _data[0]);

        /// <summary>Has the device read memory and returns its question.</summary>
        public RawMessage Ask()
        {
            Volatile.Write(ref _answer, null);
            if (_inAccess)
                Peer.Send(Command.RegionWrite, RawPeer.Bytes(new RegionAccessBody { Count = 1 }, [1]), HeaderFlags.NoReply);
            else
                _threads.Add(Background.Run(() => Read()));
            RawMessage question = DmaPeer.Receive();
            Assert.Equal(Command.DmaRead, question.Header.Command);
            return question;
        }

        public void AwaitAnswer(bool expected)
        {
            Assert.True(SpinWait.SpinUntil(() => Answer is not null, TestServer.Patience), "the device still waits");
            Assert.Equal(expected, Answer);
        }

        public void AssertGone(string why)
        {
            Assert.Null(Peer.TryReceive());
            TestServer.Take(_server.Device.Disconnections);
            while (!TestServer.Take(_server.LogLines).Contains(why, StringComparison.Ordinal))
            {
            }
            using VfioUserClient next = _server.Connect();
            next.Reset();
        }

        public void Dispose()
        {
            Peer.Dispose();
            _twin?.Dispose();
            Background.Join(_threads);
            _server.Dispose();
        }

        private Errno Read()
        {
            bool read = _host.Read(new DmaAddress(0x10000), _data);
            Volatile.Write(ref _answer, read);
            return Errno.None;
        }
    }
}
