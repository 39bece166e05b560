using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <content>DEVICE_GET_REGION_INFO with its capability chain.</content>
public sealed partial class VfioUserClient
{
    /// <summary>DEVICE_GET_REGION_INFO, with capabilities and file. The caller owns the file.</summary>
    public RegionInfo GetRegionInfo(int index)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(index);
        int bodySize = Unsafe.SizeOf<RegionInfoBody>();
        byte[] capabilities = [];
        var files = new List<FileDescriptor>();
        try
        {
            // The first answer tells how long the full one is; the second question asks for that. A device cannot make this loop longer.
            RegionInfoBody info = AskRegionInfo(index, bodySize, [], files, out int length);
            if (info.ArgSize > bodySize)
            {
                if (info.ArgSize > WireLimits.MaxRegionInfo)
                    _connection.Violated($"region {index} has {info.ArgSize} bytes of information; the limit is {WireLimits.MaxRegionInfo}");
                DisposeAll(files);
                capabilities = new byte[info.ArgSize - bodySize];
                info = AskRegionInfo(index, bodySize + capabilities.Length, capabilities, files, out length);
                capabilities = capabilities[..(length - bodySize)];
            }
            bool mappable = (info.Flags & RegionFlags.Mmap) != 0 && files.Count != 0 && info.Size != 0;
            List<SparseArea> areas = !mappable
                ? []
                : (info.Flags & RegionFlags.Caps) == 0 ? [new SparseArea(0, info.Size)] : ReadAreas(index, info, capabilities);
            RegionInfo result = new(
                index,
                info.Size,
                (info.Flags & RegionFlags.Read) != 0,
                (info.Flags & RegionFlags.Write) != 0,
                info.FileOffset,
                areas,
                mappable ? files[0] : null);
            if (mappable)
                files.RemoveAt(0);
            return result;
        }
        finally
        {
            DisposeAll(files);
        }
    }

    private static void DisposeAll(List<FileDescriptor> files)
    {
        foreach (FileDescriptor file in files)
            file.Dispose();
        files.Clear();
    }

    private RegionInfoBody AskRegionInfo(int index, int argSize, Span<byte> capabilities, List<FileDescriptor> files, out int length)
    {
        var request = new RegionInfoBody { ArgSize = (uint)argSize, Index = (uint)index };
        RegionInfoBody reply = default;
        length = _connection.Call(
            Command.DeviceGetRegionInfo,
            "DEVICE_GET_REGION_INFO",
            Bytes(in request),
            [],
            [],
            MemoryMarshal.AsBytes(new Span<RegionInfoBody>(ref reply)),
            capabilities,
            files);
        if (length < Unsafe.SizeOf<RegionInfoBody>())
            _connection.Violated($"DEVICE_GET_REGION_INFO was answered with {length} bytes; {Unsafe.SizeOf<RegionInfoBody>()} are the least");
        return reply;
    }

    /// <summary>Walks the capability chain for the sparse areas; without one, all of the region may be mapped.</summary>
    private List<SparseArea> ReadAreas(int index, RegionInfoBody info, ReadOnlySpan<byte> capabilities)
    {
        uint bodySize = (uint)Unsafe.SizeOf<RegionInfoBody>();
        uint offset = info.CapabilityOffset;
        for (int i = 0; i < WireLimits.MaxCapabilities && offset != 0; i++)
        {
            if (offset < bodySize || offset - bodySize > (uint)capabilities.Length
                || !Wire.TryTake(capabilities[(int)(offset - bodySize)..], out CapabilityHeader head, out ReadOnlySpan<byte> rest))
            {
                _connection.Violated($"region {index} has a capability at {offset}, outside of the {bodySize + capabilities.Length} bytes of the answer");
                break;
            }
            if (head is { Id: CapabilityHeader.SparseMmap, Version: 1 })
                return ReadSparseAreas(index, info.Size, rest);
            offset = head.Next;
        }
        if (offset != 0)
            _connection.Violated($"region {index} has more than {WireLimits.MaxCapabilities} capabilities");
        return [new SparseArea(0, info.Size)];
    }

    private List<SparseArea> ReadSparseAreas(int index, ulong regionSize, ReadOnlySpan<byte> source)
    {
        if (!Wire.TryTake(source, out SparseMmapBody sparse, out source) || sparse.Count > (uint)(source.Length / Unsafe.SizeOf<SpanBody>()))
            _connection.Violated($"region {index} has {sparse.Count} mappable areas, more than its answer has room for");
        var areas = new List<SparseArea>((int)sparse.Count);
        for (uint i = 0; i < sparse.Count; i++)
        {
            Wire.TryTake(source, out SpanBody area, out source);
            if (area.Start > regionSize || area.Length > regionSize - area.Start)
                _connection.Violated($"region {index} of {regionSize} bytes has a mappable area of {area.Length} bytes at {area.Start}");
            if (area.Length != 0)
                areas.Add(new SparseArea(area.Start, area.Length));
        }
        return areas;
    }
}
