using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <content>What the device has, and access to its regions.</content>
internal sealed partial class Session
{
    private Errno GetInfo(ReadOnlySpan<byte> body, out int length)
    {
        length = 0;
        int size = Unsafe.SizeOf<DeviceInfoBody>();
        if (!Wire.TryTake(body, out DeviceInfoBody request, out _) || request.ArgSize < size)
            return Errno.EINVAL;
        length = PutReply(new DeviceInfoBody
        {
            ArgSize = (uint)size,
            Flags = DeviceFlags.Pci | DeviceFlags.Reset,
            Regions = (uint)_regionCount,
            Irqs = (uint)_host.Interrupts.IndexCount,
        });
        return Errno.None;
    }

    /// <summary>
    /// Asked twice: with room for the fixed part only the needed size is told, without capabilities flag and descriptor; with enough
    /// room all comes.
    /// </summary>
    private Errno GetRegionInfo(ReadOnlySpan<byte> body, out int length)
    {
        length = 0;
        int fixedSize = Unsafe.SizeOf<RegionInfoBody>();
        if (!Wire.TryTake(body, out RegionInfoBody request, out _) || request.ArgSize < fixedSize || request.Index >= (uint)_regionCount)
            return Errno.EINVAL;
        _description.Regions.TryGetValue((int)request.Index, out DeviceRegion? region);
        var reply = new RegionInfoBody { ArgSize = (uint)fixedSize, Index = request.Index };
        if (region is not { Size: > 0 })
        {
            length = PutReply(reply);
            return Errno.None;
        }
        reply.Size = region.Size;
        reply.Flags = RegionFlags.Read | RegionFlags.Write;
        if (region.File is null || _client.MaxMessageFds == 0)
        {
            length = PutReply(reply);
            return Errno.None;
        }
        IReadOnlyList<SparseArea> areas = region.Mappable is { Count: > 0 } some ? some : [new SparseArea(0, region.Size)];
        int full = fixedSize + Unsafe.SizeOf<CapabilityHeader>() + Unsafe.SizeOf<SparseMmapBody>() + areas.Count * Unsafe.SizeOf<SpanBody>();
        reply.ArgSize = (uint)full;
        reply.Flags |= RegionFlags.Mmap;
        if (request.ArgSize < full)
        {
            length = PutReply(reply);
            return Errno.None;
        }
        reply.Flags |= RegionFlags.Caps;
        reply.CapabilityOffset = (uint)fixedSize;
        Span<byte> destination = ReserveReply(full);
        destination = destination[Wire.Put(destination, reply)..];
        destination = destination[Wire.Put(destination, new CapabilityHeader { Id = CapabilityHeader.SparseMmap, Version = 1 })..];
        destination = destination[Wire.Put(destination, new SparseMmapBody { Count = (uint)areas.Count })..];
        foreach (SparseArea area in areas)
            destination = destination[Wire.Put(destination, new SpanBody { Start = area.Offset, Length = area.Size })..];
        length = full;
        _replyFiles.Add(region.File);
        return Errno.None;
    }

    private Errno RegionRead(ReadOnlySpan<byte> body, out int length)
    {
        length = 0;
        if (!Wire.TryTake(body, out RegionAccessBody request, out _) || !IsInRegion(request, _client.MaxTransfer))
            return Errno.EINVAL;
        int head = Unsafe.SizeOf<RegionAccessBody>();
        Span<byte> reply = ReserveReply(head + (int)request.Count);
        Wire.Put(reply, request);
        if (request.Count != 0)
        {
            reply[head..].Clear(); // a device that fills less must not show what another reply had here
            Errno error = _device.ReadRegion((int)request.Region, request.Offset, reply[head..]);
            if (error != Errno.None)
                return error;
        }
        length = reply.Length;
        return Errno.None;
    }

    private Errno RegionWrite(ReadOnlySpan<byte> body, out int length)
    {
        length = 0;
        if (!Wire.TryTake(body, out RegionAccessBody request, out ReadOnlySpan<byte> data) || !IsInRegion(request, WireLimits.MaxTransfer) || data.Length != request.Count)
            return Errno.EINVAL;
        if (request.Count != 0)
        {
            Errno error = _device.WriteRegion((int)request.Region, request.Offset, data);
            if (error != Errno.None)
                return error;
        }
        length = PutReply(request);
        return Errno.None;
    }

    /// <summary>Many small writes in one message. They are done in order up to the first that is refused.</summary>
    private Errno RegionWriteMulti(ReadOnlySpan<byte> body, out int length)
    {
        length = 0;
        if (!Wire.TryTake(body, out ulong count, out ReadOnlySpan<byte> entries) || (ulong)entries.Length / (ulong)Unsafe.SizeOf<MultiWriteBody>() != count
            || (ulong)entries.Length % (ulong)Unsafe.SizeOf<MultiWriteBody>() != 0)
        {
            return Errno.EINVAL;
        }
        ulong done = 0;
        for (; done < count; done++)
        {
            Wire.TryTake(entries, out MultiWriteBody write, out entries);
            var access = new RegionAccessBody { Offset = write.Offset, Region = write.Region, Count = write.Count };
            Errno error = write.Count > sizeof(ulong) || !IsInRegion(access, WireLimits.MaxTransfer) ? Errno.EINVAL : Errno.None;
            if (error == Errno.None && write.Count != 0)
            {
                ReadOnlySpan<byte> data = MemoryMarshal.AsBytes(new ReadOnlySpan<ulong>(in write.Data))[..(int)write.Count];
                error = _device.WriteRegion((int)write.Region, write.Offset, data);
            }
            if (error != Errno.None)
                return error;
        }
        length = PutReply(done);
        return Errno.None;
    }

    private bool IsInRegion(RegionAccessBody access, int maxCount) =>
        access.Count <= (uint)Math.Min(maxCount, WireLimits.MaxTransfer)
        && access.Region < (uint)_regionCount
        && _description.Regions.TryGetValue((int)access.Region, out DeviceRegion? region)
        && access.Offset <= region.Size
        && access.Count <= region.Size - access.Offset;
}
