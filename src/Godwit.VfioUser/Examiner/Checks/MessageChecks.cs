using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>Messages as such (specification, "Message format").</summary>
internal static class MessageChecks
{
    private const int Burst = 32;

    /// <summary>Id of the message that is sent in pieces.</summary>
    public const ushort PiecesId = 4242;

    public static IReadOnlyList<Check> All { get; } =
    [
        new("message.unknown", "an unknown command is refused, and the connection goes on", static e =>
        {
            e.Refused((Command)99, "command 99", new byte[16]);
            e.Info();
        }),
        new("message.short", "a command that is shorter than its structure is refused, and the connection goes on", static e =>
        {
            foreach (Command command in (Command[])[Command.DmaMap, Command.DmaUnmap, Command.DeviceGetInfo, Command.DeviceGetRegionInfo, Command.DeviceGetIrqInfo,
                Command.DeviceSetIrqs, Command.RegionRead, Command.RegionWrite, Command.DeviceFeature])
            {
                e.Refused(command, $"{command.Name()} of 4 bytes", [64, 0, 0, 0]);
            }
            e.Info();
        }),
        new("message.error-alone", "a refusal is a header alone, which is what fixed-size clients read", static e =>
        {
            using ExaminerReply reply = e.Peer.Call(Command.DeviceGetRegionInfo, ExaminerPeer.Bytes(new RegionInfoBody { ArgSize = 32, Index = 12345 }));
            Examination.Require(reply.Error != Errno.None, "region 12345 is not refused");
            Examination.Require(reply.Body.Length == 0, $"the refusal has a body of {reply.Body.Length} bytes");
        }),
        new("message.no-reply", "a command that wants no reply gets none, not even a refusal", static e =>
        {
            e.Peer.Send(Command.RegionRead, ExaminerPeer.Bytes(new RegionAccessBody { Region = PciRegion.Config, Count = 4 }), HeaderFlags.NoReply);
            e.Peer.Send((Command)99, new byte[16], HeaderFlags.NoReply);
            e.Info(); // whose answer must be the next message
        }),
        new("message.pipelined", $"{Burst} commands sent at once are answered in order", static e =>
        {
            ushort[] ids = new ushort[Burst];
            for (int i = 0; i < Burst; i++)
                ids[i] = e.Peer.Send(Command.RegionRead, ExaminerPeer.Bytes(new RegionAccessBody { Region = PciRegion.Config, Count = 4 }), HeaderFlags.Command);
            foreach (ushort id in ids)
            {
                using ExaminerReply reply = e.Peer.Receive(id, Command.RegionRead);
                Examination.Require(reply.Error == Errno.None, $"one is refused with {reply.Error}");
            }
        }),
        new("message.pieces", "a message that comes byte by byte is one message: the transport is a stream", static e =>
        {
            byte[] message = ExaminerPeer.Message(PiecesId, Command.DeviceGetInfo, ExaminerPeer.Bytes(new DeviceInfoBody { ArgSize = 16 }));
            foreach (byte each in message)
                e.Peer.SendBytes([each]);
            using ExaminerReply reply = e.Peer.Receive(PiecesId, Command.DeviceGetInfo);
            Examination.Require(reply.Error == Errno.None, $"it is refused with {reply.Error}");
        }),
    ];
}
