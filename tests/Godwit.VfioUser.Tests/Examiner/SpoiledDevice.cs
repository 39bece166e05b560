using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser.Tests;

/// <summary>One command with its answer, in the hands of what spoils it.</summary>
internal sealed class Exchange
{
    public required MessageHeader Header { get; set; }

    public required byte[] Request { get; set; }

    /// <summary>What came with the command; the relay's.</summary>
    public IReadOnlyList<FileDescriptor> RequestFiles { get; init; } = [];

    /// <summary>The answer's body; null when there is none yet: the device is asked then.</summary>
    public byte[]? Reply { get; set; }

    public Errno Error { get; set; }

    public List<FileDescriptor> ReplyFiles { get; } = [];

    /// <summary>Answers what wants no answer.</summary>
    public bool AnswerAnyway { get; set; }

    public bool Close { get; set; }

    public Command Command => Header.Command;

    public T As<T>()
        where T : unmanaged => Request.Length >= Marshal.SizeOf<T>() ? MemoryMarshal.Read<T>(Request) : default;

    /// <summary>Takes what the device refused.</summary>
    public void Accept(byte[] body)
    {
        Error = Errno.None;
        Reply = body;
    }

    public void Refuse(Errno error = Errno.EINVAL)
    {
        Error = error;
        Reply = [];
    }
}

/// <summary>What is wrong with a device: changes commands before it sees them, or its answers.</summary>
internal sealed record Spoil(Action<Exchange>? Before = null, Action<Exchange>? After = null)
{
    /// <summary>The client has gone, in the middle of a message perhaps. True: nobody is served any more.</summary>
    public Func<bool, bool>? OnGone { get; init; }

    /// <summary>Called when nobody is served any more.</summary>
    public Action? OnDone { get; init; }

    /// <summary>A second client throws the first one out.</summary>
    public bool SecondThrowsOutFirst { get; init; }
}

/// <summary>A right device behind a wrong one: a relay that spoils what it passes on.</summary>
internal sealed class SpoiledDevice : IDisposable
{
    private readonly string _directory = Directory.CreateTempSubdirectory("gwvs").FullName;
    private readonly SocketHandle _listener;
    private readonly string _device;
    private readonly Spoil _spoil;
    private readonly Thread _acceptor;
    private readonly List<Thread> _threads = [];
    private readonly List<SocketHandle> _sockets = [];
    private bool _dead;

    public SpoiledDevice(string device, Spoil spoil)
    {
        _device = device;
        _spoil = spoil;
        Path = System.IO.Path.Combine(_directory, "s");
        _listener = SocketHandle.Listen(Path, 8);
        _acceptor = new Thread(Accept);
        _acceptor.Start();
    }

    public string Path { get; }

    public void Dispose()
    {
        _listener.Shutdown();
        _acceptor.Join();
        lock (_sockets)
        {
            foreach (SocketHandle socket in _sockets)
                Shutdown(socket);
        }
        foreach (Thread thread in _threads)
            thread.Join();
        _spoil.OnDone?.Invoke();
        _listener.Dispose();
        Directory.Delete(_directory, recursive: true);
    }

    private static unsafe bool HasHungUp(SocketHandle client)
    {
        const short PollRdHup = 0x2000; // poll(2)
        bool added = false;
        try
        {
            client.DangerousAddRef(ref added);
            // SAFETY: one entry in this frame; the reference keeps the descriptor open.
            var entry = new pollfd { fd = client.Number, events = PollRdHup };
            return poll.wait(&entry, 1, 0) > 0;
        }
        catch (ObjectDisposedException)
        {
            return true;
        }
        finally
        {
            if (added)
                client.DangerousRelease();
        }
    }

    private static void Shutdown(SocketHandle socket)
    {
        if (!socket.IsClosed)
            socket.Shutdown();
    }

    private void Accept()
    {
        while (true)
        {
            SocketHandle client;
            try
            {
                client = _listener.Accept();
            }
            catch (LinuxException)
            {
                return; // disposed
            }
            lock (_sockets)
            {
                if (_spoil.SecondThrowsOutFirst && _threads.Any(thread => thread.IsAlive))
                    _sockets.ForEach(Shutdown);
                _sockets.Add(client);
            }
            // A client that has gone has gone from the device, too, before the next one comes there.
            foreach ((Thread thread, SocketHandle socket) in _threads.Zip(_sockets))
            {
                if (HasHungUp(socket))
                    thread.Join();
            }
            var relay = new Thread(() => Relay(client));
            _threads.Add(relay);
            relay.Start();
        }
    }

    private void Relay(SocketHandle client)
    {
        using (client)
        {
            if (_dead)
                return;
            bool inside = false;
            using SocketHandle device = SocketHandle.Connect(_device, TestServer.Patience);
            try
            {
                while (Receive(client, out MessageHeader header, out byte[] body, out List<FileDescriptor> files, ref inside))
                {
                    bool go = Pass(client, device, header, body, files);
                    files.ForEach(file => file.Dispose());
                    if (!go)
                        return;
                }
            }
            catch (LinuxException)
            {
                // one of the two has gone; so does the relay
            }
            finally
            {
                if (_spoil.OnGone?.Invoke(inside) == true)
                    _dead = true;
            }
        }
    }

    private bool Pass(SocketHandle client, SocketHandle device, MessageHeader header, byte[] body, List<FileDescriptor> files)
    {
        var exchange = new Exchange { Header = header, Request = body, RequestFiles = files };
        _spoil.Before?.Invoke(exchange);
        if (exchange.Close)
            return false;
        header = exchange.Header;
        if (exchange.Reply is null)
        {
            if (header.Length is < MessageHeader.Size or > MessageHeader.Size + WireLimits.MaxBody)
                return false;
            device.Send(RawPeer.Message(header, exchange.Request), [], CollectionsMarshal.AsSpan(files));
            if (header.WantsReply)
            {
                bool inside = false;
                if (!Receive(device, out MessageHeader answer, out byte[] reply, out List<FileDescriptor> replyFiles, ref inside))
                    return false;
                exchange.Reply = reply;
                exchange.Error = answer.ReplyErrno;
                exchange.ReplyFiles.AddRange(replyFiles);
            }
            _spoil.After?.Invoke(exchange);
        }
        if (exchange.Close)
            return false;
        if (header.WantsReply || exchange.AnswerAnyway)
        {
            var answer = new MessageHeader
            {
                Id = header.Id,
                Command = header.Command,
                Flags = HeaderFlags.Reply | (exchange.Error == Errno.None ? 0 : HeaderFlags.Error),
                Error = (uint)exchange.Error,
            };
            client.Send(RawPeer.Message(answer, exchange.Reply ?? []), [], CollectionsMarshal.AsSpan(exchange.ReplyFiles));
        }
        exchange.ReplyFiles.ForEach(file => file.Dispose());
        return true;
    }

    private static bool Receive(SocketHandle socket, out MessageHeader header, out byte[] body, out List<FileDescriptor> files, ref bool inside)
    {
        byte[] bytes = new byte[MessageHeader.Size];
        int[] numbers = new int[16];
        inside = false;
        header = default;
        body = [];
        files = [];
        int got = socket.Receive(bytes, numbers, out int count, out _);
        files.AddRange(numbers[..count].Select(FileDescriptor.Adopt));
        if (got == 0)
            return false;
        inside = true;
        if (!Fill(socket, bytes.AsSpan(got)))
            return false;
        header = MemoryMarshal.Read<MessageHeader>(bytes);
        if (header.Length is < MessageHeader.Size or > MessageHeader.Size + WireLimits.MaxBody)
            return true; // for the spoil to look at
        body = new byte[header.Length - MessageHeader.Size];
        if (!Fill(socket, body))
            return false;
        inside = false;
        return true;
    }

    private static bool Fill(SocketHandle socket, Span<byte> destination)
    {
        while (!destination.IsEmpty)
        {
            int got = socket.Receive(destination);
            if (got == 0)
                return false;
            destination = destination[got..];
        }
        return true;
    }
}
