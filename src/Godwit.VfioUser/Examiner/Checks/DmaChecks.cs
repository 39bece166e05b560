using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>DMA mappings (specification, DMA_MAP and DMA_UNMAP).</summary>
internal static class DmaChecks
{
    private const ulong Base = 0x4000_0000;
    private const ulong Page = WireLimits.PageSize;
    private const int Burst = 128;

    public static IReadOnlyList<Check> All { get; } =
    [
        new("dma.map", "memory is mapped with and without a descriptor; an unmap is answered with the request", static e =>
        {
            using MemFd file = MemFd.Create("examiner", 16 * Page);
            Map(e, Base, 16 * Page, file);
            Map(e, Base + 32 * Page, Page, null);
            Unmap(e, Base, 16 * Page);
            Unmap(e, Base + 32 * Page, Page);
        }),
        new("dma.overlap", "a mapping over another one is refused", static e =>
        {
            using MemFd file = MemFd.Create("examiner", 16 * Page);
            Map(e, Base, 4 * Page, file);
            e.Refused(Command.DmaMap, "a mapping over the end of another", MapBody(Base + 3 * Page, 4 * Page), file);
            e.Refused(Command.DmaMap, "a mapping inside of another", MapBody(Base + Page, Page), file);
            e.Refused(Command.DmaMap, "a mapping around another", MapBody(Base - Page, 8 * Page), file);
            Unmap(e, Base, 4 * Page);
        }),
        new("dma.again", "memory that was unmapped can be mapped anew", static e =>
        {
            using MemFd file = MemFd.Create("examiner", 16 * Page);
            for (int i = 0; i < 3; i++)
            {
                Map(e, Base, 4 * Page, file);
                Unmap(e, Base, 4 * Page);
            }
        }),
        new("dma.wrong", "a mapping that wraps, has unknown flags or is larger than its file is refused", static e =>
        {
            using MemFd file = MemFd.Create("examiner", Page);
            e.Refused(Command.DmaMap, "a mapping that wraps", MapBody(ulong.MaxValue - Page + 1, 2 * Page));
            e.Refused(Command.DmaMap, "flags 0x80000003", MapBody(Base, Page, flags: 0x8000_0003));
            e.Refused(Command.DmaMap, "two pages of a file of one", MapBody(Base, 2 * Page), file);
            e.Refused(Command.DmaMap, "a place in the file that wraps", MapBody(Base, Page, offset: ulong.MaxValue - Page + 1), file);
        }),
        new("dma.unmap-part", "an unmap of a part of a mapping is refused", static e =>
        {
            Map(e, Base, 4 * Page, null);
            e.Refused(Command.DmaUnmap, "an unmap of half a mapping", UnmapBody(Base, 2 * Page));
            Unmap(e, Base, 4 * Page);
        }),
        new("dma.unmap-all", "an unmap of everything leaves nothing", static e =>
        {
            Map(e, Base, Page, null);
            Map(e, Base + 4 * Page, Page, null);
            using (ExaminerReply reply = e.Peer.Call(Command.DmaUnmap, ExaminerPeer.Bytes(new DmaUnmapBody { ArgSize = 24, Flags = DmaUnmapFlags.All })))
            {
                if (reply.Error != Errno.None)
                    throw Examination.Absent($"it is refused with {reply.Error}");
            }
            Map(e, Base, 8 * Page, null);
            Unmap(e, Base, 8 * Page);
        }),
        new("dma.limit", "as many mappings as max_dma_maps says are taken, and one more is refused, or taken by a device that did not say max_dma_maps", static e =>
        {
            int limit = Math.Min(e.Capabilities.MaxDmaMaps, WireLimits.DefaultDmaMaps);
            using MemFd file = MemFd.Create("examiner", Page);
            Many(limit, i => e.Peer.Send(Command.DmaMap, MapBody(Base + (ulong)i * 2 * Page, Page), HeaderFlags.Command, file), (id, i) => Answered(e, id, Command.DmaMap, $"mapping {i} of {limit}"));
            byte[] beyond = MapBody(Base + (ulong)limit * 2 * Page, Page);
            bool taken = e.Try(Command.DmaMap, beyond, file) == Errno.None;
            if (taken)
                Unmap(e, Base + (ulong)limit * 2 * Page, Page);
            e.Info();
            Many(limit, i => e.Peer.Send(Command.DmaUnmap, UnmapBody(Base + (ulong)i * 2 * Page, Page), HeaderFlags.Command), (id, i) => Answered(e, id, Command.DmaUnmap, $"unmap {i} of {limit}"));
            bool said = e.VersionReply.AsSpan().IndexOf("\"max_dma_maps\""u8) >= 0;
            Examination.Require(!taken || !said, $"max_dma_maps is {limit}, and one mapping more is taken");
        }),
    ];

    /// <summary>DMA_MAP's body; readable and writable unless told otherwise.</summary>
    public static byte[] MapBody(ulong address, ulong size, uint flags = 3, ulong offset = 0) => ExaminerPeer.Bytes(
        new DmaMapBody { ArgSize = 32, Flags = flags, Address = address, Size = size, FileOffset = offset });

    /// <summary>Maps.</summary>
    public static void Map(Examination e, ulong address, ulong size, FileDescriptor? file) => e.Get(
        Command.DmaMap, $"a mapping of 0x{size:x} at 0x{address:x} {(file is null ? "without" : "with")} a descriptor", MapBody(address, size), file is null ? [] : new ReadOnlySpan<FileDescriptor>(in file));

    private static byte[] UnmapBody(ulong address, ulong size) => ExaminerPeer.Bytes(new DmaUnmapBody { ArgSize = 24, Address = address, Size = size });

    private static void Unmap(Examination e, ulong address, ulong size)
    {
        DmaUnmapBody reply = e.Get<DmaUnmapBody>(Command.DmaUnmap, $"an unmap of 0x{size:x} at 0x{address:x}", UnmapBody(address, size), out byte[] rest);
        Examination.Require(reply.Address == address && reply.Size == size && rest.Length == 0, $"an unmap is answered with 0x{reply.Size:x} at 0x{reply.Address:x} and {rest.Length} bytes more");
    }

    private static void Many(int count, Func<int, ushort> send, Action<ushort, int> receive)
    {
        var ids = new Queue<(ushort Id, int Number)>();
        for (int i = 0; i < count; i++)
        {
            ids.Enqueue((send(i), i));
            if (ids.Count == Burst)
            {
                (ushort id, int number) = ids.Dequeue();
                receive(id, number);
            }
        }
        while (ids.TryDequeue(out (ushort Id, int Number) next))
            receive(next.Id, next.Number);
    }

    private static void Answered(Examination e, ushort id, Command command, string what)
    {
        using ExaminerReply reply = e.Peer.Receive(id, command);
        if (reply.Error != Errno.None)
        {
            e.Disconnect(); // others are under way
            throw Examination.Wrong($"{what} is refused with {reply.Error}");
        }
    }
}
