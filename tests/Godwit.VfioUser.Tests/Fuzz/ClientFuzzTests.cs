using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>A client against a server that damages its answers: only typed errors, no hang, nothing leaked.</summary>
public sealed class ClientFuzzTests
{
    [Fact]
    public void A_client_survives_whatever_a_server_says()
    {
        int seed = FuzzSettings.Seed();
        int inputs = FuzzSettings.Inputs(1500);
        int damaged = 0;
        int connections = 0;
        var random = new Random(seed);
        using MemFd file = MemFd.Create("bar", 0x10000);
        using EventFd eventFd = EventFd.Create();
        string directory = Directory.CreateTempSubdirectory("gwvf").FullName;
        string path = Path.Combine(directory, "s");
        int before;
        using (SocketHandle listener = SocketHandle.Listen(path, 16))
        {
            before = OpenFiles.Count();
            long memory = FuzzSettings.Memory();
            bool over = false;
            var server = new Thread(() =>
            {
                for (int i = 1; ; i++)
                {
                    using SocketHandle socket = listener.Accept();
                    if (Volatile.Read(ref over))
                        return;
                    Interlocked.Add(ref damaged, Serve(new RawPeer(socket), new Random(seed + i), file, eventFd));
                }
            });
            server.Start();
            int worked = 0;
            for (; Volatile.Read(ref damaged) < inputs; connections++)
            {
                try
                {
                    using VfioUserClient client = VfioUserClient.Connect(path, new VfioUserClientOptions { ReplyTimeout = TestServer.Patience }, new ArrayDma(0, 0x10000));
                    for (int calls = random.Next(1, 8); calls > 0; calls--)
                    {
                        try
                        {
                            UseClient(client, random, file, eventFd);
                            worked++;
                        }
                        catch (VfioUserRemoteException)
                        {
                            // An answer like any other.
                        }
                    }
                }
                catch (VfioUserException)
                {
                    // The connection is over, and says so.
                }
            }
            Volatile.Write(ref over, true);
            SocketHandle.Connect(path).Dispose();
            Assert.True(server.Join(TestServer.Patience), $"seed {seed}: the server hangs");
            Assert.True(worked > connections / 4, $"seed {seed}: only {worked} calls worked");
            OpenFiles.AssertReturnsTo(before);
            FuzzSettings.AssertNotGrown(memory);
        }
        Directory.Delete(directory, recursive: true);
    }

    private static void UseClient(VfioUserClient client, Random random, FileDescriptor file, EventFd eventFd)
    {
        byte[] data = new byte[random.Next(1, 300)];
        switch (random.Next(17))
        {
            case 0:
                client.GetInfo();
                break;
            case 1:
                client.GetRegionInfo(0).File?.Dispose();
                break;
            case 2:
                client.GetIrqInfo(2);
                break;
            case 3:
                client.ReadRegion(0, 0, data);
                break;
            case 4:
                client.WriteRegion(0, 0, data, posted: random.Next(2) == 0);
                break;
            case 5:
                client.SetIrqEventFds(2, 0, [eventFd, null, eventFd]);
                break;
            case 6:
                client.DmaMap(new DmaRange(new DmaAddress(0), 4096), DmaAccess.Read, file, 0);
                break;
            case 7:
                for (int i = 0; i < 20; i++)
                {
                    client.DmaMapQueued(new DmaRange(new DmaAddress(0), 4096), DmaAccess.Read, file, 0);
                    client.DmaUnmapQueued(new DmaRange(new DmaAddress(0), 4096));
                }
                client.DmaFlush();
                break;
            case 8:
                client.GetMigrationSupport();
                break;
            case 9:
                client.GetMigrationState();
                break;
            case 10:
                client.SetMigrationState(DeviceMigrationState.StopCopy);
                break;
            case 11:
                client.ReadMigrationData(data);
                break;
            case 12:
                client.StartDmaLogging(4096, [new DmaRange(new DmaAddress(0), 0x10000)]);
                break;
            case 13:
                client.UseDoorbells(0, 0x10000);
                client.WriteRegion(0, 8, data.AsSpan(0, Math.Min(4, data.Length)), posted: true);
                break;
            case 14:
                client.DmaUnmap(new DmaRange(new DmaAddress(0), 0x10000), 4096, new ulong[1]);
                break;
            case 15:
                client.WriteRegions([new RegionWrite(0, 0, 4, 1), new RegionWrite(0, 8, 8, 2)], posted: random.Next(2) == 0);
                break;
            default:
                client.ReportDmaLog(new DmaRange(new DmaAddress(0), 0x30000), 4096, new ulong[1]);
                break;
        }
    }

    /// <summary>Answers rightly for a while, then wrongly, then goes. Returns how many messages were damaged.</summary>
    private static int Serve(RawPeer peer, Random random, FileDescriptor file, EventFd eventFd)
    {
        var mutator = new Mutator(random);
        int damaged = 0;
        try
        {
            while (peer.TryReceive() is { } request)
            {
                using (request)
                {
                    if (random.Next(10) == 0)
                        peer.Send(random.Next(2) == 0 ? Command.DmaRead : Command.DmaWrite, RawPeer.Bytes(new DmaAccessBody { Address = (ulong)random.Next(0x20000), Count = (ulong)random.Next(64) }, new byte[random.Next(64)]), HeaderFlags.NoReply);
                    if (!request.Header.WantsReply || !request.Header.IsCommand)
                        continue;
                    byte[] answer = RawPeer.Message(
                        new MessageHeader { Id = request.Header.Id, Command = request.Header.Command, Flags = HeaderFlags.Reply },
                        Answer(request));
                    FileDescriptor[] files = request.Header.Command == Command.DeviceGetRegionIoFds && random.Next(3) != 0
                        ? [eventFd, file]
                        : [.. Enumerable.Repeat(file, random.Next(4) == 0 ? random.Next(20) : 0)];
                    if (random.Next(5) != 0)
                    {
                        peer.SendBytes(answer, files);
                        continue;
                    }
                    damaged++;
                    peer.SendBytes(mutator.Mutate(answer), files);
                    // A client that was told of a longer message waits for it; it should not wait for the reply timeout here.
                    peer.Socket.SetReceiveTimeout(TimeSpan.FromMilliseconds(3));
                }
            }
        }
        catch (LinuxException e) when (e.Errno is Errno.EPIPE or Errno.ECONNRESET or Errno.EAGAIN)
        {
            // The client has gone, or waits.
        }
        peer.Socket.Shutdown();
        return damaged;
    }

    private static byte[] Answer(RawMessage request)
    {
        switch (request.Header.Command)
        {
            case Command.Version:
                return RawPeer.VersionBody(0, 0, """{"capabilities":{"max_msg_fds":8,"max_data_xfer_size":65536,"write_multiple":true}}""");
            case Command.DeviceGetRegionIoFds:
                byte[] entry = RawPeer.Bytes(new RegionIoFdsBody { ArgSize = 64, Count = 1 }, RawPeer.Bytes(new IoFdBody { Offset = 8, Size = 4, Type = IoFdType.ShadowIoEventFd, ShadowFileIndex = 1 }));
                return request.As<RegionIoFdsBody>().ArgSize >= 64 ? entry : entry[..16];
            case Command.RegionWriteMulti:
                return request.Body[..8];
            case Command.DmaUnmap when request.As<DmaUnmapBody>().Flags == DmaUnmapFlags.GetDirtyBitmap:
                return [.. request.Body, .. new byte[8]];
            case Command.DeviceGetInfo:
                return RawPeer.Bytes(new DeviceInfoBody { ArgSize = 16, Flags = DeviceFlags.Pci, Regions = 9, Irqs = 5 });
            case Command.DeviceGetRegionInfo:
                byte[] info = [.. RawPeer.Bytes(new RegionInfoBody { ArgSize = 64, Flags = (RegionFlags)15, CapabilityOffset = 32, Size = 0x10000 }), .. RawPeer.Bytes(new CapabilityHeader { Id = 1, Version = 1 }), .. RawPeer.Bytes(new SparseMmapBody { Count = 1 }), .. RawPeer.Bytes(new SpanBody { Start = 0x1000, Length = 0x1000 })];
                return request.As<RegionInfoBody>().ArgSize >= 64 ? info : info[..32];
            case Command.RegionRead:
                return [.. request.Body, .. new byte[request.As<RegionAccessBody>().Count]];
            case Command.RegionWrite:
                return request.Body[..16];
            case Command.DmaMap or Command.DeviceSetIrqs or Command.DeviceReset or Command.MigrationDataWrite:
                return [];
            case Command.MigrationDataRead:
                return RawPeer.Bytes(new MigrationDataBody { ArgSize = 11, Size = 3 }, new byte[3]);
            case Command.DeviceFeature when request.As<FeatureBody>().Flags == ((FeatureFlags)Feature.DmaLoggingReport | FeatureFlags.Get):
                return [.. request.Body, .. new byte[8]];
            case Command.DeviceFeature when request.As<FeatureBody>().Flags == ((FeatureFlags)Feature.MigrationDeviceState | FeatureFlags.Get):
                return [.. request.Body, .. RawPeer.Bytes(new MigrationStateBody { State = 2 })];
            case Command.DeviceFeature when request.As<FeatureBody>().Flags == ((FeatureFlags)Feature.Migration | FeatureFlags.Get):
                return [.. request.Body, .. BitConverter.GetBytes(7UL)];
            default:
                return request.Body;
        }
    }
}
