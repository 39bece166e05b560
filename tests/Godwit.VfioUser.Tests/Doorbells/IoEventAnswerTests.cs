using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>What the client makes of other servers' answers to DEVICE_GET_REGION_IO_FDS, right and wrong ones.</summary>
public sealed class IoEventAnswerTests : IDisposable
{
    private const ulong RegionSize = 0x1000;
    private readonly RawServer _server = new();
    private readonly EventFd _bell = EventFd.Create();
    private readonly MemFd _shadow = MemFd.Create("shadow", 4096);

    public void Dispose()
    {
        _server.Dispose();
        _bell.Dispose();
        _shadow.Dispose();
    }

    [Fact]
    public void Plain_eventfds_in_the_specifications_form_match_by_value_and_size()
    {
        byte[] two = [.. Plain(offset: 8, size: 4, match: 5), .. Plain(offset: 16, size: 0, match: null)];
        using VfioUserClient client = Connect(two, 2, writes: 2, _bell);
        Assert.Equal(2, client.UseDoorbells(0, RegionSize));
        client.WriteRegion(0, 8, [5, 0, 0, 0], posted: true);
        client.WriteRegion(0, 16, [9, 0], posted: true);
        client.WriteRegion(0, 16, [9, 0, 0, 0, 0, 0, 0, 0], posted: true);
        Assert.Equal(3ul, _bell.Drain());
        client.WriteRegion(0, 8, [6, 0, 0, 0], posted: true); // another value: a message
        client.WriteRegion(0, 8, [5, 0], posted: true); // another size: a message
        Assert.Equal(0ul, _bell.Drain());
        Assert.Equal(3, client.DoorbellsRung);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    [InlineData(8)]
    public unsafe void Values_go_to_the_shadow(int size)
    {
        using VfioUserClient client = Connect(Entry(new IoFdBody { Offset = 64, Size = (ulong)size, Type = IoFdType.ShadowIoEventFd, ShadowFileIndex = 1, ShadowOffset = 40 }), 1, writes: 0, _bell, _shadow);
        Assert.Equal(1, client.UseDoorbells(0, RegionSize));
        client.WriteRegion(0, 64, new byte[] { 1, 2, 3, 4, 5, 6, 7, 8 }.AsSpan(0, size), posted: false);
        Assert.Equal(1ul, _bell.Drain());
        using MemoryMapping view = MemoryMapping.MapShared(_shadow, 0, 4096, writable: false);
        Assert.Equal([1, 2, 3, 4, 5, 6, 7, 8], [.. new ReadOnlySpan<byte>(view.Address + 40, size), .. new byte[] { 1, 2, 3, 4, 5, 6, 7, 8 }.AsSpan(size)]);
        Assert.Equal(0, view.Address[40 + size]);
    }

    [Fact]
    public void A_shadow_that_the_device_could_cut_short_is_not_used()
    {
        string path = Path.GetTempFileName();
        using FileDescriptor file = FileDescriptor.Adopt(fcntl.open(path, fcntl.O_RDWR | fcntl.O_CLOEXEC, 0));
        File.Delete(path);
        Assert.Equal(0, unistd.ftruncate(file, 4096));
        using VfioUserClient client = Connect(Entry(new IoFdBody { Size = 4, Type = IoFdType.ShadowIoEventFd, ShadowFileIndex = 1 }), 1, writes: 1, _bell, file);
        Assert.Equal(0, client.UseDoorbells(0, RegionSize));
        client.WriteRegion(0, 0, [1, 2, 3, 4], posted: true); // by message
        Assert.Equal(0ul, _bell.Drain());
    }

    [Fact]
    public void Kinds_that_need_the_kernel_are_left_out()
    {
        using VfioUserClient client = Connect([.. Entry(new IoFdBody { Size = 4, Type = IoFdType.IoRegionFd }), .. Entry(new IoFdBody { Offset = 4, Size = 4, Type = (IoFdType)77 })], 2, writes: 0, _bell);
        Assert.Equal(0, client.UseDoorbells(0, RegionSize));
    }

    [Theory]
    [InlineData("beyond the region")]
    [InlineData("wraps")]
    [InlineData("no such descriptor")]
    [InlineData("no such shadow")]
    [InlineData("no eventfd")]
    [InlineData("shadow too short")]
    [InlineData("shadow unaligned")]
    [InlineData("shadow wraps")]
    [InlineData("plain form with a shadow")]
    [InlineData("entries too short")]
    [InlineData("entries too few")]
    [InlineData("a count that cannot be")]
    public void Answers_that_contradict_themselves_end_the_connection(string kind)
    {
        var good = new IoFdBody { Size = 4, Type = IoFdType.ShadowIoEventFd, ShadowFileIndex = 1 };
        (byte[] entries, uint count) = kind switch
        {
            "beyond the region" => (Entry(good with { Offset = RegionSize - 2 }), 1u),
            "wraps" => (Entry(good with { Offset = ulong.MaxValue - 1 }), 1u),
            "no such descriptor" => (Entry(good with { FileIndex = 2 }), 1u),
            "no such shadow" => (Entry(good with { ShadowFileIndex = IoFdBody.NoFile }), 1u),
            "no eventfd" => (Entry(good with { FileIndex = 1 }), 1u),
            "shadow too short" => (Entry(good with { ShadowOffset = 4096 }), 1u),
            "shadow unaligned" => (Entry(good with { ShadowOffset = 6 }), 1u),
            "shadow wraps" => (Entry(good with { ShadowOffset = ulong.MaxValue - 3 }), 1u),
            "plain form with a shadow" => (Entry(good)[..40], 1u),
            "entries too short" => (new byte[78], 2u),
            "entries too few" => (Entry(good), 2u),
            _ => (Entry(good), uint.MaxValue),
        };
        int open = OpenFiles.Count();
        using (VfioUserClient client = Connect(entries, count, writes: 0, _bell, _shadow))
        {
            Assert.Throws<VfioUserProtocolException>(() => client.UseDoorbells(0, RegionSize));
            Assert.Throws<VfioUserProtocolException>(() => client.GetInfo());
        }
        OpenFiles.AssertReturnsTo(open);
    }

    [Fact]
    public void Descriptors_of_the_first_answer_are_not_those_of_the_second()
    {
        using EventFd early = EventFd.Create();
        byte[] entry = Plain(offset: 8, size: 4, match: null);
        _server.Play(peer =>
        {
            peer.AcceptVersion();
            for (int i = 0; i < 2; i++)
            {
                using RawMessage question = peer.Receive();
                peer.Reply(question.Header, RawPeer.Bytes(new RegionIoFdsBody { ArgSize = (uint)(16 + entry.Length), Count = 1 }, i == 0 ? [] : entry), Errno.None, i == 0 ? early : _bell);
            }
            Assert.Null(peer.TryReceive());
        });
        using VfioUserClient client = _server.Connect();
        Assert.Equal(1, client.UseDoorbells(0, RegionSize));
        client.WriteRegion(0, 8, [1, 0, 0, 0], posted: true);
        Assert.Equal((0ul, 1ul), (early.Drain(), _bell.Drain()));
    }

    [Theory]
    [InlineData(Errno.EINVAL)]
    [InlineData(Errno.ENOTTY)]
    [InlineData(Errno.ENOTSUP)]
    [InlineData(Errno.ENOSYS)]
    public void A_device_that_does_not_know_the_command_has_none(Errno answer)
    {
        _server.Play(peer =>
        {
            peer.AcceptVersion();
            using RawMessage question = peer.Receive();
            peer.Reply(question.Header, [], answer);
            peer.TryReceive()?.Dispose();
        });
        using VfioUserClient client = _server.Connect();
        Assert.Equal(0, client.UseDoorbells(0, RegionSize));
    }

    [Fact]
    public unsafe void An_eventfd_that_is_left_to_fill_up_ends_the_connection()
    {
        var clock = new ManualClock();
        using VfioUserClient client = Connect(Plain(0, 4, null), 1, 0, new VfioUserClientOptions { ReplyTimeout = TimeSpan.FromSeconds(8), Clock = clock }, _bell);
        Assert.Equal(1, client.UseDoorbells(0, RegionSize));
        clock.Advance(TimeSpan.FromSeconds(4));
        client.WriteRegion(0, 0, [1, 0, 0, 0], posted: true); // all is well
        ulong most = ulong.MaxValue - 2;
        Assert.Equal(sizeof(ulong), unistd.write(_bell, &most, sizeof(ulong)));
        // The device makes it blocking as well: whoever rings now hangs until the client's watchdog looks.
        Assert.Equal(0, unistd.fcntl(_bell, unistd.F_SETFL, 0));
        Background ringer = Background.Run(() =>
        {
            try
            {
                client.WriteRegion(0, 0, [1, 0, 0, 0], posted: true);
            }
            catch (VfioUserProtocolException)
            {
                // the watchdog was first
            }
        });
        clock.Advance(TimeSpan.FromSeconds(4));
        Assert.Contains("fill up", Background.LossOf(client), StringComparison.Ordinal);
        ringer.Join();
        Assert.Throws<VfioUserProtocolException>(() => client.WriteRegion(0, 0, [1, 0, 0, 0], posted: true));
    }

    private static byte[] Entry(IoFdBody body) => RawPeer.Bytes(body);

    private static byte[] Plain(ulong offset, ulong size, ulong? match)
    {
        byte[] whole = Entry(new IoFdBody { Offset = offset, Size = size, Flags = match is null ? 0 : IoEventFlags.DataMatch });
        byte[] plain = whole[..IoFdBody.PlainSize];
        BitConverter.TryWriteBytes(plain.AsSpan(32), match ?? 0);
        return plain;
    }

    private VfioUserClient Connect(byte[] entries, uint count, int writes, params FileDescriptor[] files) =>
        Connect(entries, count, writes, new VfioUserClientOptions { ReplyTimeout = TestServer.Patience }, files);

    /// <summary>A client of a server that answers so, and then takes so many region writes and no other message.</summary>
    private VfioUserClient Connect(byte[] entries, uint count, int writes, VfioUserClientOptions options, params FileDescriptor[] files)
    {
        _server.Play(peer =>
        {
            peer.AcceptVersion();
            uint full = (uint)(16 + entries.Length);
            for (int i = 0; i < 2; i++)
            {
                if (peer.TryReceive() is not { } question)
                    return;
                Assert.Equal(Command.DeviceGetRegionIoFds, question.Header.Command);
                bool fits = question.As<RegionIoFdsBody>().ArgSize >= full;
                var head = new RegionIoFdsBody { ArgSize = full, Count = count };
                peer.Reply(question.Header, RawPeer.Bytes(head, fits ? entries : []), Errno.None, fits ? files : []);
            }
            for (int i = 0; i < writes; i++)
            {
                using RawMessage write = peer.Receive();
                Assert.Equal(Command.RegionWrite, write.Header.Command);
                if (write.Header.WantsReply)
                    peer.Reply(write.Header, write.Body.AsSpan(0, 16));
            }
            Assert.Null(peer.TryReceive());
        });
        return _server.Connect(options);
    }
}
