using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>Servers that answer wrongly: a typed error for who waited, the connection closed, no descriptor kept.</summary>
public sealed class HostileServerTests
{
    [Fact]
    public void A_peer_killed_during_a_request_ends_all_waits_at_once()
    {
        using var server = new RawServer();
        server.Play(peer =>
        {
            peer.AcceptVersion();
            for (int i = 0; i < 4; i++)
                peer.Receive().Dispose();
        });
        using VfioUserClient client = server.Connect();
        Background.Join(Background.Run(4, _ => Assert.Throws<VfioUserDisconnectedException>(() => client.ReadRegion(0, 0, new byte[4]))));
        Assert.Contains("closed", Background.LossOf(client), StringComparison.Ordinal);
        Assert.Throws<VfioUserDisconnectedException>(client.Reset);
        Assert.Throws<VfioUserDisconnectedException>(() => client.WriteRegion(0, 0, new byte[4], posted: true));
    }

    [Fact]
    public void Dispose_ends_the_waits_of_others_and_is_no_loss()
    {
        using var server = new RawServer();
        using var asked = new ManualResetEventSlim();
        server.Play(peer =>
        {
            peer.AcceptVersion();
            peer.Receive().Dispose();
            asked.Set();
            Assert.Null(peer.TryReceive());
        });
        VfioUserClient client = server.Connect();
        Background wait = Background.Run(() => Assert.Throws<VfioUserDisconnectedException>(client.Reset));
        Assert.True(asked.Wait(TestServer.Patience));
        client.Dispose();
        wait.Join();
        Assert.False(client.Lost.IsCompleted);
        client.Dispose();
    }

    [Fact]
    public void A_reply_that_does_not_come_is_a_lost_device()
    {
        using var server = new RawServer();
        var clock = new ManualClock();
        server.Play(peer =>
        {
            peer.AcceptVersion();
            using (RawMessage first = peer.Receive())
                peer.Reply(first.Header, []);
            peer.Receive().Dispose();
            clock.Advance(TimeSpan.FromSeconds(4));
            clock.Advance(TimeSpan.FromSeconds(4));
            Assert.Null(peer.TryReceive());
        });
        using VfioUserClient client = server.Connect(new VfioUserClientOptions { Clock = clock, ReplyTimeout = TimeSpan.FromSeconds(5) });
        client.Reset();
        var e = Assert.Throws<VfioUserDisconnectedException>(client.Reset);
        Assert.Contains("no reply to DEVICE_RESET", e.Message, StringComparison.Ordinal);
        Assert.Contains("no reply to DEVICE_RESET", Background.LossOf(client), StringComparison.Ordinal);
    }

    [Fact]
    public void A_reply_that_came_while_the_process_was_stopped_is_taken()
    {
        using var server = new RawServer();
        var clock = new ManualClock();
        server.Play(peer =>
        {
            peer.AcceptVersion();
            using RawMessage request = peer.Receive();
            clock.Jump(TimeSpan.FromHours(1));
            peer.Reply(request.Header, []);
            peer.Receive().Dispose();
            clock.Jump(TimeSpan.FromHours(1));
            clock.Advance(TimeSpan.FromSeconds(8)); // this one does not come
        });
        using VfioUserClient client = server.Connect(new VfioUserClientOptions { Clock = clock, ReplyTimeout = TimeSpan.FromSeconds(5) });
        client.Reset();
        Assert.Throws<VfioUserDisconnectedException>(client.Reset);
    }

    public static TheoryData<string, string> BadReplies => new()
    {
        { "longer than asked", "at most were asked for" },
        { "shorter than asked", "was answered with" },
        { "another count", "say 3" },
        { "another command", "answered with" },
        { "unknown id", "unknown id" },
        { "header too short", "a message of 15 bytes" },
        { "huge message", "a message of 4294967295 bytes" },
        { "unknown type", "type" },
    };

    [Theory]
    [MemberData(nameof(BadReplies))]
    public void A_wrong_reply_is_a_protocol_error(string what, string expected)
    {
        using var server = new RawServer();
        server.Play(peer =>
        {
            peer.AcceptVersion();
            using RawMessage request = peer.Receive();
            MessageHeader header = request.Header;
            header.Flags = HeaderFlags.Reply;
            var body = new RegionAccessBody { Count = 4 };
            switch (what)
            {
                case "longer than asked":
                    peer.Reply(header, RawPeer.Bytes(body, new byte[5]));
                    break;
                case "shorter than asked":
                    peer.Reply(header, RawPeer.Bytes(body, new byte[3]));
                    break;
                case "another count":
                    body.Count = 3;
                    peer.Reply(header, RawPeer.Bytes(body, new byte[4]));
                    break;
                case "another command":
                    header.Command = Command.RegionWrite;
                    peer.Reply(header, RawPeer.Bytes(body, new byte[4]));
                    break;
                case "unknown id":
                    header.Id ^= 0x8001;
                    peer.Reply(header, RawPeer.Bytes(body, new byte[4]));
                    break;
                case "header too short":
                    header.Length = 15;
                    peer.SendBytes(RawPeer.Bytes(header));
                    break;
                case "huge message":
                    header.Length = uint.MaxValue;
                    peer.SendBytes(RawPeer.Bytes(header));
                    break;
                case "unknown type":
                    header.Flags = (HeaderFlags)2;
                    peer.SendBytes(RawPeer.Message(header, []));
                    break;
            }
            Assert.Null(peer.TryReceive());
        });
        using VfioUserClient client = server.Connect();
        var e = Assert.Throws<VfioUserProtocolException>(() => client.ReadRegion(0, 0, new byte[4]));
        Assert.Contains(expected, e.Message, StringComparison.Ordinal);
        Background.LossOf(client);
    }

    [Fact]
    public void Bytes_that_trickle_in_make_a_reply_all_the_same()
    {
        using var server = new RawServer();
        server.Play(peer =>
        {
            peer.AcceptVersion();
            using RawMessage request = peer.Receive();
            MessageHeader header = request.Header;
            header.Flags = HeaderFlags.Reply;
            foreach (byte b in RawPeer.Message(header, RawPeer.Bytes(new RegionAccessBody { Count = 4 }, [1, 2, 3, 4])))
                peer.SendBytes([b]);
        });
        using VfioUserClient client = server.Connect();
        byte[] data = new byte[4];
        client.ReadRegion(0, 0, data);
        Assert.Equal([1, 2, 3, 4], data);
    }

    [Fact]
    public void An_error_reply_with_a_body_keeps_the_stream_in_step()
    {
        using var server = new RawServer();
        server.Play(peer =>
        {
            peer.AcceptVersion();
            using (RawMessage request = peer.Receive())
                peer.Reply(request.Header, new byte[5000], Errno.EPERM);
            using (RawMessage request = peer.Receive())
                peer.Reply(request.Header, []);
        });
        using VfioUserClient client = server.Connect();
        var e = Assert.Throws<VfioUserRemoteException>(() => client.ReadRegion(0, 0, new byte[4]));
        Assert.Equal((Errno.EPERM, "REGION_READ"), (e.Errno, e.Command));
        client.Reset();
    }

    [Fact]
    public void Region_information_is_asked_for_twice_and_its_file_belongs_to_the_caller()
    {
        using var server = new RawServer();
        using MemFd file = MemFd.Create("bar", 0x8000);
        server.Play(peer =>
        {
            peer.AcceptVersion();
            var info = new RegionInfoBody { ArgSize = 72, Flags = RegionFlags.Read | RegionFlags.Write | RegionFlags.Mmap, Index = 2, Size = 0x8000, FileOffset = 0x1000 };
            using (RawMessage first = peer.Receive())
            {
                Assert.Equal(32u, first.As<RegionInfoBody>().ArgSize);
                peer.Reply(first.Header, RawPeer.Bytes(info), Errno.None, file); // an early descriptor: must be closed
            }
            using (RawMessage second = peer.Receive())
            {
                Assert.Equal(72u, second.As<RegionInfoBody>().ArgSize);
                info.Flags |= RegionFlags.Caps;
                info.CapabilityOffset = 32;
                byte[] other = RawPeer.Bytes(new CapabilityHeader { Id = 9, Version = 1, Next = 40 });
                byte[] sparse = RawPeer.Bytes(
                    new CapabilityHeader { Id = 1, Version = 1 },
                    RawPeer.Bytes(new SparseMmapBody { Count = 1 }, RawPeer.Bytes(new SpanBody { Start = 0x2000, Length = 0x1000 })));
                peer.Reply(second.Header, [.. RawPeer.Bytes(info), .. other, .. sparse], Errno.None, file, file);
            }
            peer.TryReceive();
        });
        VfioUserClient client = server.Connect();
        int before = OpenFiles.Count();
        RegionInfo region = client.GetRegionInfo(2);
        Assert.Equal((0x8000ul, 0x1000ul), (region.Size, region.FileOffset));
        Assert.Equal([new SparseArea(0x2000, 0x1000)], region.Mappable);
        Assert.Equal(stat.Of(file).Inode, stat.Of(region.File!).Inode);
        region.File!.Dispose();
        OpenFiles.AssertReturnsTo(before);
        client.Dispose();
    }

    public static TheoryData<string> BadRegions => ["chain loops", "chain leaves", "too many areas", "area leaves", "too long", "short"];

    [Theory]
    [MemberData(nameof(BadRegions))]
    public void Bad_region_information_is_a_protocol_error(string what)
    {
        using var server = new RawServer();
        using MemFd file = MemFd.Create("bar", 0x8000);
        server.Play(peer =>
        {
            peer.AcceptVersion();
            var info = new RegionInfoBody { ArgSize = 64, Flags = RegionFlags.Mmap | RegionFlags.Caps, Index = 0, Size = 0x8000, CapabilityOffset = 32 };
            var head = new CapabilityHeader { Id = 1, Version = 1 };
            var sparse = new SparseMmapBody { Count = 1 };
            var area = new SpanBody { Start = 0x1000, Length = 0x1000 };
            switch (what)
            {
                case "chain loops":
                    head = new CapabilityHeader { Id = 5, Version = 1, Next = 32 };
                    break;
                case "chain leaves":
                    info.CapabilityOffset = 60;
                    break;
                case "too many areas":
                    sparse.Count = uint.MaxValue;
                    break;
                case "area leaves":
                    area = new SpanBody { Start = 0x7000, Length = ulong.MaxValue - 0x6000 };
                    break;
                case "too long":
                    info.ArgSize = uint.MaxValue;
                    break;
            }
            for (int i = 0; i < 2; i++)
            {
                using RawMessage? request = peer.TryReceive();
                if (request is null)
                    return;
                byte[] body = [.. RawPeer.Bytes(info), .. RawPeer.Bytes(head), .. RawPeer.Bytes(sparse), .. RawPeer.Bytes(area)];
                peer.Reply(request.Header, what == "short" ? body.AsSpan(0, 20) : i == 0 ? body.AsSpan(0, 32) : body, Errno.None, file);
            }
            peer.TryReceive();
        });
        using VfioUserClient client = server.Connect();
        int before = OpenFiles.Count();
        Assert.Throws<VfioUserProtocolException>(() => client.GetRegionInfo(0));
        OpenFiles.AssertReturnsTo(before);
    }

    [Theory]
    [InlineData(Errno.EINVAL)]
    [InlineData(Errno.ENOTTY)]
    [InlineData(Errno.ENOTSUP)]
    public void A_device_without_migration_is_no_error(Errno errno)
    {
        using var server = new RawServer();
        server.Play(peer =>
        {
            peer.AcceptVersion();
            while (peer.TryReceive() is { } request)
            {
                using (request)
                    peer.Reply(request.Header, [], errno);
            }
        });
        using VfioUserClient client = server.Connect();
        Assert.Equal(MigrationSupport.None, client.GetMigrationSupport());
        Assert.False(client.SupportsDmaLogging());
        Assert.Null(client.GetStopCopySize());
    }

    [Fact]
    public void Padded_migration_data_is_cut_to_what_it_says()
    {
        using var server = new RawServer();
        server.Play(peer =>
        {
            peer.AcceptVersion();
            using RawMessage request = peer.Receive();
            byte[] body = RawPeer.Bytes(new MigrationDataBody { ArgSize = 8 + 3, Size = 3 }, new byte[100]);
            body[8] = 77;
            peer.Reply(request.Header, body);
        });
        using VfioUserClient client = server.Connect();
        byte[] data = new byte[100];
        Assert.Equal(3, client.ReadMigrationData(data));
        Assert.Equal(77, data[0]);
    }

    [Fact]
    public void Bits_behind_the_range_are_not_believed()
    {
        using var server = new RawServer();
        server.Play(peer =>
        {
            peer.AcceptVersion();
            using RawMessage request = peer.Receive();
            peer.Reply(request.Header, [.. request.Body, .. Enumerable.Repeat((byte)0xff, 8)]);
        });
        using VfioUserClient client = server.Connect();
        ulong[] bitmap = [1UL << 63];
        client.ReportDmaLog(new DmaRange(new DmaAddress(0x10000), 3 * 4096), 4096, bitmap);
        Assert.Equal([(1UL << 63) | 7], bitmap);
    }

    [Fact]
    public void Large_reports_are_asked_for_in_aligned_pieces()
    {
        using var server = new RawServer();
        var pieces = new List<LogReportBody>();
        server.Play(peer =>
        {
            peer.AcceptVersion("""{"capabilities":{"max_data_xfer_size":4096}}""");
            while (peer.TryReceive() is { } request)
            {
                using (request)
                {
                    var report = System.Runtime.InteropServices.MemoryMarshal.Read<LogReportBody>(request.Body.AsSpan(8));
                    pieces.Add(report);
                    byte[] bits = new byte[Wire.BitmapBytes(report.Length, report.PageSize)];
                    bits[0] = 1;
                    peer.Reply(request.Header, [.. request.Body, .. bits]);
                }
            }
        });
        using (VfioUserClient client = server.Connect())
        {
            ulong[] bitmap = new ulong[2000];
            client.ReportDmaLog(new DmaRange(new DmaAddress(0x1000), 100_001 * 4096), 4096, bitmap);
            ulong[] first = [.. pieces.Select(p => (p.Address - 0x1000) / 4096)];
            Assert.All(first, page => Assert.Equal(1ul, bitmap[page / 64]));
            Assert.Equal(pieces.Count, bitmap.Count(word => word != 0));
        }
        Assert.True(pieces.Count >= 4);
        Assert.All(pieces, p => Assert.Equal(0ul, (p.Address - 0x1000) / 4096 % 64));
        Assert.All(pieces, p => Assert.True(24 + Wire.BitmapBytes(p.Length, 4096) <= 4096));
        Assert.Equal(100_001ul * 4096, pieces.Aggregate(0ul, (sum, p) => sum + p.Length));
    }

    [Fact]
    public void A_handler_may_need_a_lock_held_by_who_waits_for_the_device()
    {
        // A vCPU holds the machine's lock and waits for a region read; before it is answered a DMA request comes whose handler wants
        // that lock. Were handlers called where replies are received, nothing would move any more.
        using var server = new RawServer();
        var machine = new object();
        Background script = server.Play(peer =>
        {
            peer.AcceptVersion();
            using RawMessage read = peer.Receive();
            peer.Send(Command.DmaRead, RawPeer.Bytes(new DmaAccessBody { Address = 0x1000, Count = 8 }));
            peer.Reply(read.Header, RawPeer.Bytes(read.As<RegionAccessBody>(), new byte[4]));
            using RawMessage answer = peer.Receive();
            Assert.Equal((Command.DmaRead, true, 24), (answer.Header.Command, answer.Header.IsReply, answer.Body.Length));
        });
        using VfioUserClient client = server.Connect(dma: new LockingDma(machine));
        lock (machine)
            client.ReadRegion(0, 0, new byte[4]);
        script.Join();
    }

    [Fact]
    public void More_commands_than_are_queued_before_a_reply_end_with_the_time_for_that_reply()
    {
        // The caller receives its own reply, behind commands that find no room, since their handler needs the caller's lock.
        using var server = new RawServer();
        var clock = new ManualClock();
        var machine = new object();
        using var ended = new ManualResetEventSlim();
        server.Play(peer =>
        {
            peer.AcceptVersion();
            using RawMessage read = peer.Receive();
            var flood = new List<byte>();
            for (ushort i = 0; i < 1500; i++)
                flood.AddRange(RawPeer.Message(new MessageHeader { Id = i, Command = Command.DmaRead }, RawPeer.Bytes(new DmaAccessBody { Address = 0x1000, Count = 8 })));
            peer.SendBytes(flood.ToArray());
            while (!ended.IsSet)
            {
                clock.Advance(TimeSpan.FromSeconds(5));
                Thread.Yield();
            }
        });
        using VfioUserClient client = server.Connect(new VfioUserClientOptions { Clock = clock, ReplyTimeout = TimeSpan.FromSeconds(5) }, new LockingDma(machine));
        Background caller = Background.Run(() =>
        {
            lock (machine)
            {
                var e = Assert.Throws<VfioUserDisconnectedException>(() => client.ReadRegion(0, 0, new byte[4]));
                Assert.Contains("no reply to REGION_READ", e.Message, StringComparison.Ordinal);
            }
        });
        try
        {
            caller.Join();
            Background.LossOf(client);
        }
        finally
        {
            ended.Set();
        }
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void A_connection_that_ends_while_a_request_is_being_made_ends_the_request(bool queued)
    {
        // The clock is looked at when a request is made: the connection ends right there.
        using var server = new RawServer();
        using var hangUp = new ManualResetEventSlim();
        server.Play(peer =>
        {
            peer.AcceptVersion();
            Assert.True(hangUp.Wait(TestServer.Patience));
        });
        var clock = new InterruptedClock();
        using VfioUserClient client = server.Connect(new VfioUserClientOptions { Clock = clock, ReplyTimeout = TestServer.Patience });
        using MemFd file = MemFd.Create("ram", 4096);
        clock.Interrupt = () =>
        {
            hangUp.Set();
            Background.LossOf(client);
        };
        Background.Run(() => Assert.Throws<VfioUserDisconnectedException>(() =>
        {
            if (!queued)
                client.Reset();
            client.DmaMapQueued(new DmaRange(new DmaAddress(0), 4096), DmaAccess.Read, file, 0);
            client.DmaFlush();
        })).Join();
        Assert.Null(clock.Interrupt);
    }

    [Fact]
    public void Wrong_commands_of_the_device_get_errors()
    {
        using var server = new RawServer();
        var dma = new ArrayDma(0x1000, 0x1000);
        Background script = server.Play(peer =>
        {
            peer.AcceptVersion();
            Assert.Equal(Errno.ENOSYS, peer.Try(Command.RegionRead, new byte[16]));
            Assert.Equal(Errno.ENOSYS, peer.Try((Command)14, []));
            Assert.Equal(Errno.EINVAL, peer.Try(Command.DmaRead, new byte[15]));
            Assert.Equal(Errno.E2BIG, peer.Try(Command.DmaRead, RawPeer.Bytes(new DmaAccessBody { Address = 0x1000, Count = (1 << 20) + 1 })));
            Assert.Equal(Errno.E2BIG, peer.Try(Command.DmaRead, RawPeer.Bytes(new DmaAccessBody { Address = 0x1000, Count = ulong.MaxValue })));
            Assert.Equal(Errno.ENODEV, peer.Try(Command.DmaRead, RawPeer.Bytes(new DmaAccessBody { Address = 0x2000, Count = 1 })));
            Assert.Equal(Errno.EINVAL, peer.Try(Command.DmaRead, RawPeer.Bytes(new DmaAccessBody { Address = ulong.MaxValue, Count = 2 })));
            Assert.Equal(Errno.EINVAL, peer.Try(Command.DmaWrite, RawPeer.Bytes(new DmaAccessBody { Address = 0x1000, Count = 4 }, new byte[5])));
            Assert.Equal(Errno.None, peer.Try(Command.DmaWrite, RawPeer.Bytes(new DmaAccessBody { Address = 0x1004, Count = 4 }, [1, 2, 3, 4])));
            peer.Send(Command.DmaWrite, RawPeer.Bytes(new DmaAccessBody { Address = 0x1008, Count = 1 }, [9]), HeaderFlags.NoReply);
            RawMessage read = peer.Call(Command.DmaRead, RawPeer.Bytes(new DmaAccessBody { Address = 0x1004, Count = 5 }));
            Assert.Equal([1, 2, 3, 4, 9], read.Body[16..]);
        });
        using VfioUserClient client = server.Connect(dma: dma);
        script.Join();
    }

    [Fact]
    public void Descriptors_nobody_asked_for_are_closed()
    {
        using var server = new RawServer();
        using MemFd file = MemFd.Create("f", 4096);
        server.Play(peer =>
        {
            peer.AcceptVersion();
            for (int i = 0; i < 50; i++)
            {
                using (RawMessage request = peer.Receive())
                    peer.Reply(request.Header, [], i % 2 == 0 ? Errno.None : Errno.EIO, [.. Enumerable.Repeat(file, i % 10)]);
                peer.Send(Command.DmaRead, new byte[16], HeaderFlags.NoReply, file, file);
            }
            peer.TryReceive();
        });
        VfioUserClient client = server.Connect();
        int before = OpenFiles.Count();
        for (int i = 0; i < 50; i++)
        {
            if (i % 2 == 0)
                client.Reset();
            else
                Assert.Throws<VfioUserRemoteException>(client.Reset);
        }
        OpenFiles.AssertReturnsTo(before);
        client.Dispose();
    }

    private sealed class LockingDma(object machine) : IDmaMessageHandler
    {
        public Errno Read(DmaAddress address, Span<byte> destination)
        {
            lock (machine)
                destination.Clear();
            return Errno.None;
        }

        public Errno Write(DmaAddress address, ReadOnlySpan<byte> data) => Errno.ENODEV;
    }
}
