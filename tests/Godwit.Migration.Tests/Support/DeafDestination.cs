using System.Buffers;
using System.Net.Sockets;

namespace Godwit.Migration.Tests;

/// <summary>Accepts a migration politely and then reads nothing, and says only what the test has it say.</summary>
internal sealed class DeafDestination : IDisposable
{
    private readonly Socket _listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
    private readonly ManualResetEventSlim _accepted = new();
    private readonly Thread _thread;
    private readonly string _path;
    private Socket? _socket;
    private FrameWriter? _writer;
    private ITimer? _talk;

    public DeafDestination(MachineDescription description, string path, bool answer = true, TimeProvider? talk = null)
    {
        _path = path;
        _listener.Bind(new UnixDomainSocketEndPoint(path));
        _listener.Listen();
        _thread = new Thread(() => Accept(description, answer, talk)) { IsBackground = true, Name = "deaf destination" };
        _thread.Start();
    }

    public string Address => $"unix:{_path}";

    /// <summary>Waits until the source has said hello (and, if asked to, has been accepted).</summary>
    public void WaitForSource() => Assert.True(_accepted.Wait(Pair.Patience), "no source connects");

    /// <summary>Waits until the source has filled the socket: nothing more arrives in it.</summary>
    public void WaitUntilFull()
    {
        WaitForSource();
        int last = 0;
        int same = 0;
        Assert.True(SpinWait.SpinUntil(
            () =>
            {
                int now = _socket!.Available;
                same = now == last && now > 0 ? same + 1 : 0;
                last = now;
                return same > 300;
            },
            Pair.Patience));
    }

    public void Dispose()
    {
        _talk?.Dispose();
        _writer?.Dispose();
        _listener.Dispose();
        _socket?.Dispose();
        Assert.True(_thread.Join(Pair.Patience));
    }

    private void Accept(MachineDescription description, bool answer, TimeProvider? talk)
    {
        try
        {
            _socket = _listener.Accept();
            var stream = new NetworkStream(_socket);
            var writer = _writer = new FrameWriter(stream);
            var reader = new FrameReader(stream);
            reader.ReadPreface();
            reader.ReadPayload(reader.ReadHeader());
            if (answer)
            {
                var payload = new ArrayBufferWriter<byte>();
                DescriptionMessage.Write(payload, description);
                writer.WritePreface();
                writer.Write(FrameType.Description, payload.WrittenSpan);
                writer.Write(FrameType.Accept, default);
                writer.Flush();
            }

            // A sign of life at every tick of the clock.
            _talk = talk?.CreateTimer(_ => Record.Exception(() => writer.TryWriteNow(FrameType.KeepAlive)), null, TimeSpan.FromSeconds(1), TimeSpan.FromSeconds(1));
            _accepted.Set();
        }
        catch (Exception e) when (e is SocketException or IOException or ObjectDisposedException)
        {
            // The test is over before a source came.
        }
    }
}
