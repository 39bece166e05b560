using System.Net.Sockets;

namespace Godwit.Migration.Tests;

/// <summary>What a <see cref="FrameProxy"/> may do with a frame of the source.</summary>
internal delegate void ForwardFrame(FrameType type, byte[] payload, Action<FrameType, byte[]> send);

/// <summary>
/// Stands between a source and a destination, takes the source's stream apart into frames and writes a new, valid one. Everything that went
/// to the destination is recorded.
/// </summary>
internal sealed class FrameProxy : IDisposable
{
    private readonly TempDirectory _directory = new();
    private readonly Socket _listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
    private readonly Thread _thread;
    private readonly string _target;
    private readonly ForwardFrame _forward;
    private volatile bool _closed;

    /// <summary>Listens from now on.</summary>
    /// <param name="target">Path of the destination's socket.</param>
    /// <param name="forward">Sends what the destination is to get for each frame.</param>
    public FrameProxy(string target, ForwardFrame forward)
    {
        _target = target;
        _forward = forward;
        _listener.Bind(new UnixDomainSocketEndPoint(_directory.File("proxy.sock")));
        _listener.Listen();
        _thread = new Thread(Run) { IsBackground = true, Name = "proxy" };
        _thread.Start();
    }

    public string Address => $"unix:{_directory.File("proxy.sock")}";

    /// <summary>When the forward direction ends, close the way back at once, too.</summary>
    public bool BreakBoth { get; set; }

    public MemoryStream Recorded { get; } = new();

    /// <summary>Lengths of the recorded frames, with their headers, after the preface.</summary>
    public List<(FrameType Type, int Offset, int Length)> Frames { get; } = [];

    public static void PassOn(FrameType type, byte[] payload, Action<FrameType, byte[]> send) => send(type, payload);

    public void Dispose()
    {
        _closed = true;
        _listener.Dispose();
        Assert.True(_thread.Join(Pair.Patience), "the proxy does not end");
        _directory.Dispose();
    }

    private void Run()
    {
        try
        {
            while (!_closed)
            {
                using Socket source = _listener.Accept();
                using var destination = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                destination.Connect(new UnixDomainSocketEndPoint(_target));
                var back = new Thread(() => CopyBack(destination, source)) { IsBackground = true, Name = "proxy back" };
                back.Start();
                Forward(source, destination);
                back.Join();
            }
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException && _closed)
        {
            // The test is over.
        }
    }

    private static void CopyBack(Socket from, Socket to)
    {
        byte[] buffer = new byte[4096];
        try
        {
            for (int count; (count = from.Receive(buffer)) > 0;)
                to.Send(buffer.AsSpan(0, count));
            to.Shutdown(SocketShutdown.Send);
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // One side has gone; the other notices by the closed socket.
        }
    }

    private void Forward(Socket source, Socket destination)
    {
        using var incoming = new NetworkStream(source);
        using var outgoing = new NetworkStream(destination);
        using var tee = new Tee(outgoing, Recorded);
        using var writer = new FrameWriter(tee);
        Recorded.SetLength(0);
        Frames.Clear();
        try
        {
            var reader = new FrameReader(incoming);
            reader.ReadPreface();
            writer.WritePreface();
            for (; ; )
            {
                FrameHeader header = reader.ReadHeader();
                byte[] payload = reader.ReadPayload(header).ToArray();
                _forward(header.Type, payload, (type, bytes) =>
                {
                    Frames.Add((type, (int)writer.Bytes, StreamFormat.HeaderSize + bytes.Length));
                    writer.Write(type, bytes);
                    writer.Flush();
                });
            }
        }
        catch (IOException)
        {
            // The source has closed, or the destination.
        }

        try
        {
            // First, so that what the destination says to it cannot come through.
            if (BreakBoth)
                source.Shutdown(SocketShutdown.Both);
            destination.Shutdown(SocketShutdown.Send);
        }
        catch (SocketException)
        {
            // It has gone before.
        }
    }

    private sealed class Tee(Stream first, Stream second) : Stream
    {
        public override bool CanRead => false;
        public override bool CanSeek => false;
        public override bool CanWrite => true;
        public override long Length => throw new NotSupportedException();
        public override long Position { get => throw new NotSupportedException(); set => throw new NotSupportedException(); }

        public override void Flush()
        {
        }

        public override void Write(ReadOnlySpan<byte> buffer)
        {
            second.Write(buffer);
            first.Write(buffer);
        }

        public override void Write(byte[] buffer, int offset, int count) => Write(buffer.AsSpan(offset, count));
        public override int Read(byte[] buffer, int offset, int count) => throw new NotSupportedException();
        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();
        public override void SetLength(long value) => throw new NotSupportedException();
    }
}
