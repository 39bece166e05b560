using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>Clients that come and go.</summary>
internal static class ConnectionChecks
{
    private const ulong Base = 0x4000_0000;

    public static IReadOnlyList<Check> All { get; } =
    [
        new("connection.again", "after a client has gone, its mappings, eventfds and log are gone too, and the next one is served", static e =>
        {
            for (ulong i = 1; i <= 3; i++)
            {
                // Over the one before, and other: the same once more would be taken by a device that has kept it.
                using MemFd file = MemFd.Create("examiner", i * WireLimits.PageSize);
                DmaChecks.Map(e, Base, i * WireLimits.PageSize, file);
                e.Disconnect();
            }
            InterruptChecks.LeaveBehind(e);
            LoggingChecks.LeaveBehind(e);
            e.Info();
        }),
        new("connection.torn", "a client that goes in the middle of a message keeps nobody else out", static e =>
        {
            byte[] message = ExaminerPeer.Message(1, Command.RegionWrite, ExaminerPeer.Bytes(new RegionAccessBody { Region = PciRegion.Config, Offset = 0x3C, Count = 4 }, new byte[4]));
            foreach (int length in (int[])[1, 15, 16, 20, message.Length - 1])
            {
                e.Peer.SendBytes(message.AsSpan(0, length));
                e.Disconnect();
            }
            e.Info();
        }),
        new("connection.length", "a message that claims more than was agreed on, or less than its header, is refused or ends the connection, no more", static e =>
        {
            foreach (uint length in (uint[])[0, 15, 16 * 1024 * 1024, uint.MaxValue])
            {
                e.Peer.SendBytes(ExaminerPeer.Bytes(new MessageHeader { Id = 7, Command = Command.DeviceGetInfo, Length = length }));
                bool taken;
                try
                {
                    using ExaminerReply reply = e.Peer.Receive(7, Command.DeviceGetInfo);
                    taken = reply.Error == Errno.None;
                }
                catch (CheckException closed) when (closed.ConnectionIsUnusable)
                {
                    taken = false;
                }
                e.Disconnect();
                Examination.Require(!taken, $"a message of {length} bytes is taken");
            }
            e.Info();
        }),
        new("connection.second", "a second client at the same time is served or turned away, and does not disturb the first", static e =>
        {
            e.Info();
            using (ExaminerPeer second = ExaminerPeer.Connect(e.Options.Socket, e.Options.ReplyTimeout))
            {
                KnockAndWait(second);
                for (int i = 0; i < 10; i++)
                    e.Info();
            }
            e.Info();
        }),
    ];

    /// <summary>
    /// Until the device has noticed the client: connecting succeeds before anybody accepts. A device that serves one client at a time may
    /// leave it waiting, and says nothing.
    /// </summary>
    private static void KnockAndWait(ExaminerPeer client)
    {
        try
        {
            client.Send(Command.DeviceGetInfo, [], HeaderFlags.Command);
        }
        catch (CheckException turnedAway) when (turnedAway.ConnectionIsUnusable)
        {
            return;
        }
        client.IsClosed();
    }
}
