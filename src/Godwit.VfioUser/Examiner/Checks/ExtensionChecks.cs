using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>What a client has to propose before the device may offer it (specification, "Capabilities": twin_socket, write_multiple).</summary>
internal static class ExtensionChecks
{
    /// <summary>Interrupt Line (PCI Local Bus 3.0, 6.2.4): a byte that any value may be written to.</summary>
    private const ulong InterruptLine = 0x3C;

    public static IReadOnlyList<Check> All { get; } =
    [
        new("version.subset", "the answer to VERSION offers nothing that was not proposed", static e =>
        {
            _ = e.Peer;
            Examination.Require(!e.Capabilities.WriteMultiple, "write_multiple is offered to a client that did not propose it");
            Examination.Require(e.Capabilities.TwinSocket is not { Supported: true }, "a twin socket is offered to a client that did not propose it");
        }),
        new("version.twin-socket", "a twin socket that is offered comes along, at its fd_index", static e =>
        {
            using ExaminerPeer peer = Propose(e, Examination.Offered with { TwinSocket = new TwinSocketCapability(true) }, out Capabilities answer, out FileDescriptor[] files);
            using var owned = new Owned(files);
            if (answer.TwinSocket is not { Supported: true } twin)
                throw Examination.Absent("no twin socket is offered");
            Examination.Require(twin.FileIndex < files.Length, $"its fd_index is '{twin.FileIndex}', and {files.Length} descriptors came");
            Examination.Require(stat.Of(files[twin.FileIndex!.Value]).IsSocket, "its descriptor is no socket");
        }),
        new("region.multiple", "REGION_WRITE_MULTI, where it is offered, does its writes in order, says how many, and stops at one that is wrong", static e =>
        {
            using ExaminerPeer peer = Propose(e, Examination.Offered with { WriteMultiple = true }, out Capabilities answer, out FileDescriptor[] files);
            new Owned(files).Dispose();
            if (!answer.WriteMultiple)
                throw Examination.Absent("write_multiple is not offered");
            using (ExaminerReply reply = peer.Call(Command.RegionWriteMulti, Writes((InterruptLine, 0x55), (InterruptLine, 0xAA))))
            {
                Examination.Require(reply.Error == Errno.None, $"two writes of the interrupt line are refused with {reply.Error}");
                Examination.Require(reply.Body.Length == sizeof(ulong) && BitConverter.ToUInt64(reply.Body) == 2, $"two writes are answered with {reply.Body.Length} bytes that say {(reply.Body.Length >= 8 ? BitConverter.ToUInt64(reply.Body) : 0)}");
            }
            Examination.Require(Line(peer) == 0xAA, $"the interrupt line is 0x{Line(peer):x} after 0x55 and 0xaa were written");
            using (ExaminerReply reply = peer.Call(Command.RegionWriteMulti, Writes((1UL << 40, 1), (InterruptLine, 0x55))))
                Examination.Require(reply.Error != Errno.None, "a write outside of its region is not refused");
            Examination.Require(Line(peer) == 0xAA, "a write behind one that is refused is done");
        }),
    ];

    private static ExaminerPeer Propose(Examination e, Capabilities offered, out Capabilities answer, out FileDescriptor[] files)
    {
        e.Disconnect();
        ExaminerPeer peer = ExaminerPeer.Connect(e.Options.Socket, e.Options.ReplyTimeout);
        try
        {
            ExaminerReply reply = peer.Call(Command.Version, ExaminerPeer.Bytes(new VersionBody(), offered.Format()));
            files = reply.Files;
            Examination.Require(reply.Error == Errno.None && reply.Body.Length >= 4, $"VERSION is answered with {reply.Error} and {reply.Body.Length} bytes");
            try
            {
                answer = Capabilities.Parse(reply.Body.AsSpan(4));
            }
            catch (VfioUserProtocolException wrong)
            {
                throw Examination.Wrong(wrong.Message);
            }
            return peer;
        }
        catch
        {
            peer.Dispose();
            throw;
        }
    }

    private static byte[] Writes(params ReadOnlySpan<(ulong Offset, int Value)> writes)
    {
        byte[] all = BitConverter.GetBytes((ulong)writes.Length);
        foreach ((ulong offset, int value) in writes)
            all = [.. all, .. ExaminerPeer.Bytes(new MultiWriteBody { Offset = offset, Region = PciRegion.Config, Count = 1, Data = (byte)value })];
        return all;
    }

    private static byte Line(ExaminerPeer peer)
    {
        using ExaminerReply reply = peer.Call(Command.RegionRead, ExaminerPeer.Bytes(new RegionAccessBody { Offset = InterruptLine, Region = PciRegion.Config, Count = 1 }));
        Examination.Require(reply.Error == Errno.None && reply.Body.Length == 17, $"reading the interrupt line is answered with {reply.Error} and {reply.Body.Length} bytes");
        return reply.Body[16];
    }

    /// <summary>Closes descriptors that came with an answer.</summary>
    private readonly struct Owned(FileDescriptor[] files) : IDisposable
    {
        public void Dispose()
        {
            foreach (FileDescriptor file in files)
                file.Dispose();
        }
    }
}
