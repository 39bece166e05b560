using System.Text;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>VERSION and what it negotiates (specification, "VFIO_USER_VERSION").</summary>
internal static class NegotiationChecks
{
    /// <summary>QEMU has room for as many bytes as its own request has.</summary>
    private const int QemuReplyLimit = 198;

    public static IReadOnlyList<Check> OnOneConnection { get; } =
    [
        new("version.answer", "VERSION is answered with major 0, a minor not above the client's, and capabilities that make sense", static e =>
        {
            _ = e.Peer;
            ushort major = BitConverter.ToUInt16(e.VersionReply, 0);
            ushort minor = BitConverter.ToUInt16(e.VersionReply, 2);
            Examination.Require(major == 0, $"the major version is {major}");
            Examination.Require(minor == 0, $"the minor version is {minor}, the client's is 0");
        }),
        new("version.text", "the answer to VERSION carries JSON with a capabilities object, in at most 198 bytes, the room that QEMU has", static e =>
        {
            _ = e.Peer;
            Examination.Require(e.VersionReply.Length <= QemuReplyLimit, $"the answer has {e.VersionReply.Length} bytes");
            string text = Encoding.UTF8.GetString(e.VersionReply.AsSpan(4));
            Examination.Require(text.Contains("\"capabilities\"", StringComparison.Ordinal), "the answer has no capabilities object");
        }),
        new("version.limits", "max_msg_fds is at most 16, max_dma_maps at most 65535 and pgsizes has no bit below 4096, or QEMU refuses the device", static e =>
        {
            _ = e.Peer;
            Examination.Require(e.Capabilities.MaxMessageFds <= 16, $"max_msg_fds is {e.Capabilities.MaxMessageFds}");
            Examination.Require(e.Capabilities.MaxDmaMaps <= WireLimits.DefaultDmaMaps, $"max_dma_maps is {e.Capabilities.MaxDmaMaps}");
            Examination.Require((e.Capabilities.PageSizes & (WireLimits.PageSize - 1)) == 0, $"pgsizes is 0x{e.Capabilities.PageSizes:x}");
        }),
        new("version.twice", "a second VERSION is refused, and the connection goes on", static e =>
        {
            e.Refused(Command.Version, "a second VERSION", ExaminerPeer.Bytes(new VersionBody(), Examination.Offered.Format()));
            e.Info();
        }),
    ];

    public static IReadOnlyList<Check> OnConnectionsOfTheirOwn { get; } =
    [
        new("version.no-text", "VERSION without JSON means every default", static e =>
        {
            e.Disconnect();
            using ExaminerPeer peer = ExaminerPeer.Connect(e.Options.Socket, e.Options.ReplyTimeout);
            using ExaminerReply reply = peer.Call(Command.Version, ExaminerPeer.Bytes(new VersionBody()));
            Examination.Require(reply.Error == Errno.None, $"it is refused with {reply.Error}");
        }),
        new("version.unknown-names", "capabilities with unknown names are ignored", static e =>
        {
            e.Disconnect();
            using ExaminerPeer peer = ExaminerPeer.Connect(e.Options.Socket, e.Options.ReplyTimeout);
            byte[] text = Encoding.UTF8.GetBytes("""{"capabilities":{"max_msg_fds":1,"colour":{"of":["sea"]}},"mood":null}""" + "\0");
            using ExaminerReply reply = peer.Call(Command.Version, ExaminerPeer.Bytes(new VersionBody(), text));
            Examination.Require(reply.Error == Errno.None, $"they are refused with {reply.Error}");
        }),
        new("version.malformed", "VERSION with JSON that is none, ends without its NUL or has values of the wrong kind is refused", static e =>
        {
            foreach (string text in (string[])["{\"capabilities\":{\0", "{\"capabilities\":{}}", "{\"capabilities\":7}\0", "{\"capabilities\":{\"max_msg_fds\":\"x\"}}\0", "[]\0"])
                MustBeRefused(e, $"VERSION with the text {text.Replace("\0", "\\0", StringComparison.Ordinal)}", new VersionBody(), Encoding.UTF8.GetBytes(text));
        }),
        new("version.other-major", "another major version is refused", static e =>
            MustBeRefused(e, "major version 1", new VersionBody { Major = 1 }, Examination.Offered.Format())),
        new("version.first", "a command before VERSION is refused", static e =>
        {
            e.Disconnect();
            using ExaminerPeer peer = ExaminerPeer.Connect(e.Options.Socket, e.Options.ReplyTimeout);
            MustBeRefused(peer, "DEVICE_GET_INFO before VERSION", Command.DeviceGetInfo, ExaminerPeer.Bytes(new DeviceInfoBody { ArgSize = 16 }));
        }),
    ];

    private static void MustBeRefused(Examination e, string what, VersionBody version, byte[] text)
    {
        e.Disconnect();
        using ExaminerPeer peer = ExaminerPeer.Connect(e.Options.Socket, e.Options.ReplyTimeout);
        MustBeRefused(peer, what, Command.Version, ExaminerPeer.Bytes(version, text));
    }

    /// <summary>An error or the end of the connection.</summary>
    private static void MustBeRefused(ExaminerPeer peer, string what, Command command, byte[] body)
    {
        Errno error;
        try
        {
            using ExaminerReply reply = peer.Call(command, body);
            error = reply.Error;
        }
        catch (CheckException closed) when (closed.ConnectionIsUnusable)
        {
            return;
        }
        Examination.Require(error != Errno.None, $"{what} is taken");
    }
}
