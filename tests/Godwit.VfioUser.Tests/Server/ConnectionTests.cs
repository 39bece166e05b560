using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>Who may connect when, and what is left behind.</summary>
public sealed class ConnectionTests
{
    [Fact]
    public void After_a_disconnect_the_next_client_is_served_and_old_state_is_gone()
    {
        using var server = new TestServer();
        using MemFd ram = MemFd.Create("ram", 0x10000);
        for (int i = 0; i < 20; i++)
        {
            using VfioUserClient client = server.Connect(out IDeviceHost host);
            Assert.False(host.Read(new DmaAddress(0), new byte[1]));
            client.DmaMap(new DmaRange(new DmaAddress(0), 0x10000), DmaAccess.Read, ram, 0);
            client.StartDmaLogging(4096, []);
            Assert.True(host.Read(new DmaAddress(0), new byte[1]));
            client.SetMigrationState(i % 2 == 0 ? DeviceMigrationState.Stop : DeviceMigrationState.Running);
            client.Dispose();
            TestServer.Take(server.Device.Disconnections);
        }
    }

    [Fact]
    public void The_migration_state_outlives_a_connection()
    {
        using var server = new TestServer();
        using (VfioUserClient client = server.Connect())
            client.SetMigrationState(DeviceMigrationState.Stop);
        using (VfioUserClient client = server.Connect())
        {
            Assert.Equal(DeviceMigrationState.Stop, client.GetMigrationState());
            client.Reset();
            Assert.Equal(DeviceMigrationState.Running, client.GetMigrationState());
        }
    }

    [Fact]
    public void A_second_client_is_told_that_the_device_is_busy()
    {
        using var server = new TestServer();
        using VfioUserClient first = server.Connect();
        for (int i = 0; i < 3; i++)
        {
            var e = Assert.Throws<VfioUserRemoteException>(() => server.Connect());
            Assert.Equal(Errno.EBUSY, e.Errno);
            Assert.Contains("has a client already", e.Message, StringComparison.Ordinal);
        }
        first.Reset(); // undisturbed
        Assert.Contains(server.Log, line => line.Contains("another one is connected", StringComparison.Ordinal));
    }

    [Fact]
    public void A_silent_second_client_holds_nobody_up()
    {
        using var server = new TestServer();
        using VfioUserClient first = server.Connect();
        using RawPeer silent = RawPeer.Connect(server.Path);
        Assert.Equal(Errno.EBUSY, Assert.Throws<VfioUserRemoteException>(() => server.Connect()).Errno);
        first.Reset();
    }

    [Fact]
    public void A_second_client_that_says_nothing_is_let_go()
    {
        var clock = new ManualClock();
        using var server = new TestServer(configure: o => o with { RefusalTimeout = TimeSpan.FromHours(1), Clock = clock });
        using VfioUserClient first = server.Connect();
        using RawPeer silent = RawPeer.Connect(server.Path);
        clock.AwaitTimer();
        clock.Advance(TimeSpan.FromHours(1));
        Assert.Null(silent.TryReceive());
        first.Reset();
    }

    [Fact]
    public void A_client_that_does_not_read_is_gone_after_a_while_and_holds_no_thread_of_the_device()
    {
        using var server = new TestServer(configure: o => o with { SendTimeout = TimeSpan.FromMilliseconds(50) });
        using RawPeer peer = RawPeer.ConnectAndNegotiate(server.Path);
        IDeviceHost host = TestServer.Take(server.Device.Connections);
        Assert.Equal(Errno.None, peer.Try(Command.DmaMap, RawPeer.Bytes(new DmaMapBody { ArgSize = 32, Flags = 1, Size = 4096 })));
        for (int i = 0; i < 5; i++)
            peer.Send(Command.RegionRead, RawPeer.Bytes(new RegionAccessBody { Region = 2, Count = 1 << 20 }));
        Background device = Background.Run(() => Assert.False(host.Read(new DmaAddress(0), new byte[4])));
        TestServer.Take(server.Device.Disconnections);
        device.Join();
        Assert.Null(server.Device.Host);
    }

    [Fact]
    public void A_client_that_never_says_its_version_is_put_out()
    {
        var clock = new ManualClock();
        using var server = new TestServer(configure: o => o with { HandshakeTimeout = TimeSpan.FromHours(1), Clock = clock });
        using RawPeer silent = RawPeer.Connect(server.Path);
        clock.AwaitTimer();
        clock.Advance(TimeSpan.FromMinutes(59));
        Assert.DoesNotContain(server.Log, line => line.Contains("in time", StringComparison.Ordinal));
        clock.Advance(TimeSpan.FromMinutes(1));
        Assert.Null(silent.TryReceive());
        using VfioUserClient client = server.Connect();
        client.Reset();
    }

    public static TheoryData<string> BadVersions =>
        ["other major", "short", "no nul", "bad json", "small pages", "descriptor", "not version first", "reply", "huge", "tiny"];

    [Theory]
    [MemberData(nameof(BadVersions))]
    public void A_bad_first_message_is_refused_and_the_next_client_served(string what)
    {
        using var server = new TestServer();
        using MemFd file = MemFd.Create("f", 4096);
        using (RawPeer peer = RawPeer.Connect(server.Path))
        {
            var header = new MessageHeader { Id = 7, Command = Command.Version };
            byte[] good = RawPeer.VersionBody(0, 0, RawPeer.QemuVersionJson);
            switch (what)
            {
                case "other major":
                    peer.SendBytes(RawPeer.Message(header, RawPeer.VersionBody(1, 0, "{}")));
                    break;
                case "short":
                    peer.SendBytes(RawPeer.Message(header, new byte[3]));
                    break;
                case "no nul":
                    peer.SendBytes(RawPeer.Message(header, good.AsSpan(0, good.Length - 1)));
                    break;
                case "bad json":
                    peer.SendBytes(RawPeer.Message(header, RawPeer.VersionBody(0, 0, "{\"capabilities\":7}")));
                    break;
                case "small pages":
                    peer.SendBytes(RawPeer.Message(header, RawPeer.VersionBody(0, 0, "{\"capabilities\":{\"pgsizes\":3072}}")));
                    break;
                case "descriptor":
                    peer.SendBytes(RawPeer.Message(header, good), file);
                    break;
                case "not version first":
                    header.Command = Command.DeviceReset;
                    peer.SendBytes(RawPeer.Message(header, []));
                    break;
                case "reply":
                    header.Flags = HeaderFlags.Reply;
                    peer.SendBytes(RawPeer.Message(header, good));
                    break;
                case "huge":
                    header.Length = uint.MaxValue;
                    peer.SendBytes(RawPeer.Bytes(header));
                    break;
                case "tiny":
                    header.Length = 15;
                    peer.SendBytes(RawPeer.Bytes(header));
                    break;
            }
            if (what == "reply")
            {
                peer.Socket.Shutdown(); // a reply to nothing is dropped
            }
            else
            {
                using RawMessage answer = peer.Receive();
                Assert.Equal((7, Errno.EINVAL), (answer.Header.Id, answer.Header.ReplyErrno));
                Assert.Empty(answer.Body);
                Assert.Null(peer.TryReceive());
            }
        }
        using VfioUserClient client = server.Connect();
        client.Reset();
        Assert.Single(server.Device.Connections); // the device never saw the other
    }

    [Fact]
    public void Version_is_answered_compactly_and_with_the_lower_minor()
    {
        using var server = new TestServer();
        using RawPeer peer = RawPeer.Connect(server.Path);
        using RawMessage reply = peer.Call(Command.Version, RawPeer.VersionBody(0, 9, RawPeer.QemuVersionJson));
        Assert.Equal((0, 0), (reply.As<VersionBody>().Major, reply.As<VersionBody>().Minor));
        Assert.True(reply.Body.Length < 198);
        Capabilities said = Capabilities.Parse(reply.Body.AsSpan(4));
        Assert.Equal((16, 1 << 20, 65535, 4096ul), (said.MaxMessageFds, said.MaxTransfer, said.MaxDmaMaps, said.MigrationPageSize));
        Assert.Equal(Errno.EINVAL, peer.Try(Command.Version, RawPeer.VersionBody(0, 0, null))); // once is enough
    }

    [Theory]
    [InlineData(0x1000UL, 0x1000UL)]
    [InlineData(0x40200000UL, 0x40200000UL)]
    [InlineData(0x40200C00UL, 0x40200000UL)]
    public void The_clients_page_sizes_are_answered_as_far_as_they_can_be_mapped(ulong proposed, ulong answered)
    {
        using var server = new TestServer();
        using RawPeer peer = RawPeer.Connect(server.Path);
        using RawMessage reply = peer.Call(Command.Version, RawPeer.VersionBody(0, 0, $$$"""{"capabilities":{"pgsizes":{{{proposed}}}}}"""));
        Assert.Equal(answered, Capabilities.Parse(reply.Body.AsSpan(4)).PageSizes);
        Assert.Equal(Errno.None, peer.Try(Command.DmaMap, RawPeer.Bytes(new DmaMapBody { ArgSize = 32, Flags = 1, Size = answered & (0 - answered) })));
    }

    [Theory]
    [InlineData(1, true)]
    [InlineData(0, false)]
    public void A_region_to_map_is_offered_to_who_takes_descriptors(int maxFiles, bool offered)
    {
        using MemFd memory = MemFd.Create("bar", 0x4000);
        var plain = new TestDevice();
        using var server = new TestServer(new TestDevice
        {
            Description = plain.Description with { Regions = new Dictionary<int, DeviceRegion>(plain.Description.Regions) { [0] = new(0x4000, memory) } },
        });
        using RawPeer peer = RawPeer.ConnectAndNegotiate(server.Path, $$$"""{"capabilities":{"max_msg_fds":{{{maxFiles}}}}}""");
        using RawMessage reply = peer.Call(Command.DeviceGetRegionInfo, RawPeer.Bytes(new RegionInfoBody { ArgSize = 4096 }));
        Assert.Equal(offered, (reply.As<RegionInfoBody>().Flags & RegionFlags.Mmap) != 0);
        Assert.Equal(maxFiles, reply.Files.Length);
    }

    [Fact]
    public void The_limit_on_mappings_is_the_smaller_of_both_sides()
    {
        using var server = new TestServer();
        using RawPeer peer = RawPeer.ConnectAndNegotiate(server.Path, """{"capabilities":{"max_dma_maps":3}}""");
        for (ulong i = 0; i < 5; i++)
        {
            Errno expected = i < 3 ? Errno.None : Errno.ENOSPC;
            Assert.Equal(expected, peer.Try(Command.DmaMap, RawPeer.Bytes(new DmaMapBody { ArgSize = 32, Flags = 1, Address = i << 12, Size = 4096 })));
        }
    }

    [Fact]
    public void Stopping_ends_a_session_in_the_middle_of_a_message_and_removes_the_socket()
    {
        using var server = new TestServer();
        using RawPeer peer = RawPeer.ConnectAndNegotiate(server.Path);
        peer.SendBytes(RawPeer.Bytes(new MessageHeader { Command = Command.RegionWrite, Length = 1000 }));
        server.Stop();
        Assert.Null(peer.TryReceive());
        Assert.False(File.Exists(server.Path));
        Assert.Single(server.Device.Disconnections);
    }

    [Fact]
    public void Stopping_ends_a_send_to_a_client_that_does_not_read()
    {
        using var server = new TestServer();
        using RawPeer peer = RawPeer.ConnectAndNegotiate(server.Path);
        using var reading = new CountdownEvent(5);
        server.Device.OnRead = (_, _, _) =>
        {
            if (!reading.IsSet)
                reading.Signal();
            return Errno.None;
        };
        for (int i = 0; i < 5; i++)
            peer.Send(Command.RegionRead, RawPeer.Bytes(new RegionAccessBody { Region = 2, Count = 1 << 20 }));
        server.Stop(); // whichever of the replies it is stuck in
    }

    [Fact]
    public void A_device_that_hangs_for_a_client_that_has_gone_keeps_neither_the_next_nor_the_server_waiting()
    {
        var clock = new ManualClock();
        using var hang = new ManualResetEventSlim();
        using var hanging = new ManualResetEventSlim();
        var device = new TestDevice
        {
            OnWrite = (_, _, _) =>
            {
                hanging.Set();
                hang.Wait(TestServer.Patience);
                return Errno.None;
            },
        };
        string directory = Directory.CreateTempSubdirectory("gwvs").FullName;
        var lines = new System.Collections.Concurrent.BlockingCollection<string>();
        using var stop = new CancellationTokenSource();
        var options = new VfioUserServerOptions { SocketPath = Path.Combine(directory, "s"), Clock = clock, DetachTimeout = TimeSpan.FromHours(1), Log = lines.Add };
        Background run = Background.Run(() =>
        {
            var e = Assert.Throws<TimeoutException>(() => VfioUserServer.Run(device, options, stop.Token));
            Assert.Contains("01:00:00", e.Message, StringComparison.Ordinal);
        });
        Assert.StartsWith("listening", TestServer.Take(lines), StringComparison.Ordinal);
        using (RawPeer peer = RawPeer.ConnectAndNegotiate(options.SocketPath))
        {
            peer.Send(Command.RegionWrite, RawPeer.Bytes(new RegionAccessBody { Count = 1 }, [1]));
            Assert.True(hanging.Wait(TestServer.Patience));
        }
        using (RawPeer next = RawPeer.Connect(options.SocketPath))
        {
            clock.AwaitTimer();
            clock.Advance(TimeSpan.FromHours(1));
            using RawMessage reply = next.Call(Command.Version, RawPeer.VersionBody(0, 0, RawPeer.QemuVersionJson));
            Assert.Equal(Errno.EBUSY, reply.Header.ReplyErrno);
        }
        stop.Cancel();
        while (run.IsRunning)
        {
            clock.Advance(TimeSpan.FromHours(1)); // whenever it has begun to wait
            Thread.Yield();
        }
        run.Join();
        hang.Set();
        TestServer.Take(device.Disconnections);
        Directory.Delete(directory, recursive: true);
    }

    [Fact]
    public void A_path_taken_by_a_file_is_refused_and_the_file_kept()
    {
        string directory = Directory.CreateTempSubdirectory("gwvs").FullName;
        string path = Path.Combine(directory, "s");
        File.WriteAllText(path, "precious");
        var e = Assert.Throws<LinuxException>(
            () => VfioUserServer.Run(new TestDevice(), new VfioUserServerOptions { SocketPath = path }, CancellationToken.None));
        Assert.Equal(Errno.ENOTSOCK, e.Errno);
        Assert.Contains(path, e.Message, StringComparison.Ordinal);
        Assert.Equal("precious", File.ReadAllText(path));
        Directory.Delete(directory, recursive: true);
    }

    [Fact]
    public void A_live_server_keeps_its_path()
    {
        using var server = new TestServer();
        var e = Assert.Throws<LinuxException>(
            () => VfioUserServer.Run(new TestDevice(), new VfioUserServerOptions { SocketPath = server.Path }, CancellationToken.None));
        Assert.Equal(Errno.EADDRINUSE, e.Errno);
        using VfioUserClient client = server.Connect();
        client.Reset();
    }

    [Fact]
    public void A_socket_left_behind_is_replaced()
    {
        string directory = Directory.CreateTempSubdirectory("gwvs").FullName;
        string path = Path.Combine(directory, "s");
        SocketHandle.Listen(path, 1).Dispose(); // closing does not remove it
        Assert.True(File.Exists(path));
        using var stop = new CancellationTokenSource();
        using var listening = new ManualResetEventSlim();
        Background run = Background.Run(
            () => VfioUserServer.Run(new TestDevice(), new VfioUserServerOptions { SocketPath = path, Log = _ => listening.Set() }, stop.Token));
        Assert.True(listening.Wait(TestServer.Patience));
        using (VfioUserClient client = VfioUserClient.Connect(path, new VfioUserClientOptions(), new NoDma()))
            client.Reset();
        stop.Cancel();
        run.Join();
        Assert.False(File.Exists(path));
        Directory.Delete(directory, recursive: true);
    }

    [Fact]
    public void A_device_that_throws_costs_one_error_reply()
    {
        using var server = new TestServer();
        server.Device.OnRead = (_, _, _) => throw new InvalidOperationException("the device's own bug");
        using VfioUserClient client = server.Connect();
        Assert.Equal(Errno.EIO, Assert.Throws<VfioUserRemoteException>(() => client.ReadRegion(0, 0, new byte[4])).Errno);
        client.Reset();
        Assert.Contains(server.Log, line => line.Contains("the device's own bug", StringComparison.Ordinal));
    }
}
