using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>One side of a connection that says exactly what a test wants, right or wrong.</summary>
internal sealed class RawPeer : IDisposable
{
    public const string QemuVersionJson =
        """{"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, "max_data_xfer_size": 1048576, "migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, "write_multiple": true}}""";

    private readonly SocketHandle _socket;
    private ushort _id = 100;

    public RawPeer(SocketHandle socket)
    {
        _socket = socket;
        socket.SetReceiveTimeout(TestServer.Patience);
        socket.SetSendTimeout(TestServer.Patience);
    }

    public SocketHandle Socket => _socket;

    /// <summary>Connects as a client, nothing said yet.</summary>
    public static RawPeer Connect(string path) => new(SocketHandle.Connect(path, TestServer.Patience));

    /// <summary>Connects as a client and agrees on the version.</summary>
    public static RawPeer ConnectAndNegotiate(string path, string? json = null)
    {
        RawPeer peer = Connect(path);
        RawMessage reply = peer.Call(Command.Version, VersionBody(0, 0, json ?? QemuVersionJson));
        Assert.Equal(Errno.None, reply.Header.ReplyErrno);
        return peer;
    }

    public static byte[] VersionBody(ushort major, ushort minor, string? json)
    {
        byte[] text = json is null ? [] : Encoding.UTF8.GetBytes(json + "\0");
        return Bytes(new VersionBody { Major = major, Minor = minor }, text);
    }

    public static byte[] Bytes<T>(T body, ReadOnlySpan<byte> rest = default)
        where T : unmanaged
    {
        byte[] result = new byte[Unsafe.SizeOf<T>() + rest.Length];
        MemoryMarshal.Write(result, body);
        rest.CopyTo(result.AsSpan(Unsafe.SizeOf<T>()));
        return result;
    }

    public static byte[] Message(MessageHeader header, ReadOnlySpan<byte> body)
    {
        header.Length = (uint)(MessageHeader.Size + body.Length);
        return Bytes(header, body);
    }

    /// <summary>Sends a command and returns the next reply.</summary>
    public RawMessage Call(Command command, ReadOnlySpan<byte> body, params FileDescriptor[] files)
    {
        ushort id = Send(command, body, 0, files);
        RawMessage reply = Receive();
        Assert.True(reply.Header.IsReply);
        Assert.Equal((id, command), (reply.Header.Id, reply.Header.Command));
        return reply;
    }

    public Errno Try(Command command, ReadOnlySpan<byte> body, params FileDescriptor[] files)
    {
        using RawMessage reply = Call(command, body, files);
        return reply.Header.ReplyErrno;
    }

    public ushort Send(Command command, ReadOnlySpan<byte> body, HeaderFlags flags = 0, params FileDescriptor[] files)
    {
        ushort id = _id++;
        _socket.Send(Message(new MessageHeader { Id = id, Command = command, Flags = flags }, body), [], files);
        return id;
    }

    /// <summary>Answers a command.</summary>
    public void Reply(MessageHeader command, ReadOnlySpan<byte> body, Errno error = Errno.None, params FileDescriptor[] files)
    {
        var header = new MessageHeader
        {
            Id = command.Id,
            Command = command.Command,
            Flags = HeaderFlags.Reply | (error == Errno.None ? 0 : HeaderFlags.Error),
            Error = (uint)error,
        };
        _socket.Send(Message(header, body), [], files);
    }

    public void SendBytes(ReadOnlySpan<byte> bytes, params FileDescriptor[] files) => _socket.Send(bytes, [], files);

    /// <summary>The next message, whole. Fails the test at the end of the stream.</summary>
    public RawMessage Receive()
    {
        RawMessage? message = TryReceive();
        Assert.True(message is not null, "the peer closed instead of sending a message");
        return message;
    }

    /// <summary>The next message, or null when the peer has closed.</summary>
    public RawMessage? TryReceive()
    {
        byte[] headerBytes = new byte[MessageHeader.Size];
        int[] numbers = new int[16];
        int got;
        int fileCount;
        try
        {
            got = _socket.Receive(headerBytes, numbers, out fileCount, out _);
        }
        catch (LinuxException e) when (e.Errno == Errno.ECONNRESET)
        {
            return null; // closed with our bytes unread
        }
        if (got == 0)
            return null;
        ReadAll(headerBytes.AsSpan(got));
        MessageHeader header = MemoryMarshal.Read<MessageHeader>(headerBytes);
        byte[] body = new byte[header.Length - MessageHeader.Size];
        ReadAll(body);
        return new RawMessage(header, body, [.. numbers[..fileCount].Select(FileDescriptor.Adopt)]);
    }

    /// <summary>Answers a client's VERSION the right way.</summary>
    public void AcceptVersion(string json = """{"capabilities":{"max_msg_fds":16}}""")
    {
        using RawMessage version = Receive();
        Assert.Equal(Command.Version, version.Header.Command);
        Reply(version.Header, VersionBody(0, 0, json));
    }

    public void Dispose() => _socket.Dispose();

    private void ReadAll(Span<byte> destination)
    {
        while (!destination.IsEmpty)
        {
            int got = _socket.Receive(destination);
            Assert.NotEqual(0, got);
            destination = destination[got..];
        }
    }
}

/// <summary>A received message with its descriptors.</summary>
internal sealed record RawMessage(MessageHeader Header, byte[] Body, FileDescriptor[] Files) : IDisposable
{
    public T As<T>()
        where T : unmanaged => MemoryMarshal.Read<T>(Body);

    public void Dispose()
    {
        foreach (FileDescriptor file in Files)
            file.Dispose();
    }
}

/// <summary>A server that does what the test says with each connection.</summary>
internal sealed class RawServer : IDisposable
{
    private readonly SocketHandle _listener;
    private readonly string _directory = Directory.CreateTempSubdirectory("gwvr").FullName;
    private readonly List<Background> _scripts = [];

    public RawServer()
    {
        Path = System.IO.Path.Combine(_directory, "s");
        _listener = SocketHandle.Listen(Path, 8);
    }

    public string Path { get; }

    /// <summary>Takes one connection on another thread and plays <paramref name="script"/> with it, then closes.</summary>
    public Background Play(Action<RawPeer> script)
    {
        Background thread = Background.Run(() =>
        {
            using var peer = new RawPeer(_listener.Accept());
            script(peer);
        });
        _scripts.Add(thread);
        return thread;
    }

    public VfioUserClient Connect(VfioUserClientOptions? options = null, IDmaMessageHandler? dma = null) =>
        VfioUserClient.Connect(Path, options ?? new VfioUserClientOptions { ReplyTimeout = TestServer.Patience }, dma ?? new NoDma());

    public void Dispose()
    {
        Background.Join(_scripts);
        _listener.Dispose();
        Directory.Delete(_directory, recursive: true);
    }
}
