using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// A connection that says anything, right or wrong, and looks closely at each answer. <see cref="VfioUserClient"/> says only what is
/// right, and ends the connection when the device does not.
/// </summary>
internal sealed class ExaminerPeer : IDisposable
{
    private readonly SocketHandle _socket;
    private readonly MessageReceiver _receiver;
    private readonly TimeSpan _timeout;
    private readonly List<FileDescriptor> _files = [];
    private ushort _id = 1;

    private ExaminerPeer(SocketHandle socket, TimeSpan timeout)
    {
        _socket = socket;
        _receiver = new MessageReceiver(socket);
        _timeout = timeout;
        socket.SetReceiveTimeout(timeout);
        socket.SetSendTimeout(timeout);
    }

    /// <summary>Connects; nothing is said yet.</summary>
    public static ExaminerPeer Connect(string path, TimeSpan timeout) => new(DeviceSocket.Connect(path, timeout), timeout);

    /// <summary>The bytes of a structure and what follows it.</summary>
    public static byte[] Bytes<T>(in T body, ReadOnlySpan<byte> rest = default)
        where T : unmanaged
    {
        byte[] result = new byte[Unsafe.SizeOf<T>() + rest.Length];
        MemoryMarshal.Write(result, body);
        rest.CopyTo(result.AsSpan(Unsafe.SizeOf<T>()));
        return result;
    }

    /// <summary>A whole message.</summary>
    public static byte[] Message(ushort id, Command command, ReadOnlySpan<byte> body, HeaderFlags flags = HeaderFlags.Command) =>
        Bytes(new MessageHeader { Id = id, Command = command, Length = (uint)(MessageHeader.Size + body.Length), Flags = flags }, body);

    /// <summary>Sends a command and waits for its answer.</summary>
    public ExaminerReply Call(Command command, ReadOnlySpan<byte> body, params ReadOnlySpan<FileDescriptor> files)
    {
        ushort id = Send(command, body, HeaderFlags.Command, files);
        return Receive(id, command);
    }

    /// <summary>Sends a command. Returns its id.</summary>
    public ushort Send(Command command, ReadOnlySpan<byte> body, HeaderFlags flags, params ReadOnlySpan<FileDescriptor> files)
    {
        ushort id = _id++;
        SendBytes(Message(id, command, body, flags), files);
        return id;
    }

    /// <summary>Sends bytes as they are.</summary>
    public void SendBytes(ReadOnlySpan<byte> bytes, params ReadOnlySpan<FileDescriptor> files)
    {
        try
        {
            _socket.Send(bytes, [], files);
        }
        catch (LinuxException e)
        {
            throw Unusable($"the device took no more messages: {e.Message}");
        }
    }

    /// <summary>Waits for the answer to a command; refuses DMA that comes meanwhile.</summary>
    public ExaminerReply Receive(ushort id, Command command)
    {
        while (true)
        {
            ExaminerReply reply = ReceiveAny(command);
            if (reply.Header.IsCommand)
            {
                reply.Dispose();
                RefuseCommand(reply.Header);
                continue;
            }
            if (!reply.Header.IsReply)
                throw Unusable($"a message of type {reply.Header.Flags & HeaderFlags.TypeMask} came instead of the answer to {command.Name()}");
            if (reply.Header.Id != id)
                throw Unusable($"the answer to {command.Name()} with id {id} has id {reply.Header.Id}");
            if (reply.Header.Command != command)
                throw Unusable($"{command.Name()} was answered as {reply.Header.Command.Name()}");
            return reply;
        }
    }

    /// <summary>Whether the device closes instead of sending another message.</summary>
    public bool IsClosed()
    {
        try
        {
            bool open = _receiver.ReadHeader(out _, _files, out _);
            return !open;
        }
        catch (LinuxException e) when (e.Errno == Errno.ECONNRESET)
        {
            return true; // closed with something of ours unread
        }
        catch (LinuxException e) when (e.Errno == Errno.EAGAIN)
        {
            return false;
        }
    }

    /// <inheritdoc/>
    public void Dispose()
    {
        foreach (FileDescriptor file in _files)
            file.Dispose();
        _receiver.Dispose();
        _socket.Dispose();
    }

    private ExaminerReply ReceiveAny(Command awaited)
    {
        try
        {
            _files.Clear();
            if (!_receiver.ReadHeader(out MessageHeader header, _files, out bool truncated))
                throw Unusable($"the device closed the connection instead of answering {awaited.Name()}");
            if (header.Length is < MessageHeader.Size or > MessageHeader.Size + WireLimits.MaxBody)
                throw Unusable($"the answer to {awaited.Name()} claims to have {header.Length} bytes");
            byte[] body = new byte[header.Length - MessageHeader.Size];
            if (!_receiver.Read(body))
                throw Unusable($"the device closed the connection in the middle of its answer to {awaited.Name()}");
            _receiver.TakeLate(_files, ref truncated);
            var reply = new ExaminerReply(header, body, [.. _files]);
            _files.Clear();
            return reply;
        }
        catch (LinuxException e)
        {
            throw Unusable(e.Errno == Errno.EAGAIN
                ? $"no (whole) answer to {awaited.Name()} within {_timeout.TotalSeconds:G3} s"
                : $"no answer to {awaited.Name()}: {e.Message}");
        }
    }

    private void RefuseCommand(MessageHeader command)
    {
        if (!command.WantsReply)
            return;
        SendBytes(Bytes(new MessageHeader
        {
            Id = command.Id,
            Command = command.Command,
            Length = MessageHeader.Size,
            Flags = HeaderFlags.Reply | HeaderFlags.Error,
            Error = (uint)Errno.EFAULT,
        }));
    }

    private static CheckException Unusable(string why) => new(CheckOutcome.Fail, why, connectionIsUnusable: true);
}

/// <summary>An answer with the descriptors that came with it.</summary>
internal sealed record ExaminerReply(MessageHeader Header, byte[] Body, FileDescriptor[] Files) : IDisposable
{
    /// <summary>The error it carries.</summary>
    public Errno Error => Header.ReplyErrno;

    public void Dispose()
    {
        foreach (FileDescriptor file in Files)
            file.Dispose();
    }
}
