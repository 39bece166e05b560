using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Bench;

/// <summary>
/// The protocol between two processes, beside floors between two processes in the same run: a bare echo of as many bytes there and back
/// over the same kind of socket.
/// </summary>
internal static class ProcessRun
{
    private const int Large = 64 * 1024;

    /// <summary>Mappings between two flushes of the large case.</summary>
    private const int Batch = 1000;
    private const int Header = 16;
    private const int AccessBody = 16;
    private const DmaAccess ReadWrite = DmaAccess.Read | DmaAccess.Write;

    /// <summary>Measures, each thing for so long.</summary>
    /// <param name="time">For how long.</param>
    /// <param name="mappings">DMA mappings of the large case.</param>
    public static void Run(TimeSpan time, int mappings)
    {
        string directory = Directory.CreateTempSubdirectory("gwvp").FullName;
        try
        {
            Console.WriteLine($"Two processes over a unix socket, {time.TotalSeconds} s each, {Environment.ProcessorCount} processors. Times in microseconds; allocated bytes an operation, this side.");
            Console.WriteLine();
            Console.WriteLine("operation                                 |  a second | of floor |  median |    99 % |  99.9 % |  bytes");
            Console.WriteLine("------------------------------------------|----------:|---------:|--------:|--------:|--------:|------:");
            using var echo = new OtherProcess("echo", Path.Combine(directory, "echo"));
            using var echoFiles = new OtherProcess("echo-files", Path.Combine(directory, "echo-files"));
            using var device = new OtherProcess("device", Path.Combine(directory, "device"));
            using SocketHandle socket = SocketHandle.Connect(Path.Combine(directory, "echo"));
            using var client = VfioUserClient.Connect(Path.Combine(directory, "device"), new VfioUserClientOptions(), new NoMemory());
            Regions(time, socket, client);
            Mappings(time, socket, Path.Combine(directory, "echo-files"), client, mappings);
        }
        finally
        {
            Directory.Delete(directory, recursive: true);
        }
    }

    private static void Regions(TimeSpan time, SocketHandle socket, VfioUserClient client)
    {
        byte[] word = new byte[4];
        byte[] large = new byte[Large];
        Sample[] small = Sample.Take(
            time,
            Floor.Ping(socket, Header + AccessBody, Header + AccessBody + 4),
            () => client.ReadRegion(PciRegion.Bar0, 8, word),
            () => client.WriteRegion(PciRegion.Bar0, 8, word, posted: false));
        small[0].Print("bare echo, 32 bytes for 36", null);
        small[1].Print("region read of 4", small[0]);
        small[2].Print("region write of 4, answered", small[0]);
        Sample[] big = Sample.Take(
            time,
            Floor.Ping(socket, Header + AccessBody, Header + AccessBody + Large),
            () => client.ReadRegion(PciRegion.Bar0, 0, large));
        big[0].Print("bare echo, 32 bytes for 64 KiB", null);
        big[1].Print("region read of 64 KiB", big[0]);

        Sample.Take(time, () => client.WriteRegion(PciRegion.Bar0, Doorbell, word, posted: true)).Print("doorbell by posted message", null);
        client.ReadRegion(PciRegion.Bar0, 8, word);
        client.UseDoorbells(PciRegion.Bar0, Large);
        long rung = client.DoorbellsRung;
        Sample doorbells = Sample.Take(time, () => client.WriteRegion(PciRegion.Bar0, Doorbell, word, posted: true));
        doorbells.Print($"doorbell by eventfd ({(client.DoorbellsRung > rung ? "no message" : "BY MESSAGE")})", null);
    }

    private static void Mappings(TimeSpan time, SocketHandle socket, string filesPath, VfioUserClient client, int mappings)
    {
        using MemFd ram = MemFd.Create("ram", 64 << 20);
        DmaRange one = Page(0);
        Action ping = Floor.Ping(socket, Header + 32, Header);
        Sample[] pairs = Sample.Take(
            time,
            () =>
            {
                ping();
                ping();
            },
            () =>
            {
                client.DmaMap(one, ReadWrite, ram, 0);
                client.DmaUnmap(one);
            });
        pairs[0].Print("bare echo, 2 times 48 bytes for 16", null);
        pairs[1].Print("map and unmap of 4 KiB (2 messages)", pairs[0]);

        using SocketHandle filesSocket = SocketHandle.Connect(filesPath);
        Many(filesSocket, client, ram, Math.Min(mappings, client.MaxDmaMaps) / Batch);
    }

    /// <summary>Queued mappings, each with its descriptor, all of them there at the end; then all are taken away. The floor takes turns with it.</summary>
    private static void Many(SocketHandle socket, VfioUserClient client, MemFd ram, int batches)
    {
        ulong next = 0;
        Action floor = Floor.Pipelined(socket, Batch, Header + 32, Header, ram);
        Sample[] maps = Sample.Take(batches, floor, () =>
        {
            for (int i = 0; i < Batch; i++, next++)
                client.DmaMapQueued(Page(next * 2), ReadWrite, ram, next * 4096 % (64 << 20));
            client.DmaFlush();
        });
        maps[0].Print($"{Batch} bare echoes, 48 bytes and fd for 16", null, Batch);
        maps[1].Print($"{Batch} mappings of {batches * Batch}, queued", maps[0], Batch);

        next = 0;
        floor = Floor.Pipelined(socket, Batch, Header + 24, Header + 24, null);
        Sample[] unmaps = Sample.Take(batches, floor, () =>
        {
            for (int i = 0; i < Batch; i++, next++)
                client.DmaUnmapQueued(Page(next * 2));
            client.DmaFlush();
        });
        unmaps[0].Print($"{Batch} bare echoes, 40 bytes for 40", null, Batch);
        unmaps[1].Print($"{Batch} unmappings, queued", unmaps[0], Batch);
    }

    /// <summary>Where the device has its doorbell.</summary>
    public const ulong Doorbell = 0x1000;

    private static DmaRange Page(ulong number) => new(new DmaAddress((1UL << 40) + number * 4096), 4096);

    /// <summary>All memory of this client is mapped.</summary>
    private sealed class NoMemory : IDmaMessageHandler
    {
        public Errno Read(DmaAddress address, Span<byte> destination) => Errno.ENODEV;

        public Errno Write(DmaAddress address, ReadOnlySpan<byte> data) => Errno.ENODEV;
    }
}
