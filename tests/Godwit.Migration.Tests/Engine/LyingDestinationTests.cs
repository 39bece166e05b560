using System.Buffers;
using System.Net.Sockets;

namespace Godwit.Migration.Tests;

/// <summary>A destination that says what it may not say: the source takes its machine back and names it.</summary>
public sealed class LyingDestinationTests
{
    public static TheoryData<string> Lies => ["early Running", "early Prepared", "early ack", "wrong ack", "early verdict", "two descriptions",
        "two accepts", "accept first", "source's frame", "garbage", "another version", "hangs up", "failure", "refusal"];

    [Theory]
    [MemberData(nameof(Lies))]
    public void A_lie_fails_the_migration_and_nothing_else(string lie)
    {
        using var machine = new TestMachine();
        machine.Fill(1); // more than a socket holds, so that nobody ends a round that is not read
        using var directory = new TempDirectory();
        string path = directory.File("liar.sock");
        using var listener = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        listener.Bind(new UnixDomainSocketEndPoint(path));
        listener.Listen();
        using var ended = new ManualResetEventSlim();
        var liar = new Thread(() =>
        {
            try
            {
                Lie(lie, listener, StreamDescription.Of(machine), ended);
            }
            catch (Exception e) when (e is IOException or SocketException)
            {
                // The source hung up on the first lie while more was being said.
            }
        })
        { IsBackground = true };
        liar.Start();
        using var controller = new MigrationController(machine, TimeProvider.System);
        controller.StateChanged += state =>
        {
            if (MigrationProgress.IsOver(state))
                ended.Set();
        };
        // Were it believed, the migration would go on until the guest is stopped and beyond; this one never gets so far by itself.
        controller.Parameters = new MigrationParameters { MinimumPrecopy = TimeSpan.FromHours(1), VerifyPages = true };
        controller.Start($"unix:{path}");
        Assert.True(ended.Wait(Pair.Patience));
        Assert.Equal(MigrationState.Failed, controller.Status.State);
        string expected = lie switch
        {
            "garbage" => "magic is",
            "another version" => "version is 2; this side speaks version 4",
            "hangs up" => "closed the connection",
            "failure" => "the destination gave up: no room",
            "refusal" => "The machines differ in 1 entry: a: source 1, destination has none",
            "wrong ack" => "round is 7",
            _ => "the destination may not say this now",
        };
        Assert.Contains(expected, controller.Status.Error, StringComparison.Ordinal);
        Assert.True(machine.Executing);
        Assert.False(machine.PostMigrate);
        Assert.False(machine.Ram.Dirty.Enabled);
        Assert.DoesNotContain("StopForSwitchover", machine.Calls.Calls);
        Assert.True(liar.Join(Pair.Patience));
    }

    private static void Lie(string lie, Socket listener, MachineDescription description, ManualResetEventSlim ended)
    {
        using Socket socket = listener.Accept();
        using var stream = new NetworkStream(socket);
        using var writer = new FrameWriter(stream);
        var payload = new ArrayBufferWriter<byte>();
        var reader = new FrameReader(stream);
        reader.ReadPreface();
        reader.ReadPayload(reader.ReadHeader());
        DescriptionMessage.Write(payload, description);
        switch (lie)
        {
            case "garbage":
                socket.Send(new byte[64]);
                break;
            case "another version":
                byte[] preface = new byte[16];
                BitConverter.TryWriteBytes(preface, StreamFormat.Magic);
                preface[8] = 2;
                BitConverter.TryWriteBytes(preface.AsSpan(12), FrameWriter.PrefaceCrc(preface));
                socket.Send(preface);
                break;
            case "accept first":
                writer.WritePreface();
                writer.Write(FrameType.Accept, default);
                break;
            case "failure":
                writer.WritePreface();
                payload.ResetWrittenCount();
                new FailureMessage(false, "no room").Write(payload);
                writer.Write(FrameType.Failure, payload.WrittenSpan);
                break;
            case "refusal":
                writer.WritePreface();
                payload.ResetWrittenCount();
                RefusalMessage.Write(payload, [new DescriptionDifference("a", "1", null)]);
                writer.Write(FrameType.Refuse, payload.WrittenSpan);
                break;
            case "hangs up":
                return;
            default:
                writer.WritePreface();
                writer.Write(FrameType.Description, payload.WrittenSpan);
                if (lie == "two descriptions")
                    writer.Write(FrameType.Description, payload.WrittenSpan);
                writer.Write(FrameType.Accept, default);
                SayWhatMayNotBeSaid(lie, writer, reader);
                break;
        }

        writer.Flush();
        if (lie == "early ack")
            ended.Wait(Pair.Patience); // read before, the round might end first, and the answer would be right
        Drain(reader);
    }

    private static void SayWhatMayNotBeSaid(string lie, FrameWriter writer, FrameReader reader)
    {
        switch (lie)
        {
            case "early Running":
                writer.Write(FrameType.Running, new byte[RunningMessage.Size]);
                break;
            case "early Prepared":
                writer.Write(FrameType.Prepared, default);
                break;
            case "early ack":
                writer.Write(FrameType.RoundAck, Ack(1));
                break;
            case "wrong ack":
                writer.Flush();
                FrameHeader header;
                do
                {
                    header = reader.ReadHeader();
                    reader.ReadPayload(header);
                }
                while (header.Type != FrameType.RoundEnd);
                writer.Write(FrameType.RoundAck, Ack(7));
                break;
            case "early verdict":
                writer.Write(FrameType.VerifyResult, new byte[VerifyResultMessage.FixedSize]);
                break;
            case "two accepts":
                writer.Write(FrameType.Accept, default);
                break;
            case "source's frame":
                writer.Write(FrameType.Commit, [1]);
                break;
        }
    }

    private static byte[] Ack(uint round)
    {
        var payload = new ArrayBufferWriter<byte>();
        new RoundAckMessage(round, TimeSpan.Zero, default).Write(payload);
        return payload.WrittenSpan.ToArray();
    }

    private static void Drain(FrameReader reader)
    {
        try
        {
            for (; ; )
                reader.ReadPayload(reader.ReadHeader());
        }
        catch (IOException)
        {
            // The source has ended it, as it should.
        }
    }
}
