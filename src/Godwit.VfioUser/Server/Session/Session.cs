using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// One client's connection from VERSION to its end: takes commands in order, lets the device or the host do them, answers. Everything
/// here runs on the session's thread but <see cref="Stop"/>.
/// </summary>
internal sealed partial class Session : IDisposable
{
    private readonly IVfioUserDevice _device;
    private readonly DeviceDescription _description;
    private readonly MigrationStateMachine _migration;
    private readonly VfioUserServerOptions _options;
    private readonly SocketHandle _socket;
    private readonly MessagePump _pump;
    private readonly DeviceHost _host;
    private readonly int _regionCount;
    private readonly List<FileDescriptor> _replyFiles = []; // to go out with the reply in hand; the device's or the session's
    private byte[] _reply = new byte[4096];
    private Capabilities _client = new();
    private SocketHandle? _twinSocket;
    private MessagePump? _twin; // for the device's DMA messages, if the client wants them on a socket of their own
    private int _maxMappings;

    public Session(IVfioUserDevice device, MigrationStateMachine migration, VfioUserServerOptions options, SocketHandle socket)
    {
        _device = device;
        _description = device.Description;
        _migration = migration;
        _options = options;
        _socket = socket;
        socket.SetSendTimeout(options.SendTimeout);
        _pump = new MessagePump(socket, options.DmaReplyTimeout, options.Clock, Close);
        _host = new DeviceHost(_description, _pump, options, Close);
        _regionCount = PciRegion.Count;
        foreach (int index in _description.Regions.Keys)
            _regionCount = Math.Max(_regionCount, index + 1);
        ArgumentOutOfRangeException.ThrowIfGreaterThan(_regionCount, WireLimits.MaxRegions);
    }

    /// <summary>Whether the client has gone, noticed here or not.</summary>
    public bool HasEnded => _pump.Closed is not null || _pump.HasPeerHungUp();

    /// <summary>Ends the session from another thread.</summary>
    public void Stop(string reason) => Close(reason);

    /// <summary>Serves until the connection ends.</summary>
    public void Run()
    {
        if (!Negotiate())
        {
            _options.Log?.Invoke($"vfio-user client refused: {_pump.Closed}");
            return;
        }
        _options.Log?.Invoke("vfio-user client connected");
        try
        {
            _device.OnConnected(_host);
            try
            {
                while (_pump.Next() is { } message)
                {
                    bool withFiles = message.FileCount != 0;
                    ExecuteInTurn(message);
                    _pump.Return(message);
                    _pump.SendHeldUnlessMore(withFiles);
                }
            }
            finally
            {
                Close("the server failed"); // does nothing if the client has gone; else wakes the device's DMA
                StopDoorbells();
                _device.OnDisconnected();
            }
        }
        finally
        {
            Close("the device failed");
            _pump.Abandon();
            _host.Dispose();
        }
        _options.Log?.Invoke($"vfio-user client gone: {_pump.Closed}");
    }

    /// <summary>Closes the socket; after <see cref="Run"/> has returned.</summary>
    public void Dispose()
    {
        _host.Dispose();
        _pump.Dispose();
        _socket.Dispose();
        _twin?.Dispose();
        _twinSocket?.Dispose();
    }

    private void Close(string reason)
    {
        _pump.Close(reason);
        Volatile.Read(ref _twin)?.Close(_pump.Closed!);
    }

    private bool Negotiate()
    {
        // From VERSION on the client may be silent as long as it likes.
        using ITimer limit = _options.Clock.CreateTimer(
            static state => ((MessagePump)state!).Close("the client did not say what it speaks in time"), _pump, _options.HandshakeTimeout, Timeout.InfiniteTimeSpan);
        if (_pump.Next() is not { } message)
            return false;
        try
        {
            string? refusal = Version(message);
            if (refusal is null)
                return true;
            _pump.Refuse(message.Header, Errno.EINVAL);
            _pump.Close(refusal);
            return false;
        }
        finally
        {
            _pump.Return(message);
        }
    }

    /// <summary>VERSION; null when agreed, else why not.</summary>
    private string? Version(IncomingMessage message)
    {
        MessageHeader header = message.Header;
        if (header.Command != Command.Version || !header.IsCommand)
            return $"its first message was {header.Command.Name()} instead of VERSION";
        if (!header.WantsReply)
            return "it wanted no reply to VERSION";
        if (message.FileCount != 0 || message.TooManyFiles)
            return "it sent descriptors with VERSION";
        if (!Wire.TryTake(message.Body, out VersionBody theirs, out ReadOnlySpan<byte> text))
            return $"its VERSION has {message.Length} bytes";
        if (theirs.Major != WireLimits.Major)
            return $"it speaks vfio-user {theirs.Major}.{theirs.Minor}, this device speaks {WireLimits.Major}.{WireLimits.Minor}";
        try
        {
            _client = Capabilities.Parse(text);
        }
        catch (VfioUserProtocolException e)
        {
            return e.Message;
        }
        ulong pageSizes = _client.PageSizes & ~(WireLimits.PageSize - 1);
        if (pageSizes == 0)
            return $"its pgsizes 0x{_client.PageSizes:x} have no page of {WireLimits.PageSize} bytes or more";
        _maxMappings = Math.Min(_client.MaxDmaMaps, WireLimits.MaxDmaMaps);
        _host.MessageChunk = Math.Min(_client.MaxTransfer, WireLimits.SendChunk);
        var mine = new Capabilities
        {
            MaxMessageFds = WireLimits.MaxMessageFds,
            MaxTransfer = WireLimits.MaxTransfer,
            PageSizes = pageSizes,
            MaxDmaMaps = _maxMappings,
            MigrationPageSize = _description.Migration == MigrationSupport.None ? null : WireLimits.PageSize,
            // An answer has nothing that was not proposed (specification, "Versioning and feature support").
            WriteMultiple = _options.OfferWriteMultiple && _client.WriteMultiple,
        };
        SocketHandle? far = null;
        try
        {
            if (_client is { TwinSocket.Supported: true, MaxMessageFds: > 0 })
            {
                far = OpenTwin();
                mine = mine with { TwinSocket = new TwinSocketCapability(true, FileIndex: 0) };
                _replyFiles.Add(far);
            }
            byte[] answer = mine.Format();
            Span<byte> body = ReserveReply(Unsafe.SizeOf<VersionBody>() + answer.Length);
            Wire.Put(body, new VersionBody { Major = WireLimits.Major, Minor = Math.Min(theirs.Minor, WireLimits.Minor) });
            answer.CopyTo(body[Unsafe.SizeOf<VersionBody>()..]);
            SendReply(header, body.Length);
        }
        catch (LinuxException e)
        {
            return e.Message;
        }
        finally
        {
            _replyFiles.Clear();
            far?.Dispose();
        }
        return null;
    }

    /// <summary>Makes the twin socket; the end that is returned is the client's.</summary>
    private SocketHandle OpenTwin()
    {
        (_twinSocket, SocketHandle far) = SocketHandle.CreatePair();
        _twinSocket.SetSendTimeout(_options.SendTimeout);
        var twin = new MessagePump(_twinSocket, _options.DmaReplyTimeout, _options.Clock, Close);
        twin.Abandon(); // commands have no business there
        Volatile.Write(ref _twin, twin);
        _host.Twin = twin;
        if (_pump.Closed is { } reason)
            twin.Close(reason); // the server was stopped meanwhile
        return far;
    }

    private void Execute(IncomingMessage message)
    {
        MessageHeader header = message.Header;
        Errno error;
        int length = 0;
        _replyFiles.Clear();
        try
        {
            error = !header.IsCommand || message.TooManyFiles ? Errno.EINVAL : Dispatch(message, out length);
        }
        catch (Exception e) when (e is not OutOfMemoryException)
        {
            // The device's own fault. The client hears of it; the operator gets the details; other commands may still work.
            _options.Log?.Invoke($"vfio-user {header.Command.Name()} failed in the device: {e}");
            error = Errno.EIO;
        }
        if (!header.WantsReply)
            return;
        if (error != Errno.None)
        {
            length = 0;
            _replyFiles.Clear();
        }
        SendReply(header, length, error);
    }

    private Errno Dispatch(IncomingMessage message, out int length)
    {
        length = 0;
        ReadOnlySpan<byte> body = message.Body;
        return message.Header.Command switch
        {
            Command.DmaMap => DmaMap(message),
            Command.DmaUnmap => DmaUnmap(body, out length),
            Command.DeviceGetInfo => GetInfo(body, out length),
            Command.DeviceGetRegionInfo => GetRegionInfo(body, out length),
            Command.DeviceGetRegionIoFds => GetRegionIoFds(body, out length),
            Command.DeviceGetIrqInfo => GetIrqInfo(body, out length),
            Command.DeviceSetIrqs => SetIrqs(message),
            Command.RegionRead => RegionRead(body, out length),
            Command.RegionWrite => RegionWrite(body, out length),
            Command.RegionWriteMulti => RegionWriteMulti(body, out length),
            Command.DeviceReset => Reset(),
            Command.DeviceFeature => DeviceFeature(body, out length),
            Command.MigrationDataRead => MigrationDataRead(body, out length),
            Command.MigrationDataWrite => MigrationDataWrite(body),
            _ => Errno.EINVAL, // unknown, of the other direction, or VERSION once more
        };
    }

    private Errno Reset()
    {
        _device.Reset();
        _migration.WasReset();
        return Errno.None;
    }

    /// <summary>Room for the body of a reply; the caller has bounded its length.</summary>
    private Span<byte> ReserveReply(int length)
    {
        if (MessageHeader.Size + length > _reply.Length)
            _reply = GC.AllocateUninitializedArray<byte>(MessageHeader.Size + length);
        return _reply.AsSpan(MessageHeader.Size, length);
    }

    /// <summary>Fills the reply with one structure.</summary>
    private int PutReply<T>(in T body)
        where T : unmanaged => Wire.Put(ReserveReply(Unsafe.SizeOf<T>()), body);

    private void SendReply(MessageHeader command, int length, Errno error = Errno.None)
    {
        Wire.Put(_reply, new MessageHeader
        {
            Id = command.Id,
            Command = command.Command,
            Length = (uint)(MessageHeader.Size + length),
            Flags = HeaderFlags.Reply | (error == Errno.None ? 0 : HeaderFlags.Error),
            Error = (uint)error,
        });
        _pump.Answer(
            _reply.AsSpan(0, MessageHeader.Size + length),
            CollectionsMarshal.AsSpan(_replyFiles),
            mayWait: command.Command is Command.DmaMap or Command.DmaUnmap);
    }
}
