using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>Region accesses by descriptor (specification, DEVICE_GET_REGION_IO_FDS; the form with shadow memory is libvfio-user's).</summary>
internal static class DoorbellChecks
{
    public static IReadOnlyList<Check> All { get; } =
    [
        new("doorbell.room", "an argsz without room for the entries is told how much they need, and gets neither entries nor descriptors", static e => ForEach(e, static (e, region, head, whole) =>
        {
            using ExaminerReply reply = Ask(e, region, 16);
            Examination.Require(reply.Error == Errno.None && reply.Body.Length == 16, $"region {region} with argsz 16 is answered with {reply.Error} and {reply.Body.Length} bytes");
            Wire.TryTake(reply.Body, out RegionIoFdsBody small, out _);
            Examination.Require(small.Count == head.Count && small.ArgSize == head.ArgSize, $"region {region} has {head.Count} entries in {head.ArgSize} bytes, and says {small.Count} in {small.ArgSize} where they do not fit");
            Examination.Require(whole.Files.Length != 0, $"region {region} sends no descriptor with its entries");
            Examination.Require(reply.Files.Length == 0, $"region {region} sends {reply.Files.Length} descriptors where the entries do not fit");
        })),
        new("doorbell.eventfd", "what entries call an eventfd is one", static e => ForEach(e, static (_, region, _, reply) =>
        {
            foreach (IoFdBody entry in Entries(reply))
            {
                if (entry.Type is not (IoFdType.IoEventFd or IoFdType.ShadowIoEventFd))
                    continue;
                Examination.Require(entry.FileIndex < (uint)reply.Files.Length, $"region {region} has an entry with descriptor {entry.FileIndex} of {reply.Files.Length}");
                bool isEventFd = ReceivedEventFd.TryTake(reply.Files[entry.FileIndex], out EventFd? bell);
                bell?.Dispose();
                Examination.Require(isEventFd, $"region {region} has an entry whose descriptor {entry.FileIndex} is no eventfd");
            }
        })),
        new("doorbell.shadow", "values go to memory that cannot be cut short under the client, inside of it and aligned", static e =>
        {
            bool any = false;
            ForEach(e, (_, region, _, reply) =>
            {
                foreach (IoFdBody entry in Entries(reply))
                {
                    if (entry.Type != IoFdType.ShadowIoEventFd)
                        continue;
                    any = true;
                    Examination.Require(entry.ShadowFileIndex < (uint)reply.Files.Length, $"region {region} has an entry with memory {entry.ShadowFileIndex} of {reply.Files.Length} descriptors");
                    FileDescriptor file = reply.Files[entry.ShadowFileIndex];
                    int seals = unistd.fcntl(file, unistd.F_GET_SEALS, 0);
                    Examination.Require(seals >= 0 && (seals & unistd.F_SEAL_SHRINK) != 0, $"region {region} has an entry whose memory is not sealed against shrinking (fcntl(2), F_SEAL_SHRINK): who writes it can be killed");
                    ulong size = stat.Of(file).Size;
                    Examination.Require(
                        entry.Size is 1 or 2 or 4 or 8 && entry.ShadowOffset <= size && entry.Size <= size - entry.ShadowOffset && entry.ShadowOffset % entry.Size == 0,
                        $"region {region} has an entry of {entry.Size} bytes with its value at 0x{entry.ShadowOffset:x} of 0x{size:x}");
                }
            });
            if (!any)
                throw Examination.Absent("no values go to memory");
        }),
    ];

    private static ExaminerReply Ask(Examination e, int region, int argSize) =>
        e.Peer.Call(Command.DeviceGetRegionIoFds, ExaminerPeer.Bytes(new RegionIoFdsBody { ArgSize = (uint)argSize, Index = (uint)region }));

    /// <summary>Looks at the full answer of every region that has one.</summary>
    private static void ForEach(Examination e, Action<Examination, int, RegionIoFdsBody, ExaminerReply> look)
    {
        bool any = false;
        for (int i = 0; i < (int)e.Info().Regions; i++)
        {
            if (e.Region(i).Size == 0)
                continue;
            using ExaminerReply reply = Ask(e, i, WireLimits.MaxIoFds);
            if (reply.Error != Errno.None || !Wire.TryTake(reply.Body, out RegionIoFdsBody head, out _) || head.Count == 0)
                continue;
            any = true;
            look(e, i, head, reply);
        }
        if (!any)
            throw Examination.Absent("no region is served by descriptors");
    }

    private static List<IoFdBody> Entries(ExaminerReply reply)
    {
        Wire.TryTake(reply.Body, out RegionIoFdsBody head, out ReadOnlySpan<byte> rest);
        int size = rest.Length / (int)Math.Clamp(head.Count, 1, 10000);
        var entries = new List<IoFdBody>();
        for (; size >= IoFdBody.PlainSize && rest.Length >= size; rest = rest[size..])
        {
            IoFdBody entry = default;
            rest[..Math.Min(size, Marshal.SizeOf<IoFdBody>())].CopyTo(MemoryMarshal.AsBytes(new Span<IoFdBody>(ref entry)));
            entries.Add(entry);
        }
        return entries;
    }
}
