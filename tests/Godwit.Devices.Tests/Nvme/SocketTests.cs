using System.Collections.Concurrent;
using Godwit.Interop.Linux;
using Godwit.VfioUser;
using static Godwit.VfioUser.DeviceMigrationState;

namespace Godwit.Devices.Tests;

/// <summary>The controller behind a real server and a real client, over a socket, with memory and interrupts by descriptor.</summary>
public class SocketTests
{
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void ADriverWorksOverTheSocketAndItsWritesAreLogged(bool doorbells)
    {
        using var image = new TempImage();
        using var memory = new GuestMemory(4 << 20);
        using var served = new ServedController(image);
        using var client = new ClientSide(served, memory, doorbells);
        GuestDriver driver = client.Driver();
        driver.Enable();
        GuestQueue queue = driver.CreateQueue(1);
        ulong buffer = memory.Allocate(3 * 4096);
        new Random(5).NextBytes(memory.Span(buffer, 8192));
        byte[] data = memory.Span(buffer, 8192).ToArray();
        Assert.Equal(NvmeStatus.Success, driver.Execute(queue, GuestDriver.Io(NvmOpcode.Write, 7, 16, buffer, buffer + 4096)).Status);

        Assert.Equal(4096UL, client.Client.StartDmaLogging(4096, [new DmaRange(new DmaAddress(GuestMemory.Base), (ulong)memory.Size)]));
        memory.Span(buffer, 8192).Clear();
        ulong unaligned = buffer + 512;
        Assert.Equal(NvmeStatus.Success, driver.Execute(queue, GuestDriver.Io(NvmOpcode.Read, 7, 16, unaligned, buffer + 4096) with { Prp2 = ListOf(memory, buffer + 4096, buffer + 8192) }).Status);
        Assert.Equal(data, memory.Span(unaligned, 8192).ToArray());
        ulong[] bitmap = new ulong[memory.Size >> 12 >> 6];
        client.Client.ReportDmaLog(new DmaRange(new DmaAddress(GuestMemory.Base), (ulong)memory.Size), 4096, bitmap);
        ulong[] dirty = [.. Enumerable.Range(0, bitmap.Length * 64).Where(i => ((bitmap[i / 64] >> (i % 64)) & 1) != 0).Select(i => GuestMemory.Base + ((ulong)i << 12))];
        Assert.Equal([queue.Completions, buffer, buffer + 4096, buffer + 8192], dirty);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void MigrationBetweenTwoServersWithCommandsInFlight(bool doorbells)
    {
        using var image = new TempImage();
        using var memory = new GuestMemory(4 << 20);
        using var first = new ServedController(image, ownershipWait: TimeSpan.Zero);
        using var second = new ServedController(image);
        using var source = new ClientSide(first, memory, doorbells);
        using var destination = new ClientSide(second, memory, doorbells);
        GuestDriver driver = source.Driver();
        driver.Enable();
        GuestQueue queue = driver.CreateQueue(1, 64, completionEntries: 16);
        ulong buffer = memory.Allocate(64 * 4096);
        for (int i = 0; i < 50; i++)
        {
            memory.Span(buffer + ((ulong)i * 4096), 4096).Fill((byte)(i + 1));
            driver.Place(queue, GuestDriver.Io(NvmOpcode.Write, (ulong)i * 8, 8, buffer + ((ulong)i * 4096)), (ushort)i);
        }

        source.Client.SetMigrationState(PreCopy);
        destination.Client.SetMigrationState(Resuming);
        byte[] piece = new byte[100];
        for (int count; (count = source.Client.ReadMigrationData(piece)) > 0;)
            destination.Client.WriteMigrationData(piece.AsSpan(0, count));
        driver.RingSubmissions(queue);
        source.Client.SetMigrationState(PreCopyP2P);
        source.Client.SetMigrationState(StopCopy);
        ulong size = source.Client.GetStopCopySize() ?? 0;
        ulong moved = 0;
        for (int count; (count = source.Client.ReadMigrationData(piece)) > 0; moved += (ulong)count)
            destination.Client.WriteMigrationData(piece.AsSpan(0, count));
        Assert.Equal(size, moved);
        destination.Client.SetMigrationState(Stop);
        destination.Client.SetMigrationState(Running);
        destination.Take(driver);

        var seen = new HashSet<ushort>();
        while (seen.Count < 50)
        {
            Cqe completion = driver.Wait(queue);
            Assert.Equal(NvmeStatus.Success, completion.Status);
            Assert.True(seen.Add(completion.Id));
        }
        Assert.False(driver.TryReap(queue, out _));
        byte[] disk = File.ReadAllBytes(image.Path);
        for (int i = 0; i < 50; i++)
            Assert.Equal(-1, disk.AsSpan(i * 4096, 4096).IndexOfAnyExcept((byte)(i + 1)));
        VfioUserRemoteException refused = Assert.Throws<VfioUserRemoteException>(() => source.Client.SetMigrationState(Running));
        Assert.Equal(Errno.EBUSY, refused.Errno);
    }

    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void AClientThatDiesLeavesTheImageToOthers(bool doorbells)
    {
        using var image = new TempImage();
        using var memory = new GuestMemory(4 << 20);
        using var first = new ServedController(image);
        using var second = new ServedController(image);
        using (var client = new ClientSide(first, memory, doorbells))
        {
            GuestDriver driver = client.Driver();
            driver.Enable();
            GuestQueue queue = driver.CreateQueue(1);
            for (int i = 0; i < 60; i++)
                driver.Place(queue, GuestDriver.Io(NvmOpcode.Read, 0, 8, GuestMemory.Base + (3 << 20)));
            driver.RingSubmissions(queue);
        }
        using var next = new ClientSide(second, memory, doorbells);
        GuestDriver other = next.Driver();
        other.Enable(); // waits for the first server to notice, if it has not yet
        Assert.Equal(1u, other.Status);
        other.CreateQueue(1);
    }

    /// <summary>Memory without a descriptor: every access of the device is a message to the client.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void MemoryByMessageWorksToo(bool doorbells)
    {
        using var image = new TempImage();
        using var memory = new GuestMemory(4 << 20);
        using var served = new ServedController(image);
        using var client = new ClientSide(served, memory, doorbells, byMessage: true);
        GuestDriver driver = client.Driver();
        driver.Enable();
        GuestQueue queue = driver.CreateQueue(1);
        ulong buffer = memory.Allocate(4096);
        memory.Span(buffer, 4096).Fill(0x5A);
        Assert.Equal(NvmeStatus.Success, driver.Execute(queue, GuestDriver.Io(NvmOpcode.Write, 0, 8, buffer)).Status);
        memory.Span(buffer, 4096).Clear();
        Assert.Equal(NvmeStatus.Success, driver.Execute(queue, GuestDriver.Io(NvmOpcode.Read, 0, 8, buffer)).Status);
        Assert.Equal(-1, memory.Span(buffer, 4096).IndexOfAnyExcept((byte)0x5A));
        // A reset while the device waits for messages.
        for (int i = 0; i < 60; i++)
            driver.Place(queue, GuestDriver.Io(NvmOpcode.Read, 0, 8, buffer));
        driver.RingSubmissions(queue);
        client.Client.Reset();
        Assert.Equal(0u, driver.Status);
    }

    private static ulong ListOf(GuestMemory memory, params ReadOnlySpan<ulong> pages)
    {
        ulong list = memory.Allocate(4096);
        for (int i = 0; i < pages.Length; i++)
            BitConverter.TryWriteBytes(memory.Span(list + ((ulong)i * 8), 8), pages[i]);
        return list;
    }

    private sealed class ServedController : IDisposable
    {
        private readonly CancellationTokenSource _stop = new();
        private readonly NvmeController _controller;
        private readonly Thread _server;
        private readonly ConcurrentQueue<string> _log = new();

        public ServedController(TempImage image, TimeSpan? ownershipWait = null)
        {
            Path = System.IO.Path.Combine(image.Folder, $"{Guid.NewGuid():N}.sock"[..12]);
            _controller = NvmeController.Create(image.Options with { OwnershipWait = ownershipWait ?? TimeSpan.FromSeconds(60) }, _log.Enqueue);
            using var listening = new ManualResetEventSlim();
            var options = new VfioUserServerOptions
            {
                SocketPath = Path,
                DmaReplyTimeout = TimeSpan.FromSeconds(60),
                HandshakeTimeout = TimeSpan.FromSeconds(60),
                DetachTimeout = TimeSpan.FromSeconds(60),
                Log = line =>
                {
                    _log.Enqueue(line);
                    if (line.StartsWith("listening", StringComparison.Ordinal))
                        listening.Set();
                },
            };
            _server = new Thread(() => VfioUserServer.Run(_controller, options, _stop.Token));
            _server.Start();
            Assert.True(listening.Wait(TimeSpan.FromSeconds(30)));
        }

        public string Path { get; }

        public void Dispose()
        {
            _stop.Cancel();
            _server.Join();
            _controller.Dispose();
            _stop.Dispose();
            Assert.DoesNotContain("defect", string.Join('\n', _log), StringComparison.Ordinal);
        }
    }

    private sealed class ClientSide : IRegisters, IDmaMessageHandler, IDisposable
    {
        private const int Vectors = 9;

        private readonly GuestMemory _memory;
        private readonly EventFd[] _events = new EventFd[Vectors];
        private readonly bool _doorbells;
        private long _signals;
        private long _rings;

        public ClientSide(ServedController served, GuestMemory memory, bool doorbells, bool byMessage = false)
        {
            _memory = memory;
            Client = VfioUserClient.Connect(served.Path, new VfioUserClientOptions { ReplyTimeout = TimeSpan.FromSeconds(60) }, this);
            Assert.Equal(Vectors, Client.GetIrqInfo(PciIrq.Msix).Count);
            Assert.Equal(MigrationSupport.StopCopy | MigrationSupport.P2P | MigrationSupport.PreCopy, Client.GetMigrationSupport());
            Client.DmaMap(
                new DmaRange(new DmaAddress(GuestMemory.Base), (ulong)memory.Size),
                DmaAccess.Read | DmaAccess.Write,
                byMessage ? null : memory.File,
                0);
            for (int i = 0; i < Vectors; i++)
                _events[i] = EventFd.Create();
            Client.SetIrqEventFds(PciIrq.Msix, 0, _events);
            if (doorbells)
                Assert.Equal(2 * Vectors, Client.UseDoorbells(PciRegion.Bar0, Client.GetRegionInfo(PciRegion.Bar0).Size));
            _doorbells = doorbells;
        }

        public VfioUserClient Client { get; }

        public GuestDriver Driver() => new(_memory, this, () => Volatile.Read(ref _signals), WaitForSignal);

        public void Take(GuestDriver driver)
        {
            driver.Registers = this;
            driver.TriggerCount = () => Volatile.Read(ref _signals);
            driver.WaitForTrigger = WaitForSignal;
        }

        void IRegisters.Read(int region, ulong offset, Span<byte> destination) => Client.ReadRegion(region, offset, destination);

        void IRegisters.Write(int region, ulong offset, ReadOnlySpan<byte> data)
        {
            bool rings = offset >= NvmeRegister.Doorbells;
            Client.WriteRegion(region, offset, data, posted: rings);
            if (rings && _doorbells)
                Assert.Equal(++_rings, Client.DoorbellsRung); // no message
        }

        Errno IDmaMessageHandler.Read(DmaAddress address, Span<byte> destination)
        {
            if (!_memory.Contains(address.Value, destination.Length))
                return Errno.EFAULT;
            _memory.Span(address.Value, destination.Length).CopyTo(destination);
            return Errno.None;
        }

        Errno IDmaMessageHandler.Write(DmaAddress address, ReadOnlySpan<byte> data)
        {
            if (!_memory.Contains(address.Value, data.Length))
                return Errno.EFAULT;
            data.CopyTo(_memory.Span(address.Value, data.Length));
            return Errno.None;
        }

        public void Dispose()
        {
            Client.Dispose();
            foreach (EventFd bell in _events)
                bell.Dispose();
        }

        /// <summary>Blocks until an eventfd rings after <paramref name="seen"/> was read; drains all.</summary>
        private unsafe void WaitForSignal(long seen)
        {
            pollfd* entries = stackalloc pollfd[Vectors];
            while (Volatile.Read(ref _signals) <= seen)
            {
                for (int i = 0; i < Vectors; i++)
                    entries[i] = new pollfd { fd = _events[i].Number, events = poll.POLLIN };
                Assert.True(poll.wait(entries, Vectors, 30_000) > 0, "no interrupt within 30 s");
                for (int i = 0; i < Vectors; i++)
                {
                    if (entries[i].revents != 0)
                        _signals += (long)_events[i].Drain();
                }
            }
        }
    }
}
