using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Bench;

/// <summary>
/// The protocol between two processes, beside floors between two processes in the same run: a bare echo of as many bytes there and back
/// over the same kind of socket.
/// </summary>
internal static class ProcessRun
{
    private const int Large = 64 * 1024;

    /// <summary>Mappings between two flushes of the large case, if there are so many.</summary>
    private const int MaxBatch = 1000;
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
            Console.WriteLine($"Two processes over a unix socket, {time.TotalSeconds} s each, {Environment.ProcessorCount} processors. Times in microseconds, those of the processor of both processes; allocated bytes an operation, this side.");
            Console.WriteLine();
            Sample.PrintHead();
            using var echo = new OtherProcess("echo", Path.Combine(directory, "echo"));
            using var echoFiles = new OtherProcess("echo-files", Path.Combine(directory, "echo-files"));
            using var device = new OtherProcess("device", Path.Combine(directory, "device"));
            using SocketHandle socket = SocketHandle.Connect(Path.Combine(directory, "echo"));
            using var client = VfioUserClient.Connect(Path.Combine(directory, "device"), new VfioUserClientOptions(), new NoMemory());
            Regions(time, echo, socket, device, client);
            Mappings(time, echo, socket, device, client);
            using SocketHandle filesSocket = SocketHandle.Connect(Path.Combine(directory, "echo-files"));
            Many(echoFiles, filesSocket, device, client, Math.Clamp(mappings, 1, client.MaxDmaMaps));
        }
        finally
        {
            Directory.Delete(directory, recursive: true);
        }
    }

    private static void Regions(TimeSpan time, OtherProcess echo, SocketHandle socket, OtherProcess device, VfioUserClient client)
    {
        byte[] word = new byte[4];
        byte[] large = new byte[Large];
        Sample[] small = Sample.Take(
            time,
            new(Floor.Ping(socket, Header + AccessBody, Header + AccessBody + 4), echo),
            new(() => client.ReadRegion(PciRegion.Bar0, 8, word), device),
            new(() => client.WriteRegion(PciRegion.Bar0, 8, word, posted: false), device));
        small[0].Print("bare echo, 32 bytes for 36", null);
        small[1].Print("region read of 4", small[0]);
        small[2].Print("region write of 4, answered", small[0]);
        Sample[] big = Sample.Take(
            time,
            new(Floor.Ping(socket, Header + AccessBody, Header + AccessBody + Large), echo),
            new(() => client.ReadRegion(PciRegion.Bar0, 0, large), device));
        big[0].Print("bare echo, 32 bytes for 64 KiB", null);
        big[1].Print("region read of 64 KiB", big[0]);

        var doorbell = new Operation(() => client.WriteRegion(PciRegion.Bar0, Doorbell, word, posted: true), device);
        Sample.Take(time, doorbell).Print("doorbell by posted message", null);
        client.ReadRegion(PciRegion.Bar0, 8, word);
        client.UseDoorbells(PciRegion.Bar0, Large);
        long rung = client.DoorbellsRung;
        Sample doorbells = Sample.Take(time, doorbell);
        doorbells.Print($"doorbell by eventfd ({(client.DoorbellsRung > rung ? "no message" : "BY MESSAGE")})", null);
    }

    private static void Mappings(TimeSpan time, OtherProcess echo, SocketHandle socket, OtherProcess device, VfioUserClient client)
    {
        using MemFd ram = MemFd.Create("ram", 64 << 20);
        DmaRange one = Page(0);
        Action ping = Floor.Ping(socket, Header + 32, Header);
        Sample[] pairs = Sample.Take(
            time,
            new(() =>
            {
                ping();
                ping();
            }, echo),
            new(() =>
            {
                client.DmaMap(one, ReadWrite, ram, 0);
                client.DmaUnmap(one);
            }, device));
        pairs[0].Print("bare echo, 2 times 48 bytes for 16", null);
        pairs[1].Print("map and unmap of 4 KiB (2 messages)", pairs[0]);
    }

    /// <summary>Queued mappings, each with its descriptor, all of them there at the end; then all are taken away. The floor takes turns with it.</summary>
    private static void Many(OtherProcess echo, SocketHandle socket, OtherProcess device, VfioUserClient client, int mappings)
    {
        using MemFd ram = MemFd.Create("ram", 64 << 20);
        int batch = Math.Min(mappings, MaxBatch);
        int batches = mappings / batch;
        ulong next = 0;
        var floor = new Operation(Floor.Pipelined(socket, batch, Header + 32, Header, ram), echo);
        Sample[] maps = Sample.Take(batches, floor, new(() =>
        {
            for (int i = 0; i < batch; i++, next++)
                client.DmaMapQueued(Page(next * 2), ReadWrite, ram, next * 4096 % (64 << 20));
            client.DmaFlush();
        }, device));
        maps[0].Print($"{batch} bare echoes, 48 bytes and fd for 16", null, batch);
        maps[1].Print($"{batch} mappings of {batches * batch}, queued", maps[0], batch);

        next = 0;
        floor = floor with { Do = Floor.Pipelined(socket, batch, Header + 24, Header + 24, null) };
        Sample[] unmaps = Sample.Take(batches, floor, new(() =>
        {
            for (int i = 0; i < batch; i++, next++)
                client.DmaUnmapQueued(Page(next * 2));
            client.DmaFlush();
        }, device));
        unmaps[0].Print($"{batch} bare echoes, 40 bytes for 40", null, batch);
        unmaps[1].Print($"{batch} unmappings, queued", unmaps[0], batch);
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
