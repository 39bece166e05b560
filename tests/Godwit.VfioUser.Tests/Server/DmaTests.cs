using System.Collections.Concurrent;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>Guest memory as the device sees it: by mapping, by file, by message.</summary>
public sealed unsafe class DmaTests
{
    private const DmaAccess ReadWrite = DmaAccess.Read | DmaAccess.Write;

    [Fact]
    public void A_map_that_comes_in_pieces_with_its_file_at_the_last_is_a_map_of_that_file()
    {
        using var server = new TestServer();
        using MemFd ram = MemFd.Create("ram", 0x1000);
        using RawPeer peer = RawPeer.ConnectAndNegotiate(server.Path);
        IDeviceHost host = TestServer.Take(server.Device.Connections);
        byte[] message = RawPeer.Message(
            new MessageHeader { Id = 7, Command = Command.DmaMap }, RawPeer.Bytes(new DmaMapBody { ArgSize = 32, Flags = 3, Address = 0x5000, Size = 0x1000 }));
        peer.SendBytes(message.AsSpan(0, 20));
        peer.SendBytes(message.AsSpan(20), ram);
        using (RawMessage reply = peer.Receive())
            Assert.Equal((7, Errno.None), (reply.Header.Id, reply.Header.ReplyErrno));
        Assert.True(host.Write(new DmaAddress(0x5010), [1, 2, 3]));
        using MemoryMapping seen = MemoryMapping.MapShared(ram, 0, 0x1000, writable: false);
        unsafe
        {
            Assert.Equal([1, 2, 3], new Span<byte>(seen.Address + 0x10, 3).ToArray());
        }
    }

    [Fact]
    public void Unmap_waits_for_pinned_pieces_and_their_marks()
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect(out IDeviceHost host);
        using MemFd ram = MemFd.Create("ram", 0x10000);
        client.StartDmaLogging(4096, []);
        for (int i = 0; i < 20; i++)
        {
            client.DmaMap(Range(0x10000, 0x10000), ReadWrite, ram, 0);
            using var pinned = new ManualResetEventSlim();
            using var release = new ManualResetEventSlim();
            bool released = false;
            Background device = Background.Run(() =>
            {
                Assert.True(host.TryAcquire(At(0x12345), 100, forWrite: true, out DmaPiece piece));
                pinned.Set();
                Assert.True(release.Wait(TestServer.Patience));
                piece.Pointer[0] = 1;
                released = true;
                piece.Dispose();
            });
            Assert.True(pinned.Wait(TestServer.Patience));
            Background unmap = Background.Run(() =>
            {
                client.DmaUnmap(Range(0x10000, 0x10000));
                Assert.True(Volatile.Read(ref released));
            });
            // The mapping lets nobody in from the moment the device has begun to unmap; the pin is still there.
            while (host.Read(At(0x10000), new byte[1]))
                Thread.Yield();
            Assert.True(unmap.IsRunning);
            release.Set();
            Background.Join(unmap, device);
            ulong[] bitmap = new ulong[1];
            client.ReportDmaLog(Range(0x10000, 0x10000), 4096, bitmap);
            Assert.Equal([4ul], bitmap);
        }
    }

    [Fact]
    public void Accesses_cross_mappings_and_stop_at_holes_and_rights()
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect(out IDeviceHost host);
        using MemFd ram = MemFd.Create("ram", 0x10000);
        using MemoryMapping view = MemoryMapping.MapShared(ram, 0, 0x10000, writable: true);
        client.DmaMap(Range(0x1000, 0x1000), ReadWrite, ram, 0x5000);
        client.DmaMap(Range(0x2000, 0x1000), ReadWrite, ram, 0x3000);
        client.DmaMap(Range(0x3000, 0x1000), DmaAccess.Read, ram, 0x8000);
        client.DmaMap(Range(0x5000, 0x1000), DmaAccess.Write, ram, 0x9000);
        byte[] data = [.. Enumerable.Range(0, 0x1800).Select(i => (byte)(i * 7))];
        Assert.True(host.Write(At(0x1800), data));
        Assert.Equal(data[..0x800], new ReadOnlySpan<byte>(view.Address + 0x5800, 0x800).ToArray());
        Assert.Equal(data[0x800..], new ReadOnlySpan<byte>(view.Address + 0x3000, 0x1000).ToArray());
        byte[] back = new byte[0x1800];
        Assert.True(host.Read(At(0x1800), back));
        Assert.Equal(data, back);
        Assert.False(host.Write(At(0x2fff), [1, 2])); // read-only
        Assert.True(host.Read(At(0x2fff), new byte[2]));
        Assert.False(host.Read(At(0x3fff), new byte[2])); // hole
        Assert.False(host.Read(At(0x5000), new byte[2])); // write-only
        Assert.True(host.Write(At(0x5000), [1, 2]));
        Assert.True(host.Read(At(0x100), []));
        Assert.True(host.TryAcquire(At(0x1ff0), 100, forWrite: true, out DmaPiece piece));
        Assert.Equal(0x10, piece.Length); // ends with its mapping
        piece.Dispose();
        Assert.False(host.TryAcquire(At(0x3000), 1, forWrite: true, out _));
        Assert.False(host.TryAcquire(At(0x4000), 1, forWrite: false, out _));
    }

    [Fact]
    public void The_last_page_of_64_bits_is_reached_and_not_passed()
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect(out IDeviceHost host);
        using MemFd ram = MemFd.Create("ram", 0x2000);
        client.DmaMap(Range(0xffff_ffff_ffff_f000, 0x1000), ReadWrite, ram, 0);
        client.DmaMap(Range(0, 0x1000), ReadWrite, ram, 0x1000);
        client.StartDmaLogging(4096, [Range(0xffff_ffff_ffff_f000, 0x1000)]);
        Assert.True(host.Write(At(ulong.MaxValue), [1]));
        Assert.False(host.Write(At(ulong.MaxValue), [1, 2]));
        ulong[] bitmap = new ulong[1];
        client.ReportDmaLog(Range(0xffff_ffff_ffff_f000, 0x1000), 4096, bitmap);
        Assert.Equal([1ul], bitmap);
        client.DmaUnmap(Range(0xffff_ffff_ffff_f000, 0x1000));
        Assert.False(host.Read(At(ulong.MaxValue), new byte[1]));
    }

    [Fact]
    public void A_file_that_is_cut_short_fails_accesses_instead_of_the_process()
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect(out IDeviceHost host);
        string path = Path.GetTempFileName();
        using FileStream stream = File.Open(path, FileMode.Open, FileAccess.ReadWrite, FileShare.ReadWrite);
        stream.SetLength(0x4000);
        using FileDescriptor file = Duplicate(stream);
        client.StartDmaLogging(4096, []);
        client.DmaMap(Range(0x10000, 0x4000), ReadWrite, file, 0);
        Assert.True(host.Write(At(0x13ffe), [7, 8]));
        byte[] back = new byte[2];
        Assert.True(host.Read(At(0x13ffe), back));
        Assert.Equal([7, 8], back);
        stream.Position = 0x3fff;
        Assert.Equal(8, stream.ReadByte());
        Assert.False(host.TryAcquire(At(0x10000), 1, forWrite: true, out _));
        stream.SetLength(0x1000);
        Assert.False(host.Read(At(0x13ffe), back));
        Assert.False(host.Write(At(0x13ffe), back));
        Assert.Equal(0x1000, new FileInfo(path).Length);
        Assert.True(host.Write(At(0x10000), back));
        ulong[] bitmap = new ulong[1];
        client.ReportDmaLog(Range(0x10000, 0x4000), 4096, bitmap);
        Assert.Equal([9ul], bitmap);
        File.Delete(path);
    }

    [Fact]
    public void A_file_opened_for_reading_gives_no_right_to_write_even_after_one_that_does()
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect(out IDeviceHost host);
        using MemFd ram = MemFd.Create("ram", 0x10000);
        using FileStream stream = File.Open($"/proc/self/fd/{ram.Number}", FileMode.Open, FileAccess.Read, FileShare.ReadWrite);
        using FileDescriptor readOnly = Duplicate(stream);
        client.DmaMap(Range(0, 0x1000), ReadWrite, ram, 0);
        Assert.Equal(Errno.EACCES, Assert.Throws<VfioUserRemoteException>(() => client.DmaMap(Range(0x1000, 0x1000), ReadWrite, readOnly, 0)).Errno);
        client.DmaMap(Range(0x1000, 0x1000), DmaAccess.Read, readOnly, 0);
        Assert.True(host.Write(At(5), [42]));
        byte[] back = new byte[1];
        Assert.True(host.Read(At(0x1005), back));
        Assert.Equal([42], back);
    }

    [Fact]
    public void Many_files_come_and_go_without_leaving_anything()
    {
        using var server = new TestServer();
        using VfioUserClient client = server.Connect(out IDeviceHost host);
        int before = OpenFiles.Count();
        for (int i = 0; i < 50; i++)
        {
            using MemFd ram = MemFd.Create("ram", 0x4000);
            client.DmaMap(Range(0x1000, 0x1000), ReadWrite, ram, 0x1000);
            client.DmaMap(Range(0x2000, 0x1000), DmaAccess.Read, ram, 0x800 * (ulong)(i % 3));
            Assert.True(host.Write(At(0x1800), [(byte)i]));
            byte[] back = new byte[1];
            Assert.True(host.Read(At(0x2800), back));
            Assert.Equal(i % 3 == 2 ? i : 0, back[0]);
            client.DmaUnmap(Range(0x1000, 0x2000));
        }
        OpenFiles.AssertReturnsTo(before);
        Assert.True(MapsOf("ram") <= 16, $"{MapsOf("ram")} files are still mapped");
        client.Dispose();
        TestServer.Take(server.Device.Disconnections);
        // OnDisconnected comes before the memory is given back; the next connection after.
        using VfioUserClient next = server.Connect();
        Assert.Equal(0, MapsOf("ram"));

        static int MapsOf(string name) => File.ReadLines("/proc/self/maps").Count(line => line.Contains($"memfd:{name}", StringComparison.Ordinal));
    }

    [Fact]
    public void A_device_may_do_dma_by_message_while_it_answers_an_access()
    {
        using var server = new TestServer();
        var dma = new ArrayDma(0x10000, 0x1000);
        using VfioUserClient client = server.Connect(out IDeviceHost host, dma);
        client.DmaMap(Range(0x10000, 0x1000), ReadWrite, null, 0);
        server.Device.OnWrite = (_, _, data) =>
        {
            byte[] word = new byte[4];
            Assert.True(host.Read(At(0x10010), word));
            Assert.True(host.Write(At(0x10020), [.. data, .. word]));
            return Errno.None;
        };
        dma.Memory[0x10] = 0x55;
        // Posted writes pile up behind the first and must be received past to find the answers.
        for (int i = 0; i < 100; i++)
            client.WriteRegion(0, 0, [(byte)i], posted: true);
        client.WriteRegion(0, 0, [100], posted: false);
        Assert.Equal([100, 0x55], dma.Memory[0x20..0x22]);
    }

    [Fact]
    public void Dma_by_message_from_many_threads_while_commands_run()
    {
        using var server = new TestServer();
        var dma = new ArrayDma(0x10000, 0x10000);
        using VfioUserClient client = server.Connect(out IDeviceHost host, dma);
        client.DmaMap(Range(0x10000, 0x10000), ReadWrite, null, 0);
        var failures = new ConcurrentQueue<Exception>();
        Thread[] threads = [.. Enumerable.Range(0, 4).Select(t => new Thread(() =>
        {
            try
            {
                byte[] back = new byte[64];
                for (int i = 0; i < 200; i++)
                {
                    byte[] data = [.. Enumerable.Repeat((byte)(i + t), 64)];
                    Assert.True(host.Write(At(0x10000 + (ulong)t * 0x1000), data));
                    Assert.True(host.Read(At(0x10000 + (ulong)t * 0x1000), back));
                    Assert.Equal(data, back);
                }
            }
            catch (Exception e)
            {
                failures.Enqueue(e);
            }
        }))];
        foreach (Thread thread in threads)
            thread.Start();
        byte[] word = new byte[4];
        for (int i = 0; i < 500; i++)
        {
            client.WriteRegion(0, 0, BitConverter.GetBytes(i), posted: true);
            client.ReadRegion(0, 0, word);
            Assert.Equal(i, BitConverter.ToInt32(word));
        }
        Assert.All(threads, thread => Assert.True(thread.Join(TestServer.Patience)));
        Assert.Empty(failures);
    }

    public static TheoryData<string> BadDmaReplies => ["error", "error with body", "other address", "other count", "longer", "shorter", "other command", "gone"];

    [Theory]
    [MemberData(nameof(BadDmaReplies))]
    public void A_wrong_answer_to_a_dma_message_fails_the_access_only(string what)
    {
        using var server = new TestServer();
        using RawPeer peer = RawPeer.ConnectAndNegotiate(server.Path);
        IDeviceHost host = TestServer.Take(server.Device.Connections);
        Assert.Equal(Errno.None, peer.Try(Command.DmaMap, RawPeer.Bytes(new DmaMapBody { ArgSize = 32, Flags = 3, Address = 0x1000, Size = 0x1000 })));
        Background read = Background.Run(() => Assert.False(host.Read(At(0x1100), new byte[8])));
        using (RawMessage request = peer.Receive())
        {
            DmaAccessBody body = request.As<DmaAccessBody>();
            Assert.Equal((0x1100ul, 8ul), (body.Address, body.Count));
            MessageHeader header = request.Header;
            switch (what)
            {
                case "error":
                    peer.Reply(header, [], Errno.EFAULT);
                    break;
                case "error with body":
                    peer.Reply(header, new byte[24], Errno.EFAULT);
                    break;
                case "other address":
                    peer.Reply(header, RawPeer.Bytes(body with { Address = 0x1000 }, new byte[8]));
                    break;
                case "other count":
                    peer.Reply(header, RawPeer.Bytes(body with { Count = 7 }, new byte[8]));
                    break;
                case "longer":
                    peer.Reply(header, RawPeer.Bytes(body, new byte[9000]));
                    break;
                case "shorter":
                    peer.Reply(header, RawPeer.Bytes(body, new byte[7]));
                    break;
                case "other command":
                    header.Command = Command.DmaWrite;
                    peer.Reply(header, RawPeer.Bytes(body, new byte[8]));
                    break;
                case "gone":
                    peer.Socket.Shutdown();
                    break;
            }
        }
        read.Join();
        if (what != "gone")
            Assert.Equal(Errno.None, peer.Try(Command.DeviceReset, []));
    }

    [Fact]
    public void Writes_by_message_are_the_clients_to_mark()
    {
        using var server = new TestServer();
        var dma = new ArrayDma(0x10000, 0x1000);
        using VfioUserClient client = server.Connect(out IDeviceHost host, dma);
        client.DmaMap(Range(0x10000, 0x1000), ReadWrite, null, 0);
        client.StartDmaLogging(4096, []);
        Assert.True(host.Write(At(0x10000), [1]));
        ulong[] bitmap = new ulong[1];
        client.ReportDmaLog(Range(0x10000, 0x1000), 4096, bitmap);
        Assert.Equal([0ul], bitmap);
        Assert.Equal(1, dma.Memory[0]);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void A_client_may_map_so_many_files_and_no_more(bool asMemory)
    {
        const int Share = 10;
        using var server = new TestServer(configure: o => o with { Files = new FileBudget(4 * Share, 4 * Share) });
        using RawPeer peer = RawPeer.ConnectAndNegotiate(server.Path);
        int before = OpenFiles.Count() + OpenFiles.MappedFiles();
        for (int round = 0; round < 2; round++)
        {
            for (int i = 0; i < 3 * Share; i++)
            {
                using FileDescriptor file = OneOf(asMemory);
                Assert.Equal(i < Share ? Errno.None : Errno.ENOSPC, peer.Try(Command.DmaMap, MapBody((ulong)i << 12), file));
                Assert.Equal(i < Share ? Errno.None : Errno.ENOSPC, peer.Try(Command.DmaMap, MapBody((ulong)(1000 + i) << 12), file)); // the same file costs nothing
            }
            Assert.Equal(Errno.None, peer.Try(Command.DmaUnmap, RawPeer.Bytes(new DmaUnmapBody { ArgSize = 24, Flags = DmaUnmapFlags.All })));
        }
        peer.Socket.Shutdown();
        TestServer.Take(server.Device.Disconnections);
        Assert.True(SpinWait.SpinUntil(() => OpenFiles.Count() + OpenFiles.MappedFiles() <= before, TestServer.Patience));
    }

    [Fact]
    public void All_clients_together_may_map_so_many_files_and_no_more()
    {
        var all = new FileBudget(4, 4);
        FileBudget[] clients = [.. Enumerable.Range(0, 5).Select(_ => all.ForClient())];
        Assert.All(clients[..4], client => Assert.True(client.TryTake(asMemory: true)));
        Assert.False(clients[0].TryTake(asMemory: true));
        Assert.False(clients[4].TryTake(asMemory: true));
        Assert.True(clients[4].TryTake(asMemory: false));
        clients[2].Return(asMemory: true);
        Assert.True(clients[4].TryTake(asMemory: true));
    }

    [Fact]
    public void Descriptors_that_pile_up_while_the_device_waits_are_bounded()
    {
        using var server = new TestServer();
        using RawPeer peer = RawPeer.ConnectAndNegotiate(server.Path);
        IDeviceHost host = TestServer.Take(server.Device.Connections);
        using EventFd fd = EventFd.Create();
        Assert.Equal(Errno.None, peer.Try(Command.DmaMap, MapBody(0)));
        server.Device.OnWrite = (_, _, _) => host.Read(At(0), new byte[4]) ? Errno.None : Errno.EFAULT;
        peer.Send(Command.RegionWrite, RawPeer.Bytes(new RegionAccessBody { Count = 1 }, [1]));
        Assert.Equal(Command.DmaRead, peer.Receive().Header.Command);
        FileDescriptor[] many = [.. Enumerable.Repeat(fd, 16)];
        Assert.Throws<LinuxException>(() =>
        {
            for (int i = 0; i < 1000; i++)
                peer.Send(Command.DeviceReset, [], HeaderFlags.NoReply, many);
        });
        while (!TestServer.Take(server.LogLines).Contains("256 descriptors instead of answering DMA_READ", StringComparison.Ordinal))
        {
        }
    }

    private static byte[] MapBody(ulong address) => RawPeer.Bytes(new DmaMapBody { ArgSize = 32, Flags = 3, Address = address, Size = 4096 });

    /// <summary>A file of one page of its own: sealed, which is used as memory, or not.</summary>
    private static FileDescriptor OneOf(bool asMemory)
    {
        if (asMemory)
            return MemFd.Create("one", 4096);
        FileDescriptor file = FileDescriptor.Adopt(mman.memfd_create("one", mman.MFD_CLOEXEC));
        Assert.Equal(0, unistd.ftruncate(file, 4096));
        return file;
    }

    private static FileDescriptor Duplicate(FileStream stream)
    {
        FileDescriptor borrowed = FileDescriptor.Adopt((int)stream.SafeFileHandle.DangerousGetHandle());
        FileDescriptor result = borrowed.Duplicate();
        borrowed.SetHandleAsInvalid(); // the stream's to close
        return result;
    }

    private static DmaAddress At(ulong address) => new(address);

    private static DmaRange Range(ulong address, ulong length) => new(At(address), length);
}
