using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>Damaged messages against a live server whose device does DMA meanwhile: no crash, no hang, nothing leaked.</summary>
public sealed class ServerFuzzTests
{
    /// <summary>
    /// What a client may make the server open at most: its share of the files below as memory and as descriptors, an eventfd for each of 65
    /// vectors, 256 descriptors of commands that wait, and what is in hand, doorbells and sockets on both sides.
    /// </summary>
    private const int MostOpen = (2 * FilesOfOne) + 65 + 256 + 100;
    private const int FilesOfOne = 16;

    private const string JsonLetters = "{}[]\",:0123456789eE.-truefalsn\\ \0";

    [Fact]
    public void A_server_survives_whatever_a_client_says()
    {
        int seed = FuzzSettings.Seed();
        int messages = FuzzSettings.Inputs(20_000);
        var random = new Random(seed);
        var mutator = new Mutator(random);
        using var server = new TestServer(Device(), o => o with { DmaReplyTimeout = TimeSpan.FromMilliseconds(2), Files = new FileBudget(4 * FilesOfOne, 4 * FilesOfOne) });
        using MemFd ram = MemFd.Create("ram", 0x100000);
        using MemFd small = MemFd.Create("small", 4096);
        using EventFd eventFd = EventFd.Create();
        FileDescriptor[] files = [ram, ram, ram, eventFd, small];
        byte[][] corpus = Corpus();
        using (VfioUserClient warm = server.Connect())
            warm.Reset();
        int before = OpenFiles.Count();
        int mapped = OpenFiles.MappedFiles();
        long memory = FuzzSettings.Memory();

        using var stop = new CancellationTokenSource();
        var device = new Thread(() => DoDma(server.Device, seed, stop.Token));
        device.Start();
        int sent = 0;
        int connections = 0;
        while (sent < messages)
        {
            connections++;
            using RawPeer peer = RawPeer.Connect(server.Path);
            var reader = new Thread(() => Drain(peer.Socket));
            reader.Start();
            List<FileDescriptor> own = [.. Enumerable.Range(0, 2 * FilesOfOne).Select(_ => MemFd.Create("own", 0x2000))]; // of this connection alone
            try
            {
                peer.SendBytes(Version(corpus[random.Next(2)], random, mutator));
                for (int i = random.Next(2000); i > 0 && sent < messages; i--)
                {
                    byte[] message = corpus[random.Next(2, corpus.Length)];
                    FileDescriptor[] with = random.Next(3) == 0 ? [] : [.. Enumerable.Range(0, random.Next(3) == 0 ? random.Next(20) : 1).Select(_ => files[random.Next(files.Length)])];
                    if (with.Length != 0 && random.Next(2) == 0)
                        with[0] = own[random.Next(own.Count)];
                    bool damaged = random.Next(4) != 0;
                    sent += damaged ? 1 : 0;
                    message = damaged ? mutator.Mutate(message) : message;
                    int cut = random.Next(8) == 0 ? random.Next(1, message.Length) : message.Length;
                    peer.SendBytes(message.AsSpan(0, cut), with);
                    if (cut < message.Length) // the rest by itself, perhaps with descriptors that belong to nothing
                        peer.SendBytes(message.AsSpan(cut), random.Next(4) == 0 ? with : []);
                }
            }
            catch (LinuxException e) when (e.Errno is Errno.EPIPE or Errno.ECONNRESET)
            {
                // The server had enough of this client.
            }
            own.ForEach(file => file.Dispose());
            int open = OpenFiles.Count() - before;
            int maps = OpenFiles.MappedFiles() - mapped;
            Assert.True(open <= MostOpen && maps <= MostOpen, $"seed {seed}: {open} descriptors and {maps} mappings more than at the beginning");
            peer.Socket.Shutdown();
            Assert.True(reader.Join(TestServer.Patience), $"seed {seed}: a reply hangs");
            AssertNoDefect(server);
        }

        // The same server, well and whole.
        using (VfioUserClient client = server.Connect())
        {
            client.Reset();
            client.DmaMap(new DmaRange(new DmaAddress(0), 0x10000), DmaAccess.Read | DmaAccess.Write, ram, 0);
            client.StartDmaLogging(4096, []);
            client.WriteRegion(0, 0, [1, 2, 3, 4], posted: false);
            byte[] back = new byte[4];
            client.ReadRegion(0, 0, back);
            Assert.Equal([1, 2, 3, 4], back);
        }
        stop.Cancel();
        Assert.True(device.Join(TestServer.Patience), $"seed {seed}: the device hangs");
        Assert.True(connections > 1);
        AssertNoDefect(server);
        using (VfioUserClient last = server.Connect())
            last.Reset();
        OpenFiles.AssertReturnsTo(before);
        Assert.True(SpinWait.SpinUntil(() => OpenFiles.MappedFiles() <= mapped, TestServer.Patience), $"seed {seed}: {OpenFiles.MappedFiles()} mappings, {mapped} were");
        FuzzSettings.AssertNotGrown(memory);
    }

    /// <summary>The device has not failed; what it and the server have told since the last look is forgotten, or it would be what grows.</summary>
    private static void AssertNoDefect(TestServer server)
    {
        Assert.DoesNotContain(server.Log, line => line.Contains("failed in the device", StringComparison.Ordinal));
        server.Log.Clear();
        server.Device.Transitions.Clear();
        while (server.LogLines.TryTake(out _) || server.Device.Connections.TryTake(out _) || server.Device.Disconnections.TryTake(out _))
        {
        }
    }

    private static TestDevice Device()
    {
        var plain = new TestDevice();
        return new TestDevice
        {
            Description = plain.Description with
            {
                Regions = new Dictionary<int, DeviceRegion>(plain.Description.Regions) { [0] = new(0x4000, Doorbells: [new DoorbellRange(0x1000, 16)]) },
            },
        };
    }

    /// <summary>Whole mostly, or damaged as a message or in its text.</summary>
    private static byte[] Version(byte[] message, Random random, Mutator mutator)
    {
        switch (random.Next(20))
        {
            case 0:
                return mutator.Mutate(message);
            case 1:
                byte[] text = [.. message];
                for (int i = random.Next(1, 4); i > 0; i--)
                    text[random.Next(20, text.Length)] = (byte)JsonLetters[random.Next(JsonLetters.Length)];
                return text;
            default:
                return message;
        }
    }

    /// <summary>Reads replies so that the server can send them.</summary>
    private static void Drain(SocketHandle socket)
    {
        byte[] buffer = new byte[65536];
        try
        {
            while (socket.Receive(buffer) > 0)
            {
            }
        }
        catch (LinuxException e) when (e.Errno == Errno.ECONNRESET)
        {
            // Closed with something of ours unread.
        }
    }

    private static void DoDma(TestDevice device, int seed, CancellationToken stop)
    {
        var random = new Random(seed ^ 0x5555);
        byte[] buffer = new byte[8192];
        while (!stop.IsCancellationRequested)
        {
            if (device.Host is not { } host)
            {
                Thread.Yield();
                continue;
            }
            var address = new DmaAddress(random.Next(4) == 0 ? (ulong)random.NextInt64() : (ulong)random.Next(0x200000));
            Span<byte> data = buffer.AsSpan(0, random.Next(1, buffer.Length));
            switch (random.Next(3))
            {
                case 0:
                    host.Read(address, data);
                    break;
                case 1:
                    host.Write(address, data);
                    break;
                default:
                    if (host.TryAcquire(address, data.Length, forWrite: true, out DmaPiece piece))
                    {
                        unsafe
                        {
                            piece.Pointer[piece.Length - 1] = 1;
                        }
                        piece.Dispose();
                    }
                    break;
            }
            host.Trigger(PciIrq.Msix, random.Next(64));
        }
    }

    /// <summary>One valid message of each kind and more of those with most inside; two of VERSION first.</summary>
    private static byte[][] Corpus()
    {
        ushort id = 0;
        byte[] Message(Command command, byte[] body) => RawPeer.Message(new MessageHeader { Id = id++, Command = command }, body);
        byte[] WithFeature(Feature feature, FeatureFlags method, byte[] data) =>
            Message(Command.DeviceFeature, RawPeer.Bytes(new FeatureBody { ArgSize = 8192, Flags = (FeatureFlags)feature | method }, data));
        return
        [
            Message(Command.Version, RawPeer.VersionBody(0, 0, RawPeer.QemuVersionJson)),
            Message(Command.Version, RawPeer.VersionBody(0, 0, """{"capabilities":{"max_msg_fds":4,"twin_socket":{"supported":true},"write_multiple":true}}""")),
            Message(Command.DmaMap, RawPeer.Bytes(new DmaMapBody { ArgSize = 32, Flags = 3, Address = 0x10000, Size = 0x10000 })),
            Message(Command.DmaMap, RawPeer.Bytes(new DmaMapBody { ArgSize = 32, Flags = 3, FileOffset = 0x1000, Address = 0x40000, Size = 0x1000 })),
            Message(Command.DmaMap, RawPeer.Bytes(new DmaMapBody { ArgSize = 32, Flags = 1, Address = 0x100000, Size = 0x4000 })),
            Message(Command.DmaUnmap, RawPeer.Bytes(new DmaUnmapBody { ArgSize = 24, Address = 0x10000, Size = 0x10000 })),
            Message(Command.DmaUnmap, RawPeer.Bytes(new DmaUnmapBody { ArgSize = 24, Flags = DmaUnmapFlags.All })),
            Message(Command.DmaUnmap, RawPeer.Bytes(new DmaUnmapBody { ArgSize = 4096, Flags = DmaUnmapFlags.GetDirtyBitmap, Address = 0x40000, Size = 0x1000 }, RawPeer.Bytes(new SpanBody { Start = 4096, Length = 8 }))),
            Message(Command.DeviceGetInfo, RawPeer.Bytes(new DeviceInfoBody { ArgSize = 16 })),
            Message(Command.DeviceGetRegionInfo, RawPeer.Bytes(new RegionInfoBody { ArgSize = 32 })),
            Message(Command.DeviceGetRegionIoFds, RawPeer.Bytes(new RegionIoFdsBody { ArgSize = 16 })),
            Message(Command.DeviceGetRegionIoFds, RawPeer.Bytes(new RegionIoFdsBody { ArgSize = 4096 })),
            Message(Command.DeviceGetIrqInfo, RawPeer.Bytes(new IrqInfoBody { ArgSize = 16, Index = 2 })),
            Message(Command.DeviceSetIrqs, RawPeer.Bytes(new SetIrqsBody { ArgSize = 20, Flags = (IrqSetFlags)0x24, Index = 2, Start = 3, Count = 1 })),
            Message(Command.DeviceSetIrqs, RawPeer.Bytes(new SetIrqsBody { ArgSize = 24, Flags = (IrqSetFlags)0x22, Index = 2, Count = 4 }, [1, 0, 1, 1])),
            Message(Command.DeviceSetIrqs, RawPeer.Bytes(new SetIrqsBody { ArgSize = 20, Flags = (IrqSetFlags)0x21, Index = 2 })),
            Message(Command.RegionRead, RawPeer.Bytes(new RegionAccessBody { Offset = 0x100, Region = 0, Count = 64 })),
            Message(Command.RegionWrite, RawPeer.Bytes(new RegionAccessBody { Offset = 0x100, Region = 7, Count = 8 }, new byte[8])),
            Message(Command.RegionWriteMulti, RawPeer.Bytes(2UL, [.. RawPeer.Bytes(new MultiWriteBody { Count = 8 }), .. RawPeer.Bytes(new MultiWriteBody { Offset = 64, Count = 2 })])),
            Message(Command.DeviceReset, []),
            WithFeature(Feature.Migration, FeatureFlags.Get, []),
            WithFeature(Feature.MigrationDataSize, FeatureFlags.Get, []),
            WithFeature(Feature.MigrationDeviceState, FeatureFlags.Get, []),
            WithFeature(Feature.MigrationDeviceState, FeatureFlags.Set, RawPeer.Bytes(new MigrationStateBody { State = 3 })),
            WithFeature(Feature.MigrationDeviceState, FeatureFlags.Set, RawPeer.Bytes(new MigrationStateBody { State = 4 })),
            WithFeature(Feature.DmaLoggingStart, FeatureFlags.Set, RawPeer.Bytes(new LogControlBody { PageSize = 4096 })),
            WithFeature(Feature.DmaLoggingStart, FeatureFlags.Set, RawPeer.Bytes(new LogControlBody { PageSize = 4096, RangeCount = 1 }, RawPeer.Bytes(new SpanBody { Start = 0x10000, Length = 0x10000 }))),
            WithFeature(Feature.DmaLoggingStop, FeatureFlags.Set, []),
            WithFeature(Feature.DmaLoggingReport, FeatureFlags.Get, RawPeer.Bytes(new LogReportBody { Address = 0, Length = 0x200000, PageSize = 4096 })),
            WithFeature(Feature.DmaLoggingReport, FeatureFlags.Probe | FeatureFlags.Get, []),
            Message(Command.MigrationDataRead, RawPeer.Bytes(new MigrationDataBody { ArgSize = 1032, Size = 1024 })),
            Message(Command.MigrationDataWrite, RawPeer.Bytes(new MigrationDataBody { ArgSize = 24, Size = 16 }, new byte[16])),
        ];
    }
}
