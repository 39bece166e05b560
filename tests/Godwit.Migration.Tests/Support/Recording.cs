using System.Net.Sockets;

namespace Godwit.Migration.Tests;

/// <summary>A complete, small migration stream as a source sent it, and a way to play bytes to fresh destinations.</summary>
internal sealed class Recording : IDisposable
{
    private readonly TempDirectory _directory = new();
    private readonly MigrationListener _listener;
    private readonly string _path;

    public Recording(bool verify = false)
    {
        _path = _directory.File("play.sock");
        using (var pair = new Pair(Machine(), Machine(destination: true)))
        {
            // A page with contents, so that both kinds of run are there.
            pair.SourceMachine.Ram.Blocks[0].Write(3 * 4096, [1, 2, 3, 4], Memory.DirtySource.Vmm);
            pair.Listen();
            using var proxy = new FrameProxy(pair.ListenUri["unix:".Length..], FrameProxy.PassOn);
            pair.Source.Parameters = new MigrationParameters { VerifyPages = verify };
            pair.Source.Start(proxy.Address);
            pair.WaitForSource(MigrationState.Completed, MigrationState.Failed);
            Assert.True(pair.Source.Status.State == MigrationState.Completed, pair.Source.Status.Error);
            Bytes = proxy.Recorded.ToArray();
            Frames = [.. proxy.Frames];
        }

        _listener = MigrationListener.Open(new UnixMigrationUri(_path), TimeProvider.System);
    }

    public byte[] Bytes { get; }

    public IReadOnlyList<(FrameType Type, int Offset, int Length)> Frames { get; }

    public static TestMachine Machine(bool destination = false)
    {
        var machine = new TestMachine(mebibytes: 2, devices: 1, running: !destination);
        machine.Devices[0].State = [1, 2, 3, 4, 5, 6, 7, 8, 9];
        machine.Devices[0].Precopy = 4;
        machine.States[0].LoadsAhead = true; // so that there are states within a round, too
        return machine;
    }

    public byte[] Frame(int index) => Bytes.AsSpan(Frames[index].Offset, Frames[index].Length).ToArray();

    public byte[] Payload(int index) => Frame(index)[StreamFormat.HeaderSize..];

    /// <summary>The stream of these frames, numbered and checksummed anew.</summary>
    public static byte[] Compose(IEnumerable<(FrameType Type, byte[] Payload)> frames)
    {
        var stream = new MemoryStream();
        using var writer = new FrameWriter(stream);
        writer.WritePreface();
        foreach ((FrameType type, byte[] payload) in frames)
            writer.Write(type, payload);
        writer.Flush();
        return stream.ToArray();
    }

    /// <summary>Plays <paramref name="bytes"/> to a fresh destination, then closes.</summary>
    public (IncomingOutcome Outcome, Exception? Cause, TestMachine Machine) Play(ReadOnlySpan<byte> bytes)
    {
        TestMachine machine = Machine(destination: true);
        using var client = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        client.SendBufferSize = 4 << 20;
        client.Connect(new UnixDomainSocketEndPoint(_path));
        using MigrationChannel channel = _listener.Accept()!;
        using var incoming = new IncomingMigration(machine, channel, null, new MigrationTimes(), TimeProvider.System);
        Thread? sender = null;
        if (bytes.Length <= 64 << 10)
        {
            client.Send(bytes);
            client.Shutdown(SocketShutdown.Send);
        }
        else
        {
            byte[] copy = bytes.ToArray();
            sender = new Thread(() =>
            {
                try
                {
                    client.Send(copy);
                    client.Shutdown(SocketShutdown.Send);
                }
                catch (SocketException)
                {
                    // The destination has hung up, as it may.
                }
            });
            sender.Start();
        }

        IncomingOutcome outcome = incoming.Run();
        channel.Dispose();
        sender?.Join();
        return (outcome, incoming.Source, machine);
    }

    public void Dispose()
    {
        _listener.Dispose();
        _directory.Dispose();
    }
}
