using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// A connection to one vfio-user device. Every member may be called from any thread; requests are sent in call order and replies
/// matched by id. All waits end with <see cref="VfioUserDisconnectedException"/> when the peer goes, and with
/// <see cref="VfioUserProtocolException"/> when it breaks the protocol.
/// </summary>
public sealed partial class VfioUserClient : IDisposable
{
    private readonly ClientConnection _connection;

    /// <summary>Most data of one message that is sent: see <see cref="WireLimits.SendChunk"/>.</summary>
    private readonly int _sendChunk;

    private readonly TwinChannel? _twin;
    private readonly bool _writeMultiple;
    private int _disposed;

    private VfioUserClient(ClientConnection connection, Capabilities peer, TwinChannel? twin)
    {
        _connection = connection;
        _twin = twin;
        _writeMultiple = peer.WriteMultiple;
        MaxTransfer = Math.Min(peer.MaxTransfer, WireLimits.MaxTransfer);
        MaxDmaMaps = Math.Min(peer.MaxDmaMaps, WireLimits.MaxDmaMaps);
        DmaPageSize = Math.Max(peer.SmallestPage, WireLimits.PageSize);
        MaxMessageFiles = Math.Min(peer.MaxMessageFds, WireLimits.MaxMessageFds);
        _sendChunk = Math.Min(MaxTransfer, WireLimits.SendChunk);
        _connection.Watch = FindFullDoorbell;
    }

    /// <summary>Completes when the connection has gone for a reason other than <see cref="Dispose"/>; the text says why.</summary>
    public Task<string> Lost => _connection.Lost;

    /// <summary>Where it is connected to.</summary>
    public string Path => _connection.Path;

    /// <summary>Largest data of one region or DMA message in bytes, negotiated.</summary>
    public int MaxTransfer { get; }

    /// <summary>Most DMA mappings the device takes, negotiated; 0 when it does no DMA.</summary>
    public int MaxDmaMaps { get; }

    /// <summary>
    /// Bytes of which every DMA mapping is a multiple, negotiated (pgsizes): 4096, or more for a device that has no pages so small. Such a device is not asked to
    /// map what is no multiple: that is refused here.
    /// </summary>
    public ulong DmaPageSize { get; }

    /// <summary>
    /// Most descriptors that the device takes with a message, negotiated (max_msg_fds). 0: it reaches memory by messages only, and takes no eventfds, which
    /// are refused here.
    /// </summary>
    public int MaxMessageFiles { get; }

    /// <summary>Whether the device's own commands come on a socket of their own.</summary>
    public bool HasTwinSocket => _twin is not null;

    /// <summary>Whether the device takes several region writes in one message.</summary>
    public bool CanWriteMultiple => _writeMultiple;

    /// <summary>Connects and negotiates the version and capabilities.</summary>
    /// <exception cref="LinuxException">No socket at <paramref name="path"/>, or nobody listens.</exception>
    /// <exception cref="VfioUserProtocolException">The peer speaks another version or not this protocol.</exception>
    /// <exception cref="VfioUserRemoteException">The peer refuses, for example with EBUSY because it has a client already.</exception>
    /// <exception cref="VfioUserDisconnectedException">The peer closed, or did not answer in time.</exception>
    public static VfioUserClient Connect(string path, VfioUserClientOptions options, IDmaMessageHandler dma)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(dma);
        ArgumentOutOfRangeException.ThrowIfLessThanOrEqual(options.ReplyTimeout, TimeSpan.Zero);
        SocketHandle socket = DeviceSocket.Connect(path, options.ReplyTimeout);
        ClientConnection? connection = null;
        var files = new List<FileDescriptor>();
        try
        {
            var answers = new DmaAnswers(dma);
            connection = new ClientConnection(socket, path, options, answers);
            Capabilities peer = Negotiate(connection, options, files);
            TwinChannel? twin = TakeTwin(connection, options, peer, files) is { } theirs
                ? new TwinChannel(theirs, connection, answers, options.ReplyTimeout)
                : null;
            return new VfioUserClient(connection, peer, twin);
        }
        catch
        {
            connection?.Dispose();
            socket.Dispose();
            throw;
        }
        finally
        {
            DisposeAll(files);
        }
    }

    /// <summary>DEVICE_GET_INFO.</summary>
    public DeviceInfo GetInfo()
    {
        var request = new DeviceInfoBody { ArgSize = (uint)Unsafe.SizeOf<DeviceInfoBody>() };
        DeviceInfoBody reply = Call<DeviceInfoBody, DeviceInfoBody>(Command.DeviceGetInfo, request);
        if (reply.Regions > WireLimits.MaxRegions || reply.Irqs > WireLimits.MaxIrqs)
            _connection.Violated($"the device has {reply.Regions} regions and {reply.Irqs} interrupts; the limits are {WireLimits.MaxRegions} and {WireLimits.MaxIrqs}");
        return new DeviceInfo((int)reply.Regions, (int)reply.Irqs, (reply.Flags & DeviceFlags.Reset) != 0, (reply.Flags & DeviceFlags.Pci) != 0);
    }

    /// <summary>DEVICE_GET_IRQ_INFO.</summary>
    public IrqInfo GetIrqInfo(int index)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        var request = new IrqInfoBody { ArgSize = (uint)Unsafe.SizeOf<IrqInfoBody>(), Index = (uint)index };
        IrqInfoBody reply = Call<IrqInfoBody, IrqInfoBody>(Command.DeviceGetIrqInfo, request);
        if (reply.Count > WireLimits.MaxVectors)
            _connection.Violated($"interrupt {index} has {reply.Count} vectors; the limit is {WireLimits.MaxVectors}");
        return new IrqInfo(
            index,
            (int)reply.Count,
            (reply.Flags & IrqFlags.EventFd) != 0,
            (reply.Flags & IrqFlags.Maskable) != 0,
            (reply.Flags & IrqFlags.AutoMasked) != 0,
            (reply.Flags & IrqFlags.NoResize) != 0);
    }

    /// <summary>REGION_READ; splits at <see cref="MaxTransfer"/>.</summary>
    /// <exception cref="VfioUserRemoteException">The device refused; bytes before the refused piece may have been read.</exception>
    public void ReadRegion(int index, ulong offset, Span<byte> destination)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        while (!destination.IsEmpty)
        {
            Span<byte> piece = destination[..Math.Min(destination.Length, MaxTransfer)];
            var request = new RegionAccessBody { Offset = offset, Region = (uint)index, Count = (uint)piece.Length };
            RegionAccessBody reply = default;
            int length = _connection.Call(
                Command.RegionRead, "REGION_READ", Bytes(in request), [], [], MemoryMarshal.AsBytes(new Span<RegionAccessBody>(ref reply)), piece);
            if (length != Unsafe.SizeOf<RegionAccessBody>() + piece.Length || reply.Count != piece.Length)
                _connection.Violated($"REGION_READ of {piece.Length} bytes was answered with {length} bytes that say {reply.Count}");
            offset += (ulong)piece.Length;
            destination = destination[piece.Length..];
        }
    }

    /// <summary>
    /// REGION_WRITE. <paramref name="posted"/> sends without waiting for (or wanting) a reply. After <see cref="UseDoorbells"/>, what is
    /// written to a doorbell goes by eventfd, and nothing else is posted.
    /// </summary>
    /// <exception cref="VfioUserRemoteException">The device refused; bytes before the refused piece may have been written.</exception>
    public void WriteRegion(int index, ulong offset, ReadOnlySpan<byte> data, bool posted)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        if (_ioEvents is { } tables)
        {
            if (data.Length <= sizeof(ulong) && TryRing(tables, index, offset, data))
                return;
            posted = false;
        }
        WriteByMessage(index, offset, data, posted);
    }

    /// <summary>DEVICE_RESET.</summary>
    public void Reset() => _connection.Call(Command.DeviceReset, "DEVICE_RESET", [], [], [], [], []);

    /// <inheritdoc/>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
            return;
        _connection.Dispose();
        _twin?.Dispose();
        DisposeDoorbells();
    }

    private void WriteByMessage(int index, ulong offset, ReadOnlySpan<byte> data, bool posted)
    {
        while (!data.IsEmpty)
        {
            ReadOnlySpan<byte> piece = data[..Math.Min(data.Length, _sendChunk)];
            var request = new RegionAccessBody { Offset = offset, Region = (uint)index, Count = (uint)piece.Length };
            if (posted)
            {
                _connection.Post(Command.RegionWrite, Bytes(in request), piece);
            }
            else
            {
                RegionAccessBody reply = default;
                _connection.Call(
                    Command.RegionWrite, "REGION_WRITE", Bytes(in request), piece, [], MemoryMarshal.AsBytes(new Span<RegionAccessBody>(ref reply)), []);
            }
            offset += (ulong)piece.Length;
            data = data[piece.Length..];
        }
    }

    private static Capabilities Negotiate(ClientConnection connection, VfioUserClientOptions options, List<FileDescriptor> files)
    {
        byte[] text = new Capabilities
        {
            MaxMessageFds = WireLimits.MaxMessageFds,
            MaxTransfer = WireLimits.MaxTransfer,
            PageSizes = WireLimits.PageSize,
            MaxDmaMaps = WireLimits.MaxDmaMaps,
            MigrationPageSize = WireLimits.PageSize,
            WriteMultiple = true,
            TwinSocket = options.TwinSocket ? new TwinSocketCapability(true) : null,
        }.Format();
        var mine = new VersionBody { Major = WireLimits.Major, Minor = WireLimits.Minor };
        VersionBody theirs = default;
        byte[] answer = new byte[WireLimits.MaxVersionJson];
        int length;
        try
        {
            length = connection.Call(
                Command.Version, "VERSION", Bytes(in mine), text, [], MemoryMarshal.AsBytes(new Span<VersionBody>(ref theirs)), answer, files);
        }
        catch (VfioUserRemoteException e) when (e.Errno == Errno.EBUSY)
        {
            throw new VfioUserRemoteException("VERSION", e.Errno, $"the device at {connection.Path} has a client already", e);
        }
        if (length < Unsafe.SizeOf<VersionBody>())
            connection.Violated($"VERSION was answered with {length} bytes; {Unsafe.SizeOf<VersionBody>()} are the least");
        if (theirs.Major != WireLimits.Major || theirs.Minor > WireLimits.Minor)
            connection.Violated($"the device speaks vfio-user {theirs.Major}.{theirs.Minor}, this client speaks {WireLimits.Major}.{WireLimits.Minor}");
        return Capabilities.Parse(answer.AsSpan(0, length - Unsafe.SizeOf<VersionBody>()));
    }

    /// <summary>The twin socket of the answer to VERSION, or null when the device has none.</summary>
    private static SocketHandle? TakeTwin(ClientConnection connection, VfioUserClientOptions options, Capabilities peer, List<FileDescriptor> files)
    {
        if (peer.TwinSocket is not { Supported: true } twin)
            return null;
        if (!options.TwinSocket)
            connection.Violated("the device has a twin socket that nobody asked for");
        // Specification, "Capabilities": a client whose server says so without a descriptor must give up.
        if (twin.FileIndex is not { } index || index >= files.Count || !stat.Of(files[index]).IsSocket)
            connection.Violated($"the device's twin socket is descriptor {twin.FileIndex} of {files.Count}, which is no socket");
        return SocketHandle.DuplicateOf(files[twin.FileIndex.Value]);
    }

    private static ReadOnlySpan<byte> Bytes<T>(in T body)
        where T : unmanaged => MemoryMarshal.AsBytes(new ReadOnlySpan<T>(in body));

    /// <summary>A request and reply that are one fixed structure each.</summary>
    private TReply Call<TRequest, TReply>(Command command, in TRequest request)
        where TRequest : unmanaged
        where TReply : unmanaged
    {
        TReply reply = default;
        int length = _connection.Call(command, command.Name(), Bytes(in request), [], [], MemoryMarshal.AsBytes(new Span<TReply>(ref reply)), []);
        if (length != Unsafe.SizeOf<TReply>())
            _connection.Violated($"{command.Name()} was answered with {length} bytes instead of {Unsafe.SizeOf<TReply>()}");
        return reply;
    }
}
