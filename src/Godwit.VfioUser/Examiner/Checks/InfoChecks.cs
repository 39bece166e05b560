using System.Runtime.CompilerServices;
using Godwit.Interop.Linux;

namespace Godwit.VfioUser;

/// <summary>What the device says it has (specification, DEVICE_GET_INFO, _REGION_INFO, _REGION_IO_FDS).</summary>
internal static class InfoChecks
{
    public static IReadOnlyList<Check> All { get; } =
    [
        new("info.answer", "a PCI device with 9 to 100 regions and 5 to 50 interrupt indices, as clients of PCI devices need", static e =>
        {
            DeviceInfoBody info = e.Info();
            Examination.Require((info.Flags & DeviceFlags.Pci) != 0, $"flags 0x{(uint)info.Flags:x} do not say PCI");
            Examination.Require(info.Regions is >= PciRegion.Count and <= WireLimits.MaxRegions, $"{info.Regions} regions");
            Examination.Require(info.Irqs is >= PciIrq.Count and <= WireLimits.MaxIrqs, $"{info.Irqs} interrupt indices");
        }),
        new("info.argsz", "an argsz smaller than the structure is refused", static e =>
        {
            e.Refused(Command.DeviceGetInfo, "DEVICE_GET_INFO with argsz 15", ExaminerPeer.Bytes(new DeviceInfoBody { ArgSize = 15 }));
            e.Refused(Command.DeviceGetRegionInfo, "DEVICE_GET_REGION_INFO with argsz 31", ExaminerPeer.Bytes(new RegionInfoBody { ArgSize = 31 }));
            e.Refused(Command.DeviceGetIrqInfo, "DEVICE_GET_IRQ_INFO with argsz 15", ExaminerPeer.Bytes(new IrqInfoBody { ArgSize = 15 }));
        }),
        new("info.regions", "every region answers with its index; BARs are powers of two, configuration space has 256 or 4096 bytes", static e =>
        {
            uint count = e.Info().Regions;
            for (int i = 0; i < (int)count; i++)
            {
                RegionInfoBody region = e.Region(i);
                Examination.Require(region.Index == i, $"region {i} says it is {region.Index}");
                Examination.Require(i > PciRegion.Bar5 || region.Size == 0 || ulong.IsPow2(region.Size), $"BAR {i} has 0x{region.Size:x} bytes");
                Examination.Require(region.Size == 0 || (region.Flags & (RegionFlags.Read | RegionFlags.Write)) != 0, $"region {i} has 0x{region.Size:x} bytes that can be neither read nor written");
            }
            ulong config = e.Region(PciRegion.Config).Size;
            Examination.Require(config is 256 or 4096, $"configuration space has {config} bytes");
        }),
        new("info.region-bounds", "a region beyond the last is refused", static e =>
        {
            uint count = e.Info().Regions;
            e.Refused(Command.DeviceGetRegionInfo, $"region {count} of {count}", ExaminerPeer.Bytes(new RegionInfoBody { ArgSize = 32, Index = count }));
            e.Refused(Command.DeviceGetRegionInfo, "region 4294967295", ExaminerPeer.Bytes(new RegionInfoBody { ArgSize = 32, Index = uint.MaxValue }));
        }),
        new("info.mappable", "a mappable region tells the room its capabilities need, then gives them, with a descriptor and pieces inside the region", Mappable),
        new("info.io-fds", "DEVICE_GET_REGION_IO_FDS answers with a list whose entries lie in the region and name descriptors that came", IoFds),
    ];

    private static void Mappable(Examination e)
    {
        bool any = false;
        for (int i = 0; i < (int)e.Info().Regions; i++)
        {
            RegionInfoBody shortInfo = e.Region(i);
            if ((shortInfo.Flags & RegionFlags.Mmap) == 0)
                continue;
            any = true;
            Examination.Require(shortInfo.ArgSize is >= 32 and <= WireLimits.MaxRegionInfo, $"region {i} wants room for {shortInfo.ArgSize} bytes");
            using ExaminerReply reply = e.Peer.Call(
                Command.DeviceGetRegionInfo, ExaminerPeer.Bytes(new RegionInfoBody { ArgSize = shortInfo.ArgSize, Index = (uint)i }));
            Examination.Require(reply.Error == Errno.None && Wire.TryTake(reply.Body, out RegionInfoBody _, out _), $"region {i} with all the room it wants: {reply.Error}");
            Wire.TryTake(reply.Body, out RegionInfoBody info, out _);
            Examination.Require(reply.Files.Length == 1, $"region {i} says it can be mapped and comes with {reply.Files.Length} descriptors");
            if ((info.Flags & RegionFlags.Caps) == 0)
                continue;
            uint at = info.CapabilityOffset;
            for (int n = 0; at != 0; n++)
            {
                Examination.Require(n < WireLimits.MaxCapabilities, $"the capabilities of region {i} do not end");
                Examination.Require(at >= 32 && at <= reply.Body.Length - Unsafe.SizeOf<CapabilityHeader>(), $"region {i} has a capability at {at}, outside of its {reply.Body.Length} bytes");
                Wire.TryTake(reply.Body.AsSpan((int)at), out CapabilityHeader head, out ReadOnlySpan<byte> rest);
                if (head.Id == CapabilityHeader.SparseMmap)
                    SparseAreas(i, info.Size, rest);
                Examination.Require(head.Next == 0 || head.Next > at, $"region {i} has a capability at {at} that points back to {head.Next}");
                at = head.Next;
            }
        }
        if (!any)
            throw Examination.Absent("no region can be mapped");
    }

    private static void SparseAreas(int region, ulong size, ReadOnlySpan<byte> body)
    {
        Examination.Require(Wire.TryTake(body, out SparseMmapBody sparse, out body) && sparse.Count <= (uint)(body.Length / Unsafe.SizeOf<SpanBody>()), $"region {region} has more mappable pieces than its answer has room for");
        for (uint i = 0; i < sparse.Count; i++)
        {
            Wire.TryTake(body, out SpanBody area, out body);
            Examination.Require(
                area.Start <= size && area.Length <= size - area.Start && ((area.Start | area.Length) & (WireLimits.PageSize - 1)) == 0,
                $"region {region} of 0x{size:x} bytes has a mappable piece of 0x{area.Length:x} at 0x{area.Start:x}; pieces are pages inside of it");
        }
    }

    private static void IoFds(Examination e)
    {
        bool any = false;
        for (int i = 0; i < (int)e.Info().Regions; i++)
        {
            ulong size = e.Region(i).Size;
            if (size == 0)
                continue;
            using ExaminerReply reply = e.Peer.Call(Command.DeviceGetRegionIoFds, ExaminerPeer.Bytes(new RegionIoFdsBody { ArgSize = WireLimits.MaxIoFds, Index = (uint)i }));
            if (reply.Error != Errno.None)
                continue;
            Examination.Require(Wire.TryTake(reply.Body, out RegionIoFdsBody head, out ReadOnlySpan<byte> rest), $"region {i} answers with {reply.Body.Length} bytes");
            if (head.Count == 0)
                continue;
            any = true;
            int entry = rest.Length / (int)Math.Min(head.Count, 10000);
            Examination.Require(entry is 40 or 48 && rest.Length == entry * (int)head.Count, $"region {i} has {head.Count} entries in {rest.Length} bytes; entries have 40 or, with shadow memory, 48");
            for (; !rest.IsEmpty; rest = rest[entry..])
            {
                Wire.TryTake(rest, out SpanBody place, out ReadOnlySpan<byte> more);
                Wire.TryTake(more, out uint file, out _);
                Examination.Require(place.Start <= size && place.Length <= size - place.Start, $"region {i} of 0x{size:x} bytes has an entry for 0x{place.Length:x} at 0x{place.Start:x}");
                Examination.Require(file == uint.MaxValue || file < reply.Files.Length, $"region {i} has an entry with descriptor {file} of {reply.Files.Length}");
            }
        }
        if (!any)
            throw Examination.Absent("no region is served by descriptors");
    }
}
