using System.Buffers;
using System.Net.Sockets;
using Godwit.Migration;

namespace Godwit.EndToEnd.Tests;

/// <summary>A frame on its way from the source to the destination.</summary>
internal sealed record Frame(FrameHeader Header, byte[] Payload)
{
    public FrameType Type => Header.Type;

    /// <summary>As it came, checksums and all.</summary>
    public byte[] Bytes()
    {
        byte[] bytes = new byte[StreamFormat.HeaderSize + Payload.Length];
        Header.Write(bytes);
        Payload.CopyTo(bytes, StreamFormat.HeaderSize);
        return bytes;
    }
}

/// <summary>
/// Stands between source and destination. What the source sends goes through a function of the test frame by frame; the way back is left
/// alone. Uses the reader and writer of the product, so what it lets through is a valid stream.
/// </summary>
internal sealed class MigrationProxy : IAsyncDisposable
{
    private readonly Socket _listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
    private readonly string _target;
    private readonly Task _serving;

    private MigrationProxy(string path, string target, Action<FrameReader, Stream> forward)
    {
        _target = target;
        Uri = $"unix:{path}";
        _listener.Bind(new UnixDomainSocketEndPoint(path));
        _listener.Listen();
        _serving = Task.Factory.StartNew(() => Serve(forward), TaskCreationOptions.LongRunning);
    }

    /// <summary>Where the source migrates to.</summary>
    public string Uri { get; }

    /// <summary>Sends on whatever bytes <paramref name="tamper"/> makes of a frame; null cuts the connection.</summary>
    public static MigrationProxy Raw(string path, string target, Func<Frame, byte[]?> tamper) => new(path, target, (reader, destination) =>
    {
        while (true)
        {
            FrameHeader header = reader.ReadHeader();
            if (tamper(new Frame(header, reader.ReadPayload(header).ToArray())) is not { } bytes)
            {
                return;
            }

            destination.Write(bytes);
        }
    });

    /// <summary>Sends every frame on as it is and then asks <paramref name="goOn"/>; false cuts the connection.</summary>
    public static MigrationProxy After(string path, string target, Func<Frame, bool> goOn) => new(path, target, (reader, destination) =>
    {
        while (true)
        {
            FrameHeader header = reader.ReadHeader();
            var frame = new Frame(header, reader.ReadPayload(header).ToArray());
            destination.Write(frame.Bytes());
            if (!goOn(frame))
            {
                return;
            }
        }
    });

    /// <summary>Sends on the frames that <paramref name="rewrite"/> makes of a frame, numbered and checksummed anew.</summary>
    public static MigrationProxy Rewriting(string path, string target, Func<Frame, IEnumerable<(FrameType Type, byte[] Payload)>> rewrite) =>
        new(path, target, (reader, destination) =>
        {
            using var writer = new FrameWriter(destination);
            while (true)
            {
                FrameHeader header = reader.ReadHeader();
                foreach ((FrameType type, byte[] payload) in rewrite(new Frame(header, reader.ReadPayload(header).ToArray())))
                {
                    writer.Write(type, payload);
                }

                writer.Flush();
            }
        });

    public async ValueTask DisposeAsync()
    {
        _listener.Dispose();
        await _serving;
    }

    private void Serve(Action<FrameReader, Stream> forward)
    {
        try
        {
            while (true)
            {
                using Socket source = _listener.Accept();
                using var destination = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                destination.Connect(new UnixDomainSocketEndPoint(_target));
                Serve(source, destination, forward);
            }
        }
        catch (Exception e) when (e is SocketException or ObjectDisposedException)
        {
            // Disposed, while it waited or before.
        }
    }

    private static void Serve(Socket source, Socket destination, Action<FrameReader, Stream> forward)
    {
        using var from = new NetworkStream(source);
        using var to = new NetworkStream(destination);
        Task back = Task.Factory.StartNew(() => Copy(destination, source), TaskCreationOptions.LongRunning);
        try
        {
            // The preface is 16 bytes without a frame around it.
            byte[] preface = new byte[StreamFormat.PrefaceSize];
            from.ReadExactly(preface);
            to.Write(preface);
            forward(AfterPreface(from, preface), to);
        }
        catch (IOException)
        {
            // One of the sides has gone, which ends the session for the other.
        }

        destination.Shutdown(SocketShutdown.Both);
        source.Shutdown(SocketShutdown.Both);
        back.Wait();
    }

    private static FrameReader AfterPreface(Stream stream, byte[] preface)
    {
        var reader = new FrameReader(new Replayed(preface, stream));
        reader.ReadPreface();
        return reader;
    }

    private static void Copy(Socket from, Socket to)
    {
        byte[] chunk = ArrayPool<byte>.Shared.Rent(65536);
        try
        {
            while (from.Receive(chunk) is > 0 and var count)
            {
                for (int sent = 0; sent < count;)
                {
                    sent += to.Send(chunk.AsSpan(sent, count - sent));
                }
            }

            to.Shutdown(SocketShutdown.Send);
        }
        catch (SocketException)
        {
            // Gone.
        }
        catch (ObjectDisposedException)
        {
            // Gone.
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(chunk);
        }
    }

    /// <summary>What was read already, then the rest.</summary>
    private sealed class Replayed(byte[] first, Stream rest) : Stream
    {
        private int _at;

        public override bool CanRead => true;

        public override bool CanSeek => false;

        public override bool CanWrite => false;

        public override long Length => throw new NotSupportedException();

        public override long Position
        {
            get => throw new NotSupportedException();
            set => throw new NotSupportedException();
        }

        public override int Read(byte[] buffer, int offset, int count) => Read(buffer.AsSpan(offset, count));

        public override int Read(Span<byte> buffer)
        {
            if (_at == first.Length)
            {
                return rest.Read(buffer);
            }

            int count = Math.Min(buffer.Length, first.Length - _at);
            first.AsSpan(_at, count).CopyTo(buffer);
            _at += count;
            return count;
        }

        public override void Flush()
        {
            // Nothing is written.
        }

        public override long Seek(long offset, SeekOrigin origin) => throw new NotSupportedException();

        public override void SetLength(long value) => throw new NotSupportedException();

        public override void Write(byte[] buffer, int offset, int count) => throw new NotSupportedException();
    }
}
