using System.Runtime.CompilerServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>
/// The device as the checks see it: a connection that is made anew when it was lost, questions with their expected answers, and a device
/// that is brought back to a known state before each check.
/// </summary>
internal sealed class Examination(DeviceExaminerOptions options) : IDisposable
{
    /// <summary>What QEMU says in VERSION, so that a device that QEMU takes is taken here.</summary>
    public static readonly Capabilities Offered = new()
    {
        MaxMessageFds = WireLimits.MaxMessageFds,
        MaxTransfer = WireLimits.MaxTransfer,
        PageSizes = WireLimits.PageSize,
        MaxDmaMaps = WireLimits.DefaultDmaMaps,
        MigrationPageSize = WireLimits.PageSize,
    };

    private ExaminerPeer? _peer;

    /// <summary>The options.</summary>
    public DeviceExaminerOptions Options => options;

    /// <summary>What the device said in its last VERSION.</summary>
    public Capabilities Capabilities { get; private set; } = new();

    /// <summary>Body of the last answer to VERSION.</summary>
    public byte[] VersionReply { get; private set; } = [];

    /// <summary>The connection, made and negotiated when there is none.</summary>
    public ExaminerPeer Peer => _peer ??= Negotiate(options.Socket);

    /// <summary>Ends the check: the device is wrong.</summary>
    public static CheckException Wrong(string why) => new(CheckOutcome.Fail, why);

    /// <summary>Ends the check: there is nothing to look at.</summary>
    public static CheckException Absent(string why) => new(CheckOutcome.NotOffered, why);

    /// <summary>Fails the check unless <paramref name="right"/>.</summary>
    public static void Require(bool right, string why)
    {
        if (!right)
            throw Wrong(why);
    }

    /// <summary>Connects to an instance and agrees on the version.</summary>
    public ExaminerPeer Negotiate(string socket)
    {
        ExaminerPeer peer = ExaminerPeer.Connect(socket, options.ReplyTimeout);
        try
        {
            using ExaminerReply reply = peer.Call(Command.Version, ExaminerPeer.Bytes(new VersionBody(), Offered.Format()));
            Require(reply.Error == Errno.None, $"VERSION with QEMU's capabilities is refused with {reply.Error}");
            Require(reply.Body.Length >= Unsafe.SizeOf<VersionBody>(), $"VERSION is answered with {reply.Body.Length} bytes");
            VersionReply = reply.Body;
            Capabilities = Parse(reply.Body);
            return peer;
        }
        catch
        {
            peer.Dispose();
            throw;
        }
    }

    /// <summary>Closes the connection.</summary>
    public void Disconnect()
    {
        _peer?.Dispose();
        _peer = null;
    }

    /// <summary>No mappings, no eventfds, no log, running. What the device does not have is not asked for twice.</summary>
    public void Settle()
    {
        Peer.Call(Command.DeviceReset, []).Dispose();
        Try(Command.DmaUnmap, ExaminerPeer.Bytes(new DmaUnmapBody { ArgSize = 24, Flags = DmaUnmapFlags.All }));
        Try(Command.DeviceFeature, Feature(VfioUser.Feature.DmaLoggingStop, FeatureFlags.Set, 8));
        for (uint index = 0; index < PciIrq.Count; index++)
            Try(Command.DeviceSetIrqs, ExaminerPeer.Bytes(new SetIrqsBody { ArgSize = 20, Flags = IrqSetFlags.DataNone | IrqSetFlags.ActionTrigger, Index = index }));
    }

    /// <summary>Sends a command; its error, if any.</summary>
    public Errno Try(Command command, ReadOnlySpan<byte> body, params ReadOnlySpan<FileDescriptor> files)
    {
        using ExaminerReply reply = Peer.Call(command, body, files);
        return reply.Error;
    }

    /// <summary>Sends a command that must succeed; the body of its answer.</summary>
    public byte[] Get(Command command, string what, ReadOnlySpan<byte> body, params ReadOnlySpan<FileDescriptor> files)
    {
        using ExaminerReply reply = Peer.Call(command, body, files);
        Require(reply.Error == Errno.None, $"{what} is refused with {reply.Error}");
        return reply.Body;
    }

    /// <summary>Sends a command that must succeed and be answered with one structure, with something behind it perhaps.</summary>
    public T Get<T>(Command command, string what, ReadOnlySpan<byte> body, out byte[] rest, params ReadOnlySpan<FileDescriptor> files)
        where T : unmanaged
    {
        byte[] reply = Get(command, what, body, files);
        if (!Wire.TryTake(reply, out T result, out ReadOnlySpan<byte> left))
            throw Wrong($"{what} is answered with {reply.Length} bytes; {Unsafe.SizeOf<T>()} are the least");
        rest = left.ToArray();
        return result;
    }

    /// <summary>Sends a command that must be refused, after which the connection must still work.</summary>
    public void Refused(Command command, string what, ReadOnlySpan<byte> body, params ReadOnlySpan<FileDescriptor> files)
    {
        using ExaminerReply reply = Peer.Call(command, body, files);
        Require(reply.Error != Errno.None, $"{what} is not refused");
    }

    /// <summary>Reads a region.</summary>
    public byte[] Read(int region, ulong offset, int count)
    {
        var request = new RegionAccessBody { Offset = offset, Region = (uint)region, Count = (uint)count };
        RegionAccessBody reply = Get<RegionAccessBody>(
            Command.RegionRead, $"reading {count} bytes at 0x{offset:x} of region {region}", ExaminerPeer.Bytes(request), out byte[] data);
        Require(data.Length == count && reply.Count == count, $"reading {count} bytes of region {region} is answered with {data.Length} that say {reply.Count}");
        return data;
    }

    /// <summary>Writes a region.</summary>
    public void Write(int region, ulong offset, ReadOnlySpan<byte> data)
    {
        var request = new RegionAccessBody { Offset = offset, Region = (uint)region, Count = (uint)data.Length };
        Get(Command.RegionWrite, $"writing {data.Length} bytes at 0x{offset:x} of region {region}", ExaminerPeer.Bytes(request, data));
    }

    /// <summary>A number of the configuration space.</summary>
    public uint Config(int offset, int size)
    {
        byte[] bytes = new byte[4];
        Read(PciRegion.Config, (ulong)offset, size).CopyTo(bytes, 0);
        return BitConverter.ToUInt32(bytes);
    }

    /// <summary>DEVICE_GET_INFO.</summary>
    public DeviceInfoBody Info() => Get<DeviceInfoBody>(
        Command.DeviceGetInfo, "DEVICE_GET_INFO", ExaminerPeer.Bytes(new DeviceInfoBody { ArgSize = 16 }), out _);

    /// <summary>DEVICE_GET_REGION_INFO with room for the fixed part only.</summary>
    public RegionInfoBody Region(int index) => Get<RegionInfoBody>(
        Command.DeviceGetRegionInfo, $"DEVICE_GET_REGION_INFO {index}", ExaminerPeer.Bytes(new RegionInfoBody { ArgSize = 32, Index = (uint)index }), out _);

    /// <summary>DEVICE_GET_IRQ_INFO.</summary>
    public IrqInfoBody Irq(int index) => Get<IrqInfoBody>(
        Command.DeviceGetIrqInfo, $"DEVICE_GET_IRQ_INFO {index}", ExaminerPeer.Bytes(new IrqInfoBody { ArgSize = 16, Index = (uint)index }), out _);

    /// <summary>A DEVICE_FEATURE request.</summary>
    public static byte[] Feature(Feature feature, FeatureFlags methods, uint argSize, ReadOnlySpan<byte> data = default) =>
        ExaminerPeer.Bytes(new FeatureBody { ArgSize = argSize, Flags = (FeatureFlags)(uint)feature | methods }, data);

    /// <summary>What the device offers of migration; ends the check when it is nothing.</summary>
    public MigrationSupport Migration()
    {
        using ExaminerReply reply = Peer.Call(Command.DeviceFeature, Feature(VfioUser.Feature.Migration, FeatureFlags.Get, 16));
        if (reply.Error != Errno.None)
            throw Absent($"the device does not migrate (DEVICE_FEATURE MIGRATION: {reply.Error})");
        Require(reply.Body.Length == 16, $"DEVICE_FEATURE MIGRATION is answered with {reply.Body.Length} bytes instead of 16");
        return (MigrationSupport)BitConverter.ToUInt64(reply.Body, 8);
    }

    /// <summary>Ends the check when the device does not log its DMA.</summary>
    public void NeedsLogging()
    {
        Errno error = Try(Command.DeviceFeature, Feature(VfioUser.Feature.DmaLoggingStart, FeatureFlags.Set | FeatureFlags.Probe, 8));
        if (error != Errno.None)
            throw Absent($"the device does not log its DMA (probe of DMA_LOGGING_START: {error})");
    }

    /// <inheritdoc/>
    public void Dispose() => Disconnect();

    private static Capabilities Parse(byte[] reply)
    {
        try
        {
            return Capabilities.Parse(reply.AsSpan(Unsafe.SizeOf<VersionBody>()));
        }
        catch (VfioUserProtocolException e)
        {
            throw Wrong(e.Message);
        }
    }
}
